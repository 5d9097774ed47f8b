# SPDX-License-Identifier: MIT
"""A header that calls its bitmaps valid, and has none; the next write of QEMU marks it corrupt."""
FOUND = {"bitmaps-missing": 1}
ZEROS = []


def damage(p):
    p.flip(88, 1)
