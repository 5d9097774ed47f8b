# SPDX-License-Identifier: MIT
"""An L2 table for two places of the disk, whose data can't be right for both."""
from lib.qcow2img import COPIED

IMAGE = {"data_file": True}
FOUND = {"leak": 1, "data-file-offset": 1}
LEFT = {"data-file-offset": 1}
WHY = "for one of the two places the offsets are right, and which isn't known"


def damage(p):
    p.word(p.l1(0), p.get(p.l1(1)) & ~COPIED)
    p.refcount(p.get(p.l1(1)) & ~COPIED, 2)
    p.flip(p.l1(1), COPIED)
