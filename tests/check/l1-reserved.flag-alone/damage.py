# SPDX-License-Identifier: MIT
"""The COPIED flag of no L2 table: qemu-img's check takes the header for the table."""
from lib.qcow2img import COPIED

FOUND = {"l1-reserved": 1, "leak": 3}
ZEROS = [-1, -2]


def damage(p):
    p.word(p.l1(1), COPIED)
