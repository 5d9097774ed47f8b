# SPDX-License-Identifier: MIT
"""One refcount block twice."""
FOUND = {"refcount-zero": 12, "refblock-shared": 2}
ZEROS = []


def damage(p):
    p.word(p.reftable(1), p.get(p.reftable(0)))
