# SPDX-License-Identifier: MIT
"""The same in version 2 above a backing file, which would show."""
IMAGE = {"version": 2, "backing_name": "base", "backing_format": "raw"}
FOUND = {"data-unaligned": 1, "leak": 1}
LEFT = {"data-unaligned": 1, "leak": 1}
WHY = "version 2 can't say zeros, and the backing file would show"


def damage(p):
    p.flip(p.l2(1), 0x200)
