# SPDX-License-Identifier: MIT
"""A bitmap directory with an entry that makes no sense; qemu-img opens no such image."""
IMAGE = {"extras": True}
FOUND = {"leak": 3, "bitmaps-bad": 1}
ZEROS = []


def damage(p):
    p.word(p.built.where["bitmaps"], 0x123)
