# SPDX-License-Identifier: MIT
"""The L1 table as the data of a guest cluster."""
from lib.qcow2img import COPIED

FOUND = {"leak": 1, "refcount-low": 1, "table-shared": 1}


def damage(p):
    p.word(p.l2(0), p.built.where["l1"] | COPIED)
