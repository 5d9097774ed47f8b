/* SPDX-License-Identifier: MIT */
/* A map from numbers to numbers that aren't 0: counts too large for where counts usually are. */
#ifndef CHECK_LONGS_H
#define CHECK_LONGS_H

#include <stdint.h>

struct longs_slot {
	uint64_t key;
	uint64_t value; /* 0: the slot is free */
};

struct longs { /* open addressing */
	struct longs_slot *slots;
	uint64_t nslots, nused;
	uint64_t seed; /* once there are slots: an image can't be made to collide */
};

void longs_release(struct longs *m);
/* 0: there is none. */
uint64_t longs_get(const struct longs *m, uint64_t key);
/* value isn't 0. Negative: no memory. */
int longs_set(struct longs *m, uint64_t key, uint64_t value);

#endif
