# SPDX-License-Identifier: MIT
"""An L2 table that is the data of a guest cluster too."""
FOUND = {"leak": 1, "refcount-low": 1, "l2-shared": 1}


def damage(p):
    p.word(p.l2(0), p.get(p.l1(1)))
