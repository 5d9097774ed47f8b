# SPDX-License-Identifier: MIT
"""The same above a backing file, which would show if the entry became zero."""
IMAGE = {"backing_name": "base", "backing_format": "raw"}
FOUND = {"l1-unaligned": 1, "leak": 3}
LEFT = {"l1-unaligned": 1, "leak": 3}
WHY = "the backing file would show through, as if it were the disk"


def damage(p):
    p.flip(p.l1(1), 0x200)
