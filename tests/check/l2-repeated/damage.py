# SPDX-License-Identifier: MIT
"""An L2 table in two places of the disk, counted as such: the next write takes them apart."""
from lib.qcow2img import COPIED

FOUND = {"leak": 2, "refcount-low": 6, "l1-copied": 2}
NOTES = ["l2-repeated"]


def damage(p):
    l2_off = p.get(p.l1(0)) & ~COPIED
    p.word(p.l1(1), l2_off)
    p.flip(p.l1(0), COPIED)
