# SPDX-License-Identifier: MIT
"""A snapshot with more extra data than there can be."""
IMAGE = {"extras": True}
FOUND = {"leak": None, "snapshot-extra": 1}
LEFT = {"leak": None, "snapshot-extra": 1}
WHY = "where the next snapshot begins isn't known"


def damage(p):
    p.built.patch(p.built.where["snapshots"] + 36, (4096).to_bytes(4, "big"))
