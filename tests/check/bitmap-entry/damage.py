# SPDX-License-Identifier: MIT
"""An entry of a bitmap's table with reserved bits; qemu-img opens no such image."""
IMAGE = {"extras": True}
FOUND = {"leak": 1, "bitmap-entry": 1}
ZEROS = []


def damage(p):
    p.word(p.image.bitmaps[0].table, p.get(p.image.bitmaps[0].table) | 2)
