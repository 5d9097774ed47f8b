/* SPDX-License-Identifier: MIT */
/* Nothing is taken out of the map: a count that has become small again is looked up no more. */
#include "check/longs.h"

#include <errno.h>

#include "base/alloc.h"
#include "base/num.h"
#include "base/seed.h"

#define SLOTS_MIN 64u

/* The slot that has the key, or the free one where it belongs. */
static struct longs_slot *find_slot(const struct longs *m, uint64_t key)
{
	uint64_t i = seed_hash(m->seed, key) & (m->nslots - 1);

	while (m->slots[i].value != 0 && m->slots[i].key != key)
		i = (i + 1) & (m->nslots - 1);
	return &m->slots[i];
}

static int grow_map(struct longs *m)
{
	struct longs bigger = {
		.nslots = max_u64(SLOTS_MIN, m->nslots * 2),
		.nused = m->nused,
		.seed = m->nslots ? m->seed : seed_random(),
	};

	bigger.slots = mem_zalloc(bigger.nslots, sizeof(*bigger.slots));
	if (!bigger.slots)
		return -ENOMEM;
	for (uint64_t i = 0; i < m->nslots; i++)
		if (m->slots[i].value != 0)
			*find_slot(&bigger, m->slots[i].key) = m->slots[i];
	mem_free(m->slots);
	*m = bigger;
	return 0;
}

uint64_t longs_get(const struct longs *m, uint64_t key)
{
	return m->nslots ? find_slot(m, key)->value : 0;
}

int longs_set(struct longs *m, uint64_t key, uint64_t value)
{
	struct longs_slot *s;

	if (m->nused >= m->nslots / 4 * 3) {
		int ret = grow_map(m);

		if (ret < 0)
			return ret;
	}
	s = find_slot(m, key);
	m->nused += s->value == 0;
	*s = (struct longs_slot){key, value};
	return 0;
}

void longs_release(struct longs *m)
{
	mem_free(m->slots);
	*m = (struct longs){0};
}
