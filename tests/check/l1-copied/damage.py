# SPDX-License-Identifier: MIT
"""A lone L2 table that is called shared."""
from lib.qcow2img import COPIED

FOUND = {"l1-copied": 1}
ZEROS = []


def damage(p):
    p.flip(p.l1(0), COPIED)
