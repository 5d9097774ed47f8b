# SPDX-License-Identifier: MIT
"""A compressed cluster beyond 2^56, where nothing can be."""
IMAGE = {"cluster_bits": 9}
FOUND = {"leak": 1, "compressed-offset": 1}
ZEROS = [8]


def damage(p):
    p.word(p.l2(8), 1 << 62 | 1 << 57)
