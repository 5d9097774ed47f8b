# SPDX-License-Identifier: MIT
"""A snapshot although the data are in a file of their own, which has one state only."""
import struct

IMAGE = {"data_file": True}
FOUND = {"snapshots-data-file": 1}
LEFT = {"snapshots-data-file": 1}
WHY = "the snapshot may be all that is left of something; deleting it is the owner's choice"


def damage(p):
    table = p.append()
    p.refcount(table, 1)
    l1 = p.append()
    p.refcount(l1, 1)
    p.built.patch(l1, bytes(p.cs))
    p.built.patch(table, struct.pack(">QIHHIIQII", l1, 2, 1, 1, 0, 0, 0, 0, 16)
                  + struct.pack(">QQ", 0, p.image.size) + b"1s")
    p.built.patch(60, struct.pack(">IQ", 1, table))
