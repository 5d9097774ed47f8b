# SPDX-License-Identifier: MIT
"""A snapshot in version 3 that doesn't say how large the disk was."""
from lib import forged
from lib.victims import victim

FOUND = {"snapshot-incomplete": 1}
ZEROS = []


def make(rng):
    image = victim(rng, extras=False)
    image.snapshot("1", "short one", b"")
    image.normal(5, forged.noise(rng, image.cs))
    return image


def damage(p):
    """The image is made so."""
