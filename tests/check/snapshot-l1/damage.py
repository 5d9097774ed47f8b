# SPDX-License-Identifier: MIT
"""A snapshot whose L1 table isn't at the beginning of a cluster."""
IMAGE = {"extras": True}
FOUND = {"leak": None, "snapshot-l1": 1}
LEFT = {"leak": None, "snapshot-l1": 1}
WHY = "all that the snapshot has would be given up; deleting it is the owner's choice"


def damage(p):
    p.flip(p.built.where["snapshots"], 0x200)
