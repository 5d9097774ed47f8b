# SPDX-License-Identifier: MIT
"""An image in which somebody has met damage."""
FOUND = {}
NOTES = ["corrupt"]
ZEROS = []


def damage(p):
    p.flip(72, 2)
