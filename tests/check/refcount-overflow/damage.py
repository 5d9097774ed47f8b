# SPDX-License-Identifier: MIT
"""Two owners of a cluster where refcounts have one bit."""
IMAGE = {"refcount_order": 0}
FOUND = {"refcount-overflow": 1, "leak": 1}
LEFT = {"refcount-overflow": 1}
WHY = "a refcount of one bit can't be raised, and which of the two should move isn't known"


def damage(p):
    p.word(p.l2(0), p.get(p.l2(1)))
