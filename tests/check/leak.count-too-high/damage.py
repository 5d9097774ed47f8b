# SPDX-License-Identifier: MIT
"""A cluster in use, counted more often than it is used."""
FOUND = {"leak": 1}
ZEROS = []


def damage(p):
    p.refcount(p.built.where["l1"], 3)


def places(p):
    return [f"0x{p.built.where['l1']:x}: refcount 3, expected 1"]
