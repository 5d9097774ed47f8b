# SPDX-License-Identifier: MIT
"""All counts are gone."""
FOUND = {"refcount-zero": 12, "l1-copied": 2, "l2-copied": 5}
ZEROS = []


def damage(p):
    p.built.patch(p.built.where["refblock"], bytes(p.cs))
