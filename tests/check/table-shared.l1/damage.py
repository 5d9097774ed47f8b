# SPDX-License-Identifier: MIT
"""The L1 table of a snapshot that is the active one's."""
IMAGE = {"extras": True}
FOUND = {"leak": None, "refcount-low": None, "table-shared": 1}


def damage(p):
    p.word(p.built.where["snapshots"], p.built.where["l1"])
