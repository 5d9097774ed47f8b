# SPDX-License-Identifier: MIT
"""A cluster of the data file that isn't where the guest has it."""
IMAGE = {"data_file": True}
FOUND = {"data-file-offset": 1}
ZEROS = []


def damage(p):
    p.word(p.l2(1), p.get(p.l2(1)) + p.cs)
