# SPDX-License-Identifier: MIT
"""The same with subclusters."""
IMAGE = {"cluster_bits": 14, "extended_l2": True}
FOUND = {"data-unaligned": 1, "leak": 1}
ZEROS = [1]


def damage(p):
    p.flip(p.l2(1), 0x200)
