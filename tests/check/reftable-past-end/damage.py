# SPDX-License-Identifier: MIT
"""A refcount table that is longer than the file."""
FOUND = {"refcount-zero": 12, "reftable-past-end": 1,
         "reftable-shared": 1, "reftable-reserved": 3, "refblock-shared": 1}
ZEROS = []


def damage(p):
    p.built.patch(56, (64).to_bytes(4, "big"))
