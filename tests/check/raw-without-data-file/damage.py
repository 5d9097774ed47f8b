# SPDX-License-Identifier: MIT
"""A header that calls the external data file raw, and has none; qemu-img opens no such image."""
FOUND = {"raw-without-data-file": 1}
ZEROS = []


def damage(p):
    p.flip(88, 2)
