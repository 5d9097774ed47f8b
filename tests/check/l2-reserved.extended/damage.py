# SPDX-License-Identifier: MIT
"""The zero flag in an extended entry, where the bitmap says what is zero."""
IMAGE = {"cluster_bits": 14, "extended_l2": True}
FOUND = {"l2-reserved": 1}
ZEROS = []


def damage(p):
    p.flip(p.l2(0), 1)
