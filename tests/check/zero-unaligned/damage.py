# SPDX-License-Identifier: MIT
"""A preallocated zero cluster that isn't at the beginning of a host cluster."""
FOUND = {"zero-unaligned": 1, "leak": 1}
ZEROS = []


def damage(p):
    p.flip(p.l2(3), 0x200)
