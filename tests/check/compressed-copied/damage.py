# SPDX-License-Identifier: MIT
"""A compressed cluster with the COPIED flag."""
from lib.qcow2img import COPIED

FOUND = {"compressed-copied": 1}
ZEROS = []


def damage(p):
    p.flip(p.l2(8), COPIED)
