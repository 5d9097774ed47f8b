# SPDX-License-Identifier: MIT
"""A raw external data file above a backing file: one of the two isn't the disk."""
IMAGE = {"data_file": True, "backing_name": "base", "backing_format": "raw"}
FOUND = {}
NOTES = ["raw-with-backing"]


def damage(p):
    p.flip(88, 2)
