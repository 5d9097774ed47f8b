# SPDX-License-Identifier: MIT
"""An L2 table in which a compressed cluster begins."""
from lib.qcow2img import COPIED

FOUND = {"leak": 1, "refcount-low": 1, "l2-shared": 1}


def damage(p):
    p.word(p.l2(8), 1 << 62 | (p.get(p.l1(1)) & ~COPIED))
