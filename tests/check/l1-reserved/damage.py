# SPDX-License-Identifier: MIT
"""Reserved bits of an L1 entry."""
FOUND = {"l1-reserved": 1}
ZEROS = []


def damage(p):
    p.flip(p.l1(0), 1 << 60)


def places(p):
    return [f"in the entry at 0x{p.l1(0):x}"]
