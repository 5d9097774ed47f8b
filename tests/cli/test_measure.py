# SPDX-License-Identifier: MIT
"""qcow2 measure: it says how long the file becomes. For those of qemu-img: tests/dropin."""
import random
import re

import pytest

from lib.run import SANITIZER_ENV, TOOL, command, qemu_img, qemu_io, tool

KIB = 1024


@pytest.fixture
def disk(work):
    """Data that are noise, so that convert finds no zeros in them."""
    noise = random.Random(5).randbytes(320 * KIB)
    (work / "noise").write_bytes(noise)
    qemu_img("create", "-q", "-f", "qcow2", "disk", "20M", cwd=work).succeeded()
    qemu_io("disk", "write -q -s noise 0 320k", "write -q -s noise 7M 1M", "write -z -q 12M 1M",
            "write -q -s noise 20416k 64k", cwd=work)
    return work


def measured(work, *words):
    return tool("measure", "--output=json", "-O", "qcow2", *words, cwd=work).succeeded().json()


def made(work, *words):
    tool("convert", "--force", "-O", "qcow2", *words, "copy", cwd=work).succeeded()
    return (work / "copy").stat().st_size


@pytest.mark.parametrize("options", [
    "cluster_size=512,refcount_bits=64", "cluster_size=4k,refcount_bits=1", "cluster_size=64k",
    "cluster_size=2M", "extended_l2=on,cluster_size=32k", "compat=0.10", "lazy_refcounts=on",
    "compression_type=zstd", "preallocation=metadata", "preallocation=full,cluster_size=4k",
    "preallocation=falloc", "refcount_bits=1", "refcount_bits=64", "compat=0.10,cluster_size=4k",
    "extended_l2=on,cluster_size=16k",
    "data_file=data", "data_file=data,data_file_raw=on"])
def test_a_copy_is_as_long_as_was_said(options, disk):
    told = measured(disk, "-o", options, "disk")
    assert made(disk, "-o", options, "disk") == told["required"]
    assert made(disk, "-S", "0", "-o", options, "disk") == told["fully-allocated"]
    if "data_file" in options:
        assert told["data-file"] == (disk / "data").stat().st_size


@pytest.mark.parametrize("options", ["cluster_size=64k", "cluster_size=4k", "preallocation=full",
                                     "extended_l2=on,cluster_size=16k", "refcount_bits=1"])
def test_bitmaps_fit_into_what_was_said_of_them(options, disk):
    """That is what they may need: those with nothing in them are smaller."""
    for name, granularity in (("b", "64k"), ("c", "4k"), ("d", "2M")):
        qemu_img("bitmap", "--add", "-g", granularity, "disk", name, cwd=disk).succeeded()
    qemu_io("disk", "write -q -s noise 0 6M", cwd=disk)
    told = measured(disk, "-o", options, "disk")
    plain = made(disk, "-o", options, "disk")
    size = made(disk, "--bitmaps", "-o", options, "disk")
    assert plain == told["required"] < size <= told["required"] + told["bitmaps"]
    theirs = qemu_img("measure", "--output=json", "-O", "qcow2", "-o", options, "disk",
                      cwd=disk).json()
    assert theirs["bitmaps"] == told["bitmaps"]


def test_so_are_copies_of_a_snapshot_and_of_a_top_layer(disk):
    qemu_img("snapshot", "-c", "before", "disk", cwd=disk).succeeded()
    qemu_io("disk", "write -q -s noise 10M 2M", cwd=disk)
    assert made(disk, "-l", "before", "disk") == measured(disk, "-l", "before", "disk")["required"]
    assert made(disk, "disk") == measured(disk, "disk")["required"]
    tool("create", "-q", "-b", "disk", "-F", "qcow2", "top", cwd=disk).succeeded()
    qemu_io("top", "write -q -s noise 1M 128k", "write -q -z 7M 192k", cwd=disk)
    on = ("-B", "disk", "-F", "qcow2", "top")
    assert made(disk, *on) == measured(disk, *on)["required"] < measured(disk, "top")["required"]
    assert made(disk, "top") == measured(disk, "top")["required"]
    by_options = ("-o", "backing_file=disk,backing_fmt=qcow2", "top")
    assert measured(disk, *by_options) == measured(disk, *on)


