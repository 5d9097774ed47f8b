# SPDX-License-Identifier: MIT
"""No refcount block at all: a repair of leaks alone has nothing to write to."""
WITH_LEAKS = True
FOUND = {"refcount-zero": 11, "l1-copied": 2, "l2-copied": 5}
ZEROS = []


def damage(p):
    p.word(p.reftable(0), 0)
