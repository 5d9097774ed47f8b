# SPDX-License-Identifier: MIT
"""A lone cluster that is called shared: each write to it costs a copy."""
from lib.qcow2img import COPIED

FOUND = {"l2-copied": 1}
ZEROS = []


def damage(p):
    p.flip(p.l2(0), COPIED)
