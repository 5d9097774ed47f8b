# SPDX-License-Identifier: MIT
"""Forged images that need other files, and snapshots: each layer shows through where it should."""
import itertools
import os
import struct

import pytest

from lib import forged
from lib.layers import RawFile
from lib.qcow2img import Image
from lib.reading import (converts_to, qemu_converts_to, qemu_reads_right, reads_right, same_info,
                         same_map)
from lib.run import tool
from lib.sparse import Sparse

MIB = 1 << 20


def raw_base(rng, work, size):
    disk = Sparse(size)
    for _ in range(6):
        disk.write(rng.randrange(size // 65536) * 65536, forged.noise(rng, 65536))
    disk.truncate(size)
    return RawFile(forged.path_of(work, "base.raw"), disk)


def layer(rng, work, name, size, **options):
    image = Image(size, rng=rng, **options)
    forged.fill(rng, image, forged.spread(rng, image, 12))
    image.save(forged.path_of(work, name))
    return image


def both_read(image, work, **how):
    qemu_reads_right(image, image.path, work, **how)
    reads_right(image, image.path, work, **how)


@pytest.mark.parametrize("base_kind", ["raw", "qcow2"])
@pytest.mark.parametrize("base_size", [3 * MIB, 5 * MIB, 9 * MIB])
def test_backing_files_shorter_equal_and_longer(base_size, base_kind, work, rng):
    if base_kind == "raw":
        base = raw_base(rng, work, base_size)
    else:
        base = layer(rng, work, "base.qcow2", base_size, cluster_bits=rng.choice([12, 16, 18]))
    both_read(layer(rng, work, "top.qcow2", 5 * MIB, cluster_bits=rng.choice([12, 14, 16]),
                    backing=base, backing_format=base_kind), work)


def test_a_backing_file_that_ends_inside_a_cluster(work, rng):
    base = raw_base(rng, work, 3 * MIB + 512 * 77)
    both_read(layer(rng, work, "top.qcow2", 5 * MIB, backing=base, backing_format="raw"), work)


def test_a_raw_backing_file_that_ends_inside_a_sector(work, rng):
    base = raw_base(rng, work, 2 * MIB)
    with open(base.path, "ab") as f:
        f.write(b"odd tail")
    base = RawFile(base.path)
    top = layer(rng, work, "top.qcow2", 4 * MIB, backing=base, backing_format="raw")
    qemu_converts_to(top.truth(), top.path, work)
    converts_to(top.truth(), top.path, work)


def test_subclusters_over_a_backing_file(work, rng):
    for bits in (14, 16, 21):
        base = raw_base(rng, work, 4 * MIB)
        both_read(layer(rng, work, f"top{bits}.qcow2", 6 * MIB, cluster_bits=bits,
                        extended_l2=True, backing=base, backing_format="raw"), work)


def test_a_chain_of_many_kinds(work, rng):
    below = raw_base(rng, work, 4 * MIB)
    kinds = [{"version": 2}, {"extended_l2": True, "cluster_bits": 14}, {"compression": "zstd"},
             {"cluster_bits": 9, "feature_names": False}, {"cluster_bits": 21},
             {"refcount_order": 0}]
    for n, options in enumerate(kinds):
        fmt = "raw" if n == 0 else "qcow2"
        size = rng.choice([3, 4, 6]) * MIB - 512 * rng.randrange(100)
        below = layer(rng, work, f"layer{n}.qcow2", size, backing=below, backing_format=fmt,
                      **options)
    both_read(below, work)
    same_map(below.path)
    same_info(below.path, "--backing-chain")


def test_a_deep_chain_is_read(work, rng):
    below = layer(rng, work, "layer0.qcow2", 2 * MIB)
    for n in range(1, 60):
        image = Image(2 * MIB, rng=rng, backing=below, backing_name=f"layer{n - 1}.qcow2",
                      backing_format="qcow2")
        image.normal(n % 32, forged.noise(rng, image.cs))
        image.save(forged.path_of(work, f"layer{n}.qcow2"))
        below = image
    reads_right(below, below.path, work)


def test_names_are_relative_to_the_overlay(work, rng):
    for folder in ("a", "a/b", "c"):
        os.mkdir(work / folder)
    base = layer(rng, work, "c/base.qcow2", 2 * MIB)
    middle = layer(rng, work, "a/b/middle.qcow2", 2 * MIB, backing=base,
                   backing_name="../../c/base.qcow2", backing_format="qcow2")
    top = layer(rng, work, "a/top.qcow2", 2 * MIB, backing=middle, backing_name="b/middle.qcow2",
                backing_format="qcow2")
    both_read(top, work)
    top.path = "top.qcow2"
    both_read(top, work, cwd=work / "a")
    same_info("top.qcow2", "--backing-chain", cwd=work / "a")


def test_a_name_with_a_colon_after_a_slash_is_a_file(work, rng):
    base = layer(rng, work, "b:c", MIB)
    top = layer(rng, work, "top.qcow2", MIB, backing=base, backing_name="./b:c",
                backing_format="qcow2")
    both_read(top, work)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("options", [{}, {"extended_l2": True}, {"cluster_bits": 21},
                                     {"cluster_bits": 12}])
def test_external_data_files(options, raw, work, rng):
    data = forged.path_of(work, "data.raw")
    image = Image(5 * MIB, rng=rng, data_file=data, data_file_raw=raw, **options)
    forged.fill(rng, image, forged.spread(rng, image, 20))
    path = forged.path_of(work, "image.qcow2")
    built = image.build()
    built.save(path)
    built.data_file.save(data)
    truth = image.truth()
    qemu_converts_to(truth, path, work)
    converts_to(truth, path, work)
    same_map(path)
    same_info(path)


def test_a_data_file_name_is_relative_to_the_working_directory(work, rng):
    os.mkdir(work / "images")
    os.mkdir(work / "here")
    image = Image(MIB, rng=rng, data_file="data.raw")
    image.normal(0, forged.noise(rng, image.cs))
    image.normal(9, forged.noise(rng, image.cs))
    built = image.build()
    path = built.save(forged.path_of(work, "images/image.qcow2"))
    built.data_file.save(work / "here/data.raw")
    qemu_converts_to(image.truth(), path, work, cwd=work / "here")
    converts_to(image.truth(), path, work, cwd=work / "here")
    tool("map", path, cwd=work).refused("data.raw")


SNAPSHOT_OPTIONS = [{}, {"version": 2}, {"extended_l2": True}, {"cluster_bits": 9},
                    {"cluster_bits": 21}, {"refcount_order": 2}, {"refcount_order": 6},
                    {"compression": "zstd", "packing": "across"}]


@pytest.mark.parametrize("options", SNAPSHOT_OPTIONS)
def test_snapshots_are_read_by_id_and_by_name(options, work, rng):
    image = forged.mixture(rng, count=12, **{"feature_names": False, **options})
    forged.with_extras(rng, image)
    path = image.save(forged.path_of(work, "image.qcow2"))
    both_read(image, work)
    same_info(path)
    words = itertools.cycle(["{id}", "{name}", "snapshot.id={id}", "snapshot.name={name}"])
    for i, s in enumerate(image.snapshots):
        for _ in range(2):
            word = next(words).format(id=s.ident, name=s.name)
            converts_to(image.truth(i), path, work, "-l", word)
        qemu_converts_to(image.truth(i), path, work, "-l", f"snapshot.id={s.ident}")


def test_a_snapshot_that_is_not_there(work, rng):
    image = forged.with_extras(rng, forged.mixture(rng, count=4))
    path = image.save(forged.path_of(work, "image.qcow2"))
    for word in ("third", "snapshot.id=first", "snapshot.name=1"):
        tool("convert", "-l", word, "-O", "raw", path, work / "out.raw").refused()
        assert not (work / "out.raw").exists()


def test_an_id_goes_before_a_name(work, rng):
    image = Image(MIB, rng=rng)
    for ident, name in (("1", "2"), ("2", "1"), ("3", "3")):
        image.normal(0, forged.noise(rng, image.cs))
        image.snapshot(ident, name)
    path = image.save(forged.path_of(work, "image.qcow2"))
    for i, word in ((0, "1"), (1, "2"), (1, "snapshot.name=1"), (0, "snapshot.name=2")):
        qemu_converts_to(image.truth(i), path, work, "-l", word)
        converts_to(image.truth(i), path, work, "-l", word)


@pytest.mark.parametrize("length", [0, 8, 16, 24, 1024])
def test_snapshots_with_short_and_long_extra_data(length, work, rng):
    image = Image(MIB, rng=rng)
    image.normal(0, forged.noise(rng, image.cs))
    extra = struct.pack(">QQQ", 4711, MIB, 0) + bytes(1000)
    image.snapshot("7", "seventh", extra[:length], vm_state=4711)
    image.normal(0, forged.noise(rng, image.cs))
    path = image.save(forged.path_of(work, "image.qcow2"))
    same_info(path)
    converts_to(image.truth(0), path, work, "-l", "seventh")
    converts_to(image.truth(), path, work)


def test_a_snapshot_smaller_than_the_disk_is_read_at_the_disks_size(work, rng):
    image = Image(3 * MIB, rng=rng)
    image.normal(0, forged.noise(rng, image.cs))
    image.snapshot("1", "small", struct.pack(">QQQ", 0, MIB, 0))
    image.normal(20, forged.noise(rng, image.cs))
    path = image.save(forged.path_of(work, "image.qcow2"))
    qemu_converts_to(image.truth(0), path, work, "-l", "small")
    converts_to(image.truth(0), path, work, "-l", "small")


def test_a_snapshot_larger_than_the_disk_loses_nothing(work, rng):
    image = Image(3 * MIB, rng=rng)
    for index in (0, 20, 47):
        image.normal(index, forged.noise(rng, image.cs))
    image.snapshot("1", "large")
    truth = image.truth(0)
    built = image.build().patch(24, struct.pack(">Q", MIB))
    path = built.save(forged.path_of(work, "image.qcow2"))
    converts_to(truth, path, work, "-l", "large")
    small = image.truth()
    small.truncate(MIB)
    converts_to(small, path, work)


def test_vm_state_of_a_small_snapshot_is_not_read_as_disk(work, rng):
    image = Image(2 << 20, cluster_bits=9, feature_names=False)
    table = image.l2_entries * image.cs
    image.normal(0, forged.noise(rng, image.cs))
    state = dict(image.clusters)
    image.normal(image.l2_entries, b"state of the machine")
    image.snapshot("1", "small", struct.pack(">QQQ", 512, table, 0), vm_state=512)
    image.clusters = state
    path = image.save(forged.path_of(work, "image.qcow2"))
    converts_to(image.truth(), path, work, "-l", "small")
