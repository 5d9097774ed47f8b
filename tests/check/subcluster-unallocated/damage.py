# SPDX-License-Identifier: MIT
"""Subclusters in the file, of a cluster that isn't."""
IMAGE = {"cluster_bits": 14, "extended_l2": True}
FOUND = {"subcluster-unallocated": 1}
ZEROS = [2]


def damage(p):
    p.word(p.l2(2), 0)
    p.word(p.l2(2) + 8, 0xfffffffe << 32 | 1)
