# SPDX-License-Identifier: MIT
"""Reserved bits of an L2 entry."""
FOUND = {"l2-reserved": 1}
ZEROS = []


def damage(p):
    p.flip(p.l2(0), 1 << 57)


def places(p):
    return [f"guest offset 0x0: ", f"in the entry at 0x{p.l2(0):x}"]
