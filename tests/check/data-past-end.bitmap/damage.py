# SPDX-License-Identifier: MIT
"""The data of a bitmap past the end of the file."""
IMAGE = {"extras": True}
FOUND = {"data-past-end": 1, "leak": 1}
ZEROS = []


def damage(p):
    table = p.image.bitmaps[0].table
    p.word(table, 1 << 40)
