# SPDX-License-Identifier: MIT
"""Data past the end of the file, as of one that was cut off: they read as zeros."""
from lib.qcow2img import COPIED

FOUND = {"data-past-end": 1, "l2-copied": 1, "leak": 1}
ZEROS = [1]


def damage(p):
    p.word(p.l2(1), COPIED | 1 << 40)


def places(p):
    return ["at 0x10000000000, guest offset"]
