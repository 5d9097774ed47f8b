# SPDX-License-Identifier: MIT
"""A host cluster that several compressed clusters share, counted once."""
FOUND = {"refcount-low": 1}
ZEROS = []


def damage(p):
    off = next(i for i in range(p.built.file.size // p.cs) if p.refcount(i * p.cs) > 2) * p.cs
    p.refcount(off, 1)


def places(p):
    return ["refcount 1, expected "]
