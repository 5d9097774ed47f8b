# SPDX-License-Identifier: MIT
"""The L1 table as a refcount block."""
FOUND = {"refcount-zero": 11, "l1-copied": 2, "l2-copied": 5,
         "table-shared": 1, "refblock-shared": 1}
ZEROS = []


def damage(p):
    p.word(p.reftable(0), p.built.where["l1"])
