# SPDX-License-Identifier: MIT
"""An unaligned entry of the refcount table, which qemu-img can't repair."""
FOUND = {"refcount-zero": 11, "l1-copied": 2, "l2-copied": 5, "reftable-unaligned": 1}
ZEROS = []


def damage(p):
    p.flip(p.reftable(0), 0x200)
