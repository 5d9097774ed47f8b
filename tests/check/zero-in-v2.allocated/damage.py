# SPDX-License-Identifier: MIT
"""The same with a host cluster: whether the data or zeros are meant isn't known."""
IMAGE = {"version": 2}
FOUND = {"zero-in-v2": 1}
ZEROS = [1]


def damage(p):
    p.flip(p.l2(1), 1)
