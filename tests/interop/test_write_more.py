# SPDX-License-Identifier: MIT
"""
Real file systems through every conversion; targets that exist; backing files; huge sparse disks;
disks that are too small for the result.
"""
import os

import pytest

from lib import disks, made
from lib.run import qemu_img, qemu_io, tool
from lib.sparse import Sparse, same_files
from lib.writing import (convert, features, is_clean, qemu_reads, same_bytes, seven_zip_extracts)

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


@pytest.fixture(scope="module")
def ext4(tmp_path_factory):
    """(path, SHA-256) of a disk with a real tree."""
    import random
    folder = tmp_path_factory.mktemp("ext4")
    path = str(folder / "disk.raw")
    return path, disks.ext4_disk(path, folder, random.Random(os.environ["QCOW2_TEST_SEED"]))


def back_again(target, checksum, work, program=tool):
    out = str(work / "back.raw")
    program("convert", "-O", "raw", target, out).succeeded()
    assert disks.sha256(out) == checksum
    disks.file_system_is_clean(out)
    os.unlink(out)


WAYS = {"default": [], "compat 0.10": ["-o", "compat=0.10"], "lazy": ["-o", "lazy_refcounts=on"],
        "512": ["-o", "cluster_size=512"], "4k": ["-o", "cluster_size=4k"],
        "2M": ["-o", "cluster_size=2M"], "deflate": ["-c"], "deflate 4k": ["-c", "-o",
                                                                         "cluster_size=4k"],
        "deflate 2M": ["-c", "-o", "cluster_size=2M"], "full": ["-S", "0"],
        "refcounts of a bit": ["-o", "refcount_bits=1"],
        "preallocated": ["-o", "preallocation=metadata"]}
WAYS_7Z_CANNOT = {"zstd": ["-c", "-o", "compression_type=zstd"],
                  "zstd 2M": ["-c", "-o", "compression_type=zstd,cluster_size=2M"],
                  "subclusters": ["-o", "extended_l2=on"],
                  "subclusters, deflate": ["-c", "-o", "extended_l2=on,cluster_size=128k"]}


@pytest.mark.parametrize("way", [*WAYS, *WAYS_7Z_CANNOT])
def test_a_real_file_system_survives(way, ext4, work):
    raw, checksum = ext4
    target = str(work / "disk.qcow2")
    convert("-f", "raw", "-O", "qcow2", *{**WAYS, **WAYS_7Z_CANNOT}[way], raw, target)
    is_clean(target)
    back_again(target, checksum, work)
    back_again(target, checksum, work, program=qemu_img)
    if way in WAYS:
        seven_zip_extracts(target, raw, work)


def test_a_real_file_system_survives_many_conversions_in_a_row(ext4, work):
    raw, checksum = ext4
    at = raw
    for n, way in enumerate([*WAYS, *WAYS_7Z_CANNOT]):
        target = str(work / f"{n}.qcow2")
        convert("-O", "qcow2", *{**WAYS, **WAYS_7Z_CANNOT}[way], at, target)
        if at != raw:
            os.unlink(at)
        at = target
    is_clean(at)
    back_again(at, checksum, work)


def test_compression_makes_images_smaller(ext4, work):
    raw, _ = ext4
    sizes = {}
    for way in ("default", "deflate", "zstd"):
        target = str(work / f"{way}.qcow2")
        convert("-O", "qcow2", *{**WAYS, **WAYS_7Z_CANNOT}[way], raw, target)
        sizes[way] = os.path.getsize(target)
        theirs = str(work / "theirs.qcow2")
        qemu_img("convert", "-O", "qcow2", *{**WAYS, **WAYS_7Z_CANNOT}[way], raw,
                 theirs).succeeded()
        assert sizes[way] < os.path.getsize(theirs) * 1.05
        os.unlink(theirs)
    assert max(sizes["deflate"], sizes["zstd"]) < sizes["default"]


