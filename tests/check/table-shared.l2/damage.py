# SPDX-License-Identifier: MIT
"""The L1 table as an L2 table of itself."""
from lib.qcow2img import COPIED

FOUND = {"leak": 3, "refcount-low": 2, "l2-shared": 2, "table-shared": 1}


def damage(p):
    p.word(p.l1(1), p.built.where["l1"] | COPIED)
