/* SPDX-License-Identifier: MIT */
/* Random requests by one thread, one after the other. */
#include <inttypes.h>
#include <stdlib.h>

#include "model/model.h"

int model_alone(struct world *w, uint64_t seed, uint64_t nops)
{
	struct history shots;
	struct run r = {.w = w, .rng = seed, .tag = seed << 20, .history = &shots};
	int ret;

	history_init(&shots, NULL, 1);
	shots.only_shots = true;
	w->file.garbage = rnd_below(&r.rng, 2);
	w->data.garbage = w->file.garbage && w->c.data != DATA_FILE_RAW;
	r.how = random_how(&w->c, &r.rng);
	ret = run_open(&r);
	for (uint64_t i = 0; ret == 0 && i < nops; i++) {
		ret = random_step(&r);
		if (ret < 0)
			complain("that was request %" PRIu64, i);
	}
	if (ret == 0)
		ret = world_compare(w, r.image, "at the end");
	if (r.image && ret < 0)
		qcow2_close(r.image);
	else if (ret == 0)
		ret = run_close(&r);
	if (ret == 0)
		ret = run_check_shots(&shots, w, SIZE_MAX, "at the end");
	history_release(&shots);
	return ret < 0 ? -1 : 0;
}
