# SPDX-License-Identifier: MIT
"""A refcount table that isn't at the beginning of a cluster."""
FOUND = {"refcount-zero": 10, "l1-copied": 2, "l2-copied": 5, "reftable-place": 1}
ZEROS = []


def damage(p):
    p.word(48, p.built.where["reftable"] + 512)
