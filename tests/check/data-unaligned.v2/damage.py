# SPDX-License-Identifier: MIT
"""The same in version 2, which has no zero clusters: without a backing file nothing is needed."""
IMAGE = {"version": 2}
FOUND = {"data-unaligned": 1, "leak": 1}
ZEROS = [1]


def damage(p):
    p.flip(p.l2(1), 0x200)
