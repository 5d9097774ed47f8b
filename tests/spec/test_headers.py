# SPDX-License-Identifier: MIT
"""Headers of every length, with any extensions and feature bits: what may be ignored is."""
import struct

import pytest

from lib import forged
from lib.qcow2img import Image, pad8
from lib.reading import converts_to, qemu_reads_right, reads_right, same_info, same_map
from lib.run import qemu_img, tool


def small(rng, **options):
    image = Image(options.pop("size", 5 << 16), rng=rng, **options)
    image.normal(0, forged.noise(rng, image.cs))
    image.normal(3, forged.noise(rng, image.cs))
    return image


def both_read(image, work, check=True):
    path = image.save(forged.path_of(work, "image.qcow2"))
    qemu_reads_right(image, path, work, check)
    reads_right(image, path, work)
    same_info(path)
    return path


@pytest.mark.parametrize("length", [104, 105, 107, 111, 112, 113, 120, 128, 200, 4096, 65528])
def test_any_header_length_is_read(length, work, rng):
    both_read(small(rng, header_length=length, feature_names=length < 65000), work)


def test_header_that_fills_its_cluster_has_no_extensions(work, rng):
    both_read(small(rng, header_length=1 << 16, feature_names=False, end_marker=False), work)


def test_a_compression_type_beyond_the_header_length_is_not_read(work, rng):
    image = small(rng, header_length=104, feature_names=False, end_marker=False)
    path = forged.path_of(work, "image.qcow2")
    # The byte at 104 is part of an extension here: its type begins with 1.
    image.extension(0x01aabbcc, b"some data")
    image.build().save(path)
    reads_right(image, path, work)


@pytest.mark.parametrize("version", [2, 3])
def test_unknown_extensions_are_ignored(version, work, rng):
    image = small(rng, version=version)
    for kind in (1, 0x7fffffff, 0xffffffff, 0x51464900):
        image.extension(kind, forged.noise(rng, rng.randrange(70)))
    both_read(image, work)


def test_extensions_may_end_without_a_marker(work, rng):
    image = small(rng, cluster_bits=9, feature_names=False, end_marker=False)
    image.extension(0x13572468, bytes(512 - 112 - 8))
    both_read(image, work)


def test_extensions_end_where_the_backing_name_begins(work, rng):
    base = small(rng)
    base.save(forged.path_of(work, "base.qcow2"))
    image = small(rng, size=9 << 16, backing=base, backing_name="base.qcow2",
                  backing_format="qcow2", end_marker=False)
    both_read(image, work)


def test_a_gap_before_the_backing_name_is_allowed(work, rng):
    base = small(rng)
    base.save(forged.path_of(work, "base.qcow2"))
    image = small(rng, backing=base, backing_name="base.qcow2", backing_format="qcow2",
                  name_gap=rng.randrange(1, 3000))
    both_read(image, work)


def test_the_longest_backing_name(work, rng):
    base = small(rng)
    base.save(forged.path_of(work, "b"))
    name = "./" * 511 + "b"
    assert len(name) == 1023
    image = small(rng, backing=base, backing_name=name, backing_format="qcow2")
    path = image.save(forged.path_of(work, "image.qcow2"))
    qemu_reads_right(image, path, work)
    reads_right(image, path, work)


def test_a_backing_offset_without_a_name_means_no_backing_file(work, rng):
    image = small(rng)
    path = forged.path_of(work, "image.qcow2")
    image.build().patch(8, struct.pack(">QI", 600, 0)).save(path)
    reads_right(image, path, work)
    same_info(path)


def test_a_length_without_a_backing_offset_is_not_looked_at(work, rng):
    image = small(rng)
    path = forged.path_of(work, "image.qcow2")
    image.build().patch(8, struct.pack(">QI", 0, 0xffffffff)).save(path)
    qemu_reads_right(image, path, work)
    reads_right(image, path, work)


def test_flags_that_may_be_ignored_are(work, rng):
    for options in ({"compatible": 1}, {"compatible": 1 << 63 | 2}, {"autoclear": 1 << 40},
                    {"autoclear": 0xfffffffffffffffc, "compatible": (1 << 64) - 1}):
        both_read(small(rng, **options), work)


def test_dirty_and_corrupt_images_can_be_read(work, rng):
    for bits in (1, 2, 3):
        both_read(small(rng, incompatible=bits), work, check=False)


def test_unknown_incompatible_features_are_refused_by_the_name_in_the_image(work, rng):
    image = small(rng, feature_names=False)
    names = [(0, 0, b"dirty bit"), (0, 17, b"seventeen"), (1, 40, b"compatible, not this"),
             (0, 40, b"x" * 46)]
    image.extension(0x6803f857, b"".join(struct.pack(">BB46s", *n) for n in names))
    path = forged.path_of(work, "image.qcow2")
    image.build().patch(72, struct.pack(">Q", 1 << 17 | 1 << 40 | 1 << 50)).save(path)
    for verb in (["info"], ["map"], ["convert", "-O", "raw"]):
        out = [forged.path_of(work, "out.raw")] if verb[0] == "convert" else []
        result = tool(*verb, path, *out).refused("seventeen", "x" * 46)
        assert "compatible, not this" not in result.err
        assert "4000000000000" in result.err, result.describe()
    assert "seventeen" in qemu_img("info", path).err


@pytest.mark.parametrize("version", [0, 1, 4, 0xffffffff])
def test_other_versions_are_refused(version, work, rng):
    path = forged.path_of(work, "image.qcow2")
    small(rng).build().patch(4, struct.pack(">I", version)).save(path)
    tool("info", "-f", "qcow2", path).refused("version")


def test_compression_type_and_its_bit_must_agree(work, rng):
    path = forged.path_of(work, "image.qcow2")
    for bits, kind in ((0, 1), (8, 0), (8, 2), (0, 255)):
        patch = struct.pack(">Q", bits)
        small(rng).build().patch(72, patch).patch(104, bytes([kind])).save(path)
        tool("info", path).refused("compression")
        assert qemu_img("info", path).code == 1


def test_size_is_rounded_down_to_sectors(work, rng):
    image = small(rng, size=5 << 16)
    built = image.build().patch(24, struct.pack(">Q", (5 << 16) - 1))
    path = forged.path_of(work, "image.qcow2")
    built.save(path)
    truth = image.truth()
    truth.truncate((5 << 16) - 512)
    converts_to(truth, path, work)
    same_info(path)


def test_a_disk_of_size_zero(work):
    image = Image(0)
    path = image.save(forged.path_of(work, "image.qcow2"))
    truth = image.truth()
    assert truth.size == 0
    converts_to(truth, path, work)
    same_map(path)
    same_info(path)


def test_an_l1_table_longer_than_the_disk_needs(work, rng):
    both_read(small(rng, l1_size=70), work)


def test_padding_of_extensions_may_hold_anything(work, rng):
    image = small(rng, feature_names=False)
    image.extension(0x11223344, b"abc")
    image.extension(0x11223345, b"")
    built = image.build()
    assert built.file.read(112, 32).count(b"abc\0\0\0\0\0") == 1
    at = 112 + built.file.read(112, 32).index(b"abc") + 3
    path = forged.path_of(work, "image.qcow2")
    built.patch(at, b"\xff" * (len(pad8(b"abc")) - 3)).save(path)
    reads_right(image, path, work)
