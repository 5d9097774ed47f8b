# SPDX-License-Identifier: MIT
"""The table of one bitmap that is the other's too: neither is told apart."""
IMAGE = {"extras": True}
FOUND = {"leak": 1, "refcount-low": 2, "table-shared": 1}
LEFT = {"table-shared": 1}
WHY = "neither table is an L1 table, and a bitmap can be made anew"


def damage(p):
    pos = p.built.where["bitmaps"]
    p.word(pos + 32, p.get(pos))
