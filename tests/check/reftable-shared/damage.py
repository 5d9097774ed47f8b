# SPDX-License-Identifier: MIT
"""The refcount table as the data of a guest cluster."""
FOUND = {"leak": 1, "refcount-low": 1, "l2-copied": 1, "reftable-shared": 1}


def damage(p):
    p.word(p.l2(0), p.built.where["reftable"])
