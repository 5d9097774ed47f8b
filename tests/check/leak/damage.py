# SPDX-License-Identifier: MIT
"""Clusters that are counted and that nothing refers to."""
FOUND = {"leak": 3}
ZEROS = []


def damage(p):
    for _ in range(3):
        p.refcount(p.append(), 1)


def places(p):
    return [f"0x{p.built.file.size - 3 * p.cs:x}, 3 clusters: refcount 1, expected 0"]