@pytest.mark.parametrize("options", ["cluster_size=64k", "cluster_size=512",
                                     "preallocation=metadata,cluster_size=4k",
                                     "preallocation=falloc"])
def test_a_new_image_is_as_long_as_was_said(options, work):
    told = measured(work, "--size", "3.5M", "-o", options)
    tool("create", "-q", "-o", options, "new", "3.5M", cwd=work).succeeded()
    assert (work / "new").stat().st_size == told["required"]
    assert not (work / "data").exists()


def test_large_disks_are_looked_at_in_parts(work):
    """At the borders of parts and of tables, with every kind of cluster there."""
    (work / "noise").write_bytes(random.Random(6).randbytes(64 * KIB))
    qemu_img("create", "-q", "-f", "qcow2", "large", "17G", cwd=work).succeeded()
    qemu_io("large", *[f"write -q -s noise {at}k 64k" for n in (1, 2, 4, 8, 12, 16)
                       for at in ((n << 20) - 64, n << 20, (n << 20) + 192)],
            "write -q -z 6143M 2M", f"write -q -c -s noise {10 << 20}k 64k",
            f"write -q -s noise {(17 << 20) - 64}k 64k", cwd=work)
    for options in ("cluster_size=4k", "cluster_size=64k", "cluster_size=2M", "extended_l2=on"):
        assert made(work, "-o", options, "large") == measured(work, "-o", options,
                                                              "large")["required"]


def test_damage_is_told_where_it_is(disk):
    with open(disk / "disk", "r+b") as f:
        f.seek(0x40000 + 8 * 100)
        f.write(bytes.fromhex("8000000000040200"))
    tool("measure", "-O", "qcow2", "disk", cwd=disk).refused("L2 entry", "0x640000")


def test_a_volume_of_that_size_takes_the_copy(disk):
    """As oVirt does it: the volume is made by what qemu-img says, and then written into."""
    link = disk / "faces" / "qemu-img"
    link.parent.mkdir()
    link.symlink_to(TOOL)
    told = command(link, "measure", "--output", "json", "-O", "qcow2", "disk", cwd=disk,
                   env=SANITIZER_ENV).succeeded().json()
    assert told == qemu_img("measure", "--output", "json", "-O", "qcow2", "disk", cwd=disk).json()
    tool("create", "-q", "volume", "20M", cwd=disk).succeeded()
    tool("convert", "-n", "-O", "qcow2", "disk", "volume", cwd=disk).succeeded()
    assert (disk / "volume").stat().st_size <= told["required"]


def test_raw_images_and_text(disk):
    told = tool("measure", "disk", cwd=disk).succeeded().out
    assert told == "required size: 20971520\nfully allocated size: 20971520\n"
    told = tool("measure", "-O", "qcow2", "-o", "data_file=x", "disk", cwd=disk).succeeded().out
    assert re.sub(r"\d+", "N", told) == ("required size: N\nfully allocated size: N\n"
                                         "bitmaps size: N\ndata file size: N\n")
    by_name = "driver=qcow2,file.filename=disk"
    assert measured(disk, "--image-opts", by_name) == measured(disk, "disk")


def test_what_cannot_be_told_is_refused(disk):
    tool("measure", cwd=disk).refused("--size")
    tool("measure", "--size", "1M", "disk", cwd=disk).refused("--size")
    tool("measure", "disk", "disk", cwd=disk).refused("at most one")
    tool("measure", "-f", "raw", "--size", "1M", cwd=disk).refused("there is none")
    tool("measure", "gone", cwd=disk).refused("gone")
    tool("measure", "-O", "vdi", "disk", cwd=disk).refused("unknown format 'vdi'")
    tool("measure", "-O", "qcow2", "-o", "cluster_size=3", "disk", cwd=disk).refused("power of two")
    tool("measure", "-O", "qcow2", "-o", "encrypt.format=luks", "disk", cwd=disk).refused(
        "encrypted images")
    tool("measure", "-O", "qcow2", "-l", "none", "disk", cwd=disk).refused("no snapshot 'none'")
