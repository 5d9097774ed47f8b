# SPDX-License-Identifier: MIT
"""Reserved bits in an entry of the refcount table, with which qemu-img's repair fails."""
FOUND = {"refcount-zero": 11, "l1-copied": 2, "l2-copied": 5, "reftable-reserved": 1}
ZEROS = []


def damage(p):
    p.flip(p.reftable(0), 0x100)
