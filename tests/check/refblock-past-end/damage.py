# SPDX-License-Identifier: MIT
"""A refcount block past the end of the file."""
FOUND = {"refcount-zero": 11, "l1-copied": 2, "l2-copied": 5, "refblock-past-end": 1}
ZEROS = []


def damage(p):
    p.word(p.reftable(0), 1 << 40)
