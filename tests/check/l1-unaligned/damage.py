# SPDX-License-Identifier: MIT
"""An L1 entry that points into the middle of a cluster: its part of the disk can't be read."""
FOUND = {"l1-unaligned": 1, "leak": 3}
ZEROS = [-1, -2]


def damage(p):
    p.flip(p.l1(1), 0x200)


def places(p):
    return [f"guest offset 0x{p.cs * p.cs // 8:x}", f"in the entry at 0x{p.l1(1):x}"]
