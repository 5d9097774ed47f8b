# SPDX-License-Identifier: MIT
"""Ready descriptions of forged images: the mixtures that the tests of reading are made of."""
import os
import struct

from lib import codecs
from lib.qcow2img import Image


def noise(rng, length):
    return rng.randbytes(length)


def squeezable(rng, cs):
    """A cluster's worth of data that deflate and zstd make smaller, never a page of zeros."""
    words = [rng.randbytes(rng.randrange(3, 24)) for _ in range(12)]
    out = bytearray()
    while len(out) < cs:
        out += rng.choice(words)
    return bytes(out[:cs])


def states(rng, letters="dz."):
    """32 subcluster states in runs, as real ones come; at least one of them data."""
    out = ""
    while len(out) < 32:
        out += rng.choice(letters) * rng.randrange(1, 9)
    at = rng.randrange(32)
    return out[:at] + "d" + out[at + 1:32]


def streams(rng, image, data):
    """The compressed forms that a reader has to know, one of them."""
    if image.compression == "zlib":
        kinds = [lambda: codecs.deflate(data, 9), lambda: codecs.deflate(data, 1, 9),
                 lambda: codecs.deflate(data) + noise(rng, 40)]  # bytes behind the end
        return rng.choice(kinds)()
    half = len(data) // 2
    kinds = [lambda: codecs.zstd(data), lambda: codecs.zstd(data, 19),
             lambda: codecs.zstd(data[:half]) + codecs.zstd(data[half:])]  # two frames
    return rng.choice(kinds)()


def fill(rng, image, indexes):
    """Clusters of every kind that the image's version and features allow."""
    kinds = ["normal", "unallocated"]
    if image.version >= 3:
        kinds += ["zero", "zero_allocated"]
    if not image.data_file:
        kinds += ["compressed", "packed"]
    if image.extended_l2:
        kinds += ["parts", "parts", "holes"]
    for n, index in enumerate(indexes):
        kind = kinds[n % len(kinds)] if n < 2 * len(kinds) else rng.choice(kinds)
        if kind == "normal":
            image.normal(index, noise(rng, image.cs))
        elif kind == "unallocated":
            image.unallocated(index)
        elif kind == "zero":
            image.zero(index)
        elif kind == "zero_allocated":
            image.zero_allocated(index, noise(rng, image.cs))
        elif kind == "compressed":
            image.compressed(index, squeezable(rng, image.cs))
        elif kind == "packed":
            data = squeezable(rng, image.cs)
            stream = streams(rng, image, data)
            room = image.cs if image.cs > 512 else 500
            image.compressed(index, data, stream if len(stream) < room else None)
        elif kind == "parts":
            image.parts(index, states(rng), noise(rng, image.cs))
        else:
            image.parts(index, states(rng, "z.").replace("d", "."))
    return image


def l2_span(image):
    """How many guest clusters one L2 table maps."""
    return image.l2_entries


def spread(rng, image, count):
    """Cluster numbers at the ends of the disk and of L2 tables, and some between."""
    last = (image.size - 1) // image.cs
    edges = {0, 1, 2, last, max(0, last - 1), l2_span(image) - 1, l2_span(image)}
    run = rng.randrange(max(1, last - count))
    chosen = {i for i in edges if i <= last} | set(range(run, min(last + 1, run + count)))
    return sorted(chosen)


def sizes(rng, cluster_bits, extended_l2=False):
    """A size with an odd end; of two L2 tables where that costs little."""
    cs = 1 << cluster_bits
    table = cs // (16 if extended_l2 else 8)
    clusters = table + 40 if cluster_bits <= 14 else 60
    return clusters * cs - 512 * rng.randrange(1, max(2, cs // 512))


def mixture(rng, *, cluster_bits=16, count=None, **options):
    """One image with everything in it."""
    extended = options.get("extended_l2", False)
    size = options.pop("size", None) or sizes(rng, cluster_bits, extended)
    image = Image(size, cluster_bits=cluster_bits, rng=rng, **options)
    if count is None:
        count = 40 if cluster_bits <= 16 else 14 if cluster_bits <= 19 else 9
    return fill(rng, image, spread(rng, image, count))


def with_extras(rng, image):
    """Snapshots with extra data, unknown extensions and, in version 3, bitmaps."""
    image.extension(0x12345678, noise(rng, rng.randrange(30)))
    image.extension(0x7f7f7f7f, b"")
    if not image.data_file and image.refcount_order >= 2:
        image.snapshot("1", "first")
        fill(rng, image, spread(rng, image, 6))
        extra = struct.pack(">QQQ", 0, image.size, 77) + noise(rng, 13)
        image.snapshot("22", "second of them", extra)
        fill(rng, image, spread(rng, image, 6))
    if image.version >= 3:
        bits = -(-image.size // 65536)
        image.bitmap("b0", 16, ones=rng.sample(range(bits), min(5, bits)))
        image.bitmap("empty", 20, flags=2)
    return image


def path_of(work, name):
    return os.path.join(str(work), name)
