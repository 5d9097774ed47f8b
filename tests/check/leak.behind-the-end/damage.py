# SPDX-License-Identifier: MIT
"""A count for a cluster behind the end of the file, which qemu-img never looks at."""
FOUND = {"leak": 1}
ZEROS = []


def damage(p):
    p.refcount(p.built.file.size + 5 * p.cs, 1)
