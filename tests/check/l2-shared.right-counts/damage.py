# SPDX-License-Identifier: MIT
"""The same with the refcounts that two references have: only the next write would show it."""
from lib.qcow2img import COPIED

FOUND = {"l2-shared": 1}


def damage(p):
    l2_off = p.get(p.l1(1)) & ~COPIED
    p.word(p.l2(0), l2_off)
    p.refcount(l2_off, 2)
    p.flip(p.l1(1), COPIED)
    p.refcount(p.image.clusters[0].host, 0)
