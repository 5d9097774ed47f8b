# SPDX-License-Identifier: MIT
"""A data cluster that isn't at the beginning of a host cluster: it can't be read."""
FOUND = {"data-unaligned": 1, "leak": 1}
ZEROS = [1]


def damage(p):
    p.flip(p.l2(1), 0x200)


def places(p):
    return [f"guest offset 0x{p.cs:x}"]
