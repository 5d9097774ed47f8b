# SPDX-License-Identifier: MIT
"""Small valid images with one of everything, to be damaged."""
from lib import forged
from lib.qcow2img import Image


def victim(rng, *, cluster_bits=12, extras=True, **options):
    """Built image and its truth: data, zeros, compressed clusters, two L2 tables, all extras."""
    image = Image((1 << cluster_bits) * (((1 << cluster_bits) // 8) + 20),
                  cluster_bits=cluster_bits, feature_names=cluster_bits > 10, **options)
    last = image.size // image.cs - 1
    for index in (0, 1, 5, last):
        image.normal(index, forged.noise(rng, image.cs))
    if image.version >= 3:
        image.zero(2)
        image.zero_allocated(3, forged.noise(rng, image.cs))
    if not image.data_file:
        for index in (7, 8, 9, 10, 11, last - 1):
            image.compressed(index, forged.squeezable(rng, image.cs))
    if image.extended_l2:
        image.parts(12, forged.states(rng), forged.noise(rng, image.cs))
        image.parts(13, "z." * 16)
    if extras:
        forged.with_extras(rng, image)
    return image
