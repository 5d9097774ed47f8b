# SPDX-License-Identifier: MIT
"""An L2 table past the end of the file: it reads as one with nothing in it."""
from lib.qcow2img import COPIED

FOUND = {"l2-past-end": 1, "l1-copied": 1, "leak": 3}
ZEROS = [-1, -2]


def damage(p):
    p.word(p.l1(1), COPIED | 1 << 40)
