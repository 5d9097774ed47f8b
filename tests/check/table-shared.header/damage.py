# SPDX-License-Identifier: MIT
"""The header as the data of a guest cluster."""
FOUND = {"leak": 1, "refcount-low": 1, "table-shared": 1}


def damage(p):
    p.word(p.l2(1), p.get(p.l2(8)) & 0 | 1 << 62)
