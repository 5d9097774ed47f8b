# SPDX-License-Identifier: MIT
"""Two guest clusters in one host cluster, each its only owner: a write to one changes both."""
FOUND = {"l2-copied": 2}


def damage(p):
    p.word(p.l2(0), p.get(p.l2(1)))
    p.refcount(p.image.clusters[1].host, 2)
    p.refcount(p.image.clusters[0].host, 0)
