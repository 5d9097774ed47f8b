# SPDX-License-Identifier: MIT
"""
Forged images with clusters of every kind are read as they were meant, by us and (which checks the
forger) by the real qemu-img; the real checker finds nothing wrong with them.
"""
import pytest

from lib import codecs, forged, layers
from lib.qcow2img import Image
from lib.reading import qemu_reads_right, reads_right, same_info
from lib.seed import sample

BITS = range(9, 22)


def some_bits(name, count, among=BITS):
    """The smallest, the largest, what everybody has, and so many others."""
    return sorted({among[0], 16, among[-1], *sample(name, among, count)})


def both_read(image, work, check=True):
    path = image.save(forged.path_of(work, "image.qcow2"))
    qemu_reads_right(image, path, work, check)
    reads_right(image, path, work)
    return path


@pytest.mark.parametrize("bits", BITS)
def test_every_cluster_size(bits, work, rng):
    both_read(forged.mixture(rng, cluster_bits=bits, feature_names=bits > 9), work)


@pytest.mark.parametrize("bits", some_bits("sizes with zstd", 4))
def test_every_cluster_size_with_zstd(bits, work, rng):
    both_read(forged.mixture(rng, cluster_bits=bits, compression="zstd", feature_names=bits > 12,
                             packing="across"), work)


@pytest.mark.parametrize("bits", [9, 11, 16, 21])
def test_version_2(bits, work, rng):
    image = forged.mixture(rng, cluster_bits=bits, version=2)
    same_info(both_read(image, work))


@pytest.mark.parametrize("bits", some_bits("sizes with subclusters", 2, range(14, 22)))
def test_subclusters(bits, work, rng):
    compression = rng.choice(["zlib", "zstd"])
    both_read(forged.mixture(rng, cluster_bits=bits, extended_l2=True, compression=compression),
              work)


@pytest.mark.parametrize("order", range(7))
def test_every_refcount_width(order, work, rng):
    image = forged.mixture(rng, cluster_bits=rng.choice([10, 12, 16]), refcount_order=order)
    same_info(both_read(image, work))


@pytest.mark.parametrize("packing", ["tight", "fresh", "across"])
@pytest.mark.parametrize("bits", [9, 12, 16])
def test_compressed_clusters_wherever_they_lie(bits, packing, work, rng):
    image = Image(64 << bits, cluster_bits=bits, packing=packing, feature_names=False)
    for i in range(40):
        image.compressed(i, forged.squeezable(rng, image.cs))
    both_read(image, work)
    borders = [c for c in image.clusters.values() if len(c.references(image.cs)) > 1]
    shared = len({c.host >> bits for c in image.clusters.values()})
    assert packing != "across" or borders
    assert packing != "tight" or shared < 40 or bits == 9


@pytest.mark.parametrize("bits", [9, 12, 16, 21])
@pytest.mark.parametrize("how", ["wide window", "stored", "longer than a cluster", "level 9"])
def test_deflate_streams_of_other_writers(how, bits, work, rng):
    """Longer distances than QEMU writes, stored blocks that make the data longer, and more data."""
    image = Image(4 << bits, cluster_bits=bits, packing="fresh", feature_names=False)
    data = forged.squeezable(rng, image.cs)
    stream = {"wide window": lambda: codecs.deflate(data, 9, 15),
              "stored": lambda: codecs.deflate(data, 0),
              "longer than a cluster": lambda: codecs.deflate(data + data[:100]),
              "level 9": lambda: codecs.deflate(data, 9)}[how]()
    image.compressed(2, data, stream)
    both_read(image, work)


@pytest.mark.parametrize("bits", [9, 12, 16, 21])
@pytest.mark.parametrize("how", ["raw blocks", "no content size", "two frames", "skippable frame",
                                 "rubbish behind", "level 19"])
def test_zstd_frames_of_other_writers(how, bits, work, rng):
    image = Image(4 << bits, cluster_bits=bits, compression="zstd", packing="fresh",
                  feature_names=False)
    data = forged.squeezable(rng, image.cs)
    half = image.cs // 2
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    stream = {"raw blocks": lambda: codecs.zstd_by_hand(data),
              "no content size": lambda: codecs.zstd_by_hand(data, known_size=False),
              "two frames": lambda: codecs.zstd(data[:half]) + codecs.zstd(data[half:]),
              "skippable frame": lambda: skippable + codecs.zstd(data),
              "rubbish behind": lambda: codecs.zstd(data) + b"\x28\xb5\x2f rubbish",
              "level 19": lambda: codecs.zstd(data, 19)}[how]()
    image.compressed(1, data, stream)
    both_read(image, work)


def test_clusters_of_zeros_stay_data(work, rng):
    """A stored or compressed cluster of zeros is data, whatever it holds."""
    image = Image(8 << 16, rng=rng)
    image.normal(1, b"\0")
    image.compressed(2, bytes(image.cs))
    image.compressed(3, b"\0" * (image.cs - 1) + b"x")
    path = image.save(forged.path_of(work, "image.qcow2"))
    reads_right(image, path, work)
    kinds = [e["data"] for e in layers.extents(image)]
    assert kinds == [False, True, True, False]


def test_vm_state_behind_the_disk_is_not_read(work, rng):
    image = Image(3 << 16, l1_size=3, rng=rng)
    image.normal(0, forged.noise(rng, image.cs))
    for index in (image.l2_entries, 2 * image.l2_entries + 7):
        image.normal(index, forged.noise(rng, image.cs))
    both_read(image, work)


def test_file_that_ends_inside_its_last_cluster(work, rng):
    for ends_with in (1, 511, 512, 4097):
        image = forged.mixture(rng, count=4)
        image.last_in_file(1, forged.noise(rng, ends_with))
        both_read(image, work)
