# SPDX-License-Identifier: MIT
"""A snapshot table that isn't at the beginning of a cluster."""
IMAGE = {"extras": True}
FOUND = {"leak": None, "snapshot-table": 1}
LEFT = {"leak": None, "snapshot-table": 1}
WHY = "where the snapshots are isn't known"


def damage(p):
    p.word(64, p.built.where["snapshots"] + 8)
