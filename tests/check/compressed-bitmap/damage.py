# SPDX-License-Identifier: MIT
"""A compressed cluster with a subcluster bitmap."""
IMAGE = {"cluster_bits": 14, "extended_l2": True}
FOUND = {"compressed-bitmap": 1}
ZEROS = []


def damage(p):
    p.word(p.l2(8) + 8, 5)
