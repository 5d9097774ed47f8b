# SPDX-License-Identifier: MIT
"""A subcluster that is in the file and zero at the same time."""
IMAGE = {"cluster_bits": 14, "extended_l2": True}
FOUND = {"subcluster-both": 1}


def damage(p):
    p.word(p.l2(0) + 8, 1 << 32 | 0xffffffff)