def test_into_a_raw_file_that_exists(work, rng):
    source = made.create(work / "a.qcow2", 2 * MIB)
    made.Scribbler(source, 2 * MIB, 65536, rng, work).scribble(8)
    qemu_img("convert", "-O", "raw", source, work / "truth.raw").succeeded()
    # What was there must be gone, also where the source has nothing.
    target = str(work / "old.raw")
    with open(target, "wb") as f:
        f.write(b"\xff" * 2 * MIB)
    inode = os.stat(target).st_ino
    convert("-n", "-O", "raw", source, target)
    assert os.stat(target).st_ino == inode
    same_bytes(work / "truth.raw", target)
    with open(target, "wb") as f:
        f.truncate(2 * MIB)
    convert("-n", "--target-is-zero", "-O", "raw", source, target)
    same_bytes(work / "truth.raw", target)


def test_into_a_raw_file_of_another_size(work, rng):
    source = made.create(work / "a.qcow2", 2 * MIB)
    made.Scribbler(source, 2 * MIB, 65536, rng, work).scribble(8)
    target = str(work / "old.raw")
    with open(target, "wb") as f:
        f.write(b"\xff" * MIB)
    tool("convert", "-n", "-O", "raw", source, target).refused()
    assert open(target, "rb").read() == b"\xff" * MIB
    with open(target, "wb") as f:
        f.write(b"\xff" * (3 * MIB))
    convert("-n", "-O", "raw", source, target)
    with open(target, "rb") as f:
        content = f.read()
    assert len(content) == 3 * MIB and content[2 * MIB:] == b"\xff" * MIB


def test_only_the_top_layer_onto_the_same_backing_file(work, rng):
    base = made.create(work / "base.qcow2", 4 * MIB)
    made.Scribbler(base, 4 * MIB, 65536, rng, work).scribble(10)
    qemu_io(base, "write -q -P 7 0 2M")
    top = made.create(work / "top.qcow2", 5 * MIB, backing="base.qcow2", backing_format="qcow2")
    made.Scribbler(top, 5 * MIB, 65536, rng, work).scribble(5)
    qemu_img("convert", "-O", "raw", top, work / "truth.raw").succeeded()
    target = str(work / "target.qcow2")
    convert("-O", "qcow2", "-B", "base.qcow2", "-F", "qcow2", top, target)
    is_clean(target)
    qemu_reads(target, work / "truth.raw", work)
    assert os.path.getsize(target) <= os.path.getsize(top) + 2 * 65536
    info = qemu_img("info", "--output=json", target).json()
    assert (info["backing-filename"], info["backing-filename-format"]) == ("base.qcow2", "qcow2")


@pytest.mark.parametrize("compress", [[], ["-c"]])
def test_a_huge_disk_costs_what_is_in_it(compress, work, rng):
    raw, target = str(work / "huge.raw"), str(work / "huge.qcow2")
    disk = Sparse(TIB + 512 * 7)
    for off in (0, 4 * GIB - 4096, 600 * GIB + 512, TIB):
        disk.write(off, rng.randbytes(3584))
    disk.save(raw)
    assert convert("-f", "raw", "-O", "qcow2", *compress, raw, target).seconds < 20
    is_clean(target)
    assert features(target)[0] == disk.size
    assert os.stat(target).st_blocks * 512 < 8 * MIB
    out = str(work / "out.raw")
    assert convert("-O", "raw", target, out).seconds < 20
    disk.assert_same(out)
    assert os.stat(out).st_blocks * 512 < MIB
    same_files(raw, out)


@pytest.mark.parametrize("words", [["-O", "raw"], ["-O", "qcow2"], ["-O", "qcow2", "-c"],
                                   ["-O", "qcow2", "-c", "-m", "1"]])
def test_a_target_that_cannot_grow_is_not_left_behind(words, ext4, work):
    """As on a full disk: an error sentence, and nothing that looks like a finished image."""
    raw, _ = ext4
    for limit in (4096, 300 * KIB, MIB):
        target = str(work / "target")
        tool("convert", "-f", "raw", *words, raw, target, limits={"FSIZE": limit}).refused()
        assert not os.path.exists(target)


def test_the_source_is_not_the_target(work, rng):
    path = made.create(work / "a.qcow2", MIB)
    made.Scribbler(path, MIB, 65536, rng, work).scribble(3)
    before = open(path, "rb").read()
    for words in (["-O", "qcow2"], ["-O", "raw"], ["-n", "-O", "qcow2"]):
        tool("convert", "--force", *words, path, path).refused()
        assert open(path, "rb").read() == before
    os.link(path, work / "link")
    tool("convert", "--force", "-O", "raw", path, work / "link").refused()
    assert open(path, "rb").read() == before
