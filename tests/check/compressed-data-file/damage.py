# SPDX-License-Identifier: MIT
"""A compressed cluster although the data are in a file of their own."""
IMAGE = {"data_file": True}
FOUND = {"compressed-data-file": 1}
ZEROS = [1]


def damage(p):
    p.word(p.l2(1), 1 << 62 | 3 * p.cs)
