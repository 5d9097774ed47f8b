# SPDX-License-Identifier: MIT
"""Compressed data past the end of the file."""
FOUND = {"leak": 1, "data-past-end": 1}
ZEROS = [8]


def damage(p):
    p.word(p.l2(8), 1 << 62 | 1 << 40)
