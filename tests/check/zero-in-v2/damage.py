# SPDX-License-Identifier: MIT
"""The zero flag in version 2, where it has no meaning."""
IMAGE = {"version": 2}
FOUND = {"zero-in-v2": 1}
ZEROS = []


def damage(p):
    p.word(p.l2(0) + 8 * 30, 1)
