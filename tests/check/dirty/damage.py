# SPDX-License-Identifier: MIT
"""An image that wasn't closed."""
FOUND = {}
NOTES = ["dirty"]
ZEROS = []


def damage(p):
    p.flip(72, 1)
