# SPDX-License-Identifier: MIT
"""A data cluster without a count, which the next write may take."""
FOUND = {"refcount-zero": 1, "l2-copied": 1}
ZEROS = []


def damage(p):
    p.refcount(p.image.clusters[0].host, 0)


def places(p):
    return [f"0x{p.image.clusters[0].host:x}: refcount 0, expected 1"]
