# SPDX-License-Identifier: MIT
"""Images with a past: what the real tools leave behind when they change an image, not make it."""
import os

import pytest

from lib import disks, made
from lib.reading import same_info, same_map
from lib.run import command, qemu_img, qemu_io, tool
from lib.seed import long_run
from lib.sparse import same_files

MIB = 1 << 20


def read_alike(path, work, *words, info=True):
    """Bytes, map and information are the same as the real tool's."""
    ours, theirs = str(work / "ours.raw"), str(work / "theirs.raw")
    tool("convert", *words, "-O", "raw", path, ours).succeeded()
    qemu_img("convert", *words, "-O", "raw", path, theirs).succeeded()
    same_files(theirs, ours)
    os.unlink(ours)
    os.unlink(theirs)
    same_map(path)
    if info:
        same_info(path)


def scribbled(work, rng, name="image.qcow2", size=4 * MIB, cluster_size=None, **options):
    cs = cluster_size or rng.choice([512, 4096, 65536])
    path = made.create(work / name, size, options={"cluster_size": cs, **options})
    scribbler = made.Scribbler(path, size, cs, rng, work)
    scribbler.scribble(12, packed=4)
    return path, scribbler


@pytest.mark.parametrize("words", [[], ["-c"], ["-c", "-o", "compression_type=zstd"],
                                   ["-o", "preallocation=metadata"], ["-o", "extended_l2=on"],
                                   ["-S", "0"], ["-c", "-o", "cluster_size=2M"]])
def test_converted_images(words, work, rng):
    raw, path = str(work / "a.raw"), str(work / "a.qcow2")
    disks.random_disk(raw, 9 * MIB + 512, rng, pieces=60)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *words, raw, path).succeeded()
    read_alike(path, work)
    result = tool("compare", "-f", "qcow2", "-F", "raw", path, raw).succeeded()
    assert result.out == "Images are identical.\n"


def test_written_compressed_data_written_over(work, rng):
    path, scribbler = scribbled(work, rng)
    for _ in range(4 if long_run() else 2):
        scribbler.scribble(20)
        scribbler.touched.clear()
        read_alike(path, work)


def test_images_that_were_not_closed(work, rng):
    path, _ = scribbled(work, rng, lazy_refcounts="on")
    killed = command("qemu-io", "-f", "qcow2", "-c", "write -P 9 1M 200k", "-c", "flush",
                     "-c", "abort", path)
    assert killed.code < 0
    # Whose refcounts are stale: what reading says doesn't depend on them.
    read_alike(path, work)
    qemu_img("check", "-r", "all", path)
    read_alike(path, work)


@pytest.mark.parametrize("other", ["0.10", "1.1"])
def test_images_of_a_changed_version(other, work, rng):
    path, scribbler = scribbled(work, rng, compat="1.1" if other == "0.10" else "0.10")
    made.snapshot(path, "before")
    qemu_img("amend", "-o", f"compat={other}", path).succeeded()
    scribbler.scribble(5)
    read_alike(path, work)
    read_alike(path, work, "-l", "before")


def test_images_of_a_changed_refcount_width(work, rng):
    path, scribbler = scribbled(work, rng, cluster_size=4096)
    for bits in (64, 8, 32):
        qemu_img("amend", "-o", f"refcount_bits={bits}", path).succeeded()
        scribbler.scribble(3)
        read_alike(path, work)


def test_grown_and_shrunk_images(work, rng):
    path, scribbler = scribbled(work, rng)
    for size in ("7M", "7680k", "2M", "5M"):
        qemu_img("resize", "--shrink", path, size).succeeded()
        read_alike(path, work)
    scribbler.size = 2 * MIB
    scribbler.clusters = scribbler.size // scribbler.cs
    scribbler.scribble(5)
    read_alike(path, work)


def test_snapshots_of_other_sizes_gone_back_to_and_deleted(work, rng):
    path, scribbler = scribbled(work, rng)
    for n, size in enumerate((4, 5, 6)):
        made.snapshot(path, f"s{n}")
        qemu_img("resize", path, f"{size + 1}M").succeeded()
        scribbler.scribble(4)
        for k in range(n + 1):
            read_alike(path, work, "-l", f"s{k}")
    qemu_img("snapshot", "-d", "s1", path).succeeded()
    qemu_img("snapshot", "-a", "s2", path).succeeded()
    scribbler.scribble(3)
    read_alike(path, work)
    read_alike(path, work, "-l", "s0")


def test_vm_state_beside_the_disk(work, rng):
    path, _ = scribbled(work, rng, cluster_size=512)
    qemu_io(path, "write -b -P 77 0 300k")
    read_alike(path, work)


def test_bitmaps_beside_the_disk(work, rng):
    path, scribbler = scribbled(work, rng)
    qemu_img("bitmap", "--add", "-g", "4096", path, "first").succeeded()
    qemu_img("bitmap", "--add", "--disable", path, "second").succeeded()
    scribbler.scribble(4)
    read_alike(path, work)
    # Left in use by a program that died.
    assert command("qemu-io", "-f", "qcow2", "-c", "write 0 64k", "-c", "abort", path).code < 0
    read_alike(path, work)


def test_committed_and_rebased_chains(work, rng):
    names = ["a.qcow2", "b.qcow2", "c.qcow2"]
    for n, name in enumerate(names):
        below = {"backing": names[n - 1], "backing_format": "qcow2"} if n else {}
        size = (3 + n) * MIB
        made.create(work / name, size, options={"cluster_size": 4096 << 2 * n}, **below)
        made.Scribbler(work / name, size, 4096 << 2 * n, rng, work).scribble(8)
    top = str(work / "c.qcow2")
    read_alike(top, work)
    qemu_img("rebase", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", top).succeeded()
    read_alike(top, work)
    qemu_img("commit", "-d", top).succeeded()
    read_alike(top, work)
    read_alike(str(work / "a.qcow2"), work)
    qemu_img("rebase", "-f", "qcow2", "-b", "", top).succeeded()
    read_alike(top, work)


@pytest.mark.parametrize("bits", [9, 16, 21])
def test_disks_at_the_limits_of_the_format(bits, work):
    """The map of millions of L1 entries, for which the real tool takes minutes."""
    cs, size = 1 << bits, 1 << 2 * bits + 19
    path = made.create(work / "huge.qcow2", size, options={"cluster_size": cs})
    writes = [(size - 4096, 4096), (0, 512), (size // 2 - 512, 1024)]
    qemu_io(path, *(f"write -q -P 1 {off} {length}" for off, length in writes))
    clusters = {c for off, n in writes for c in range(off >> bits, (off + n - 1 >> bits) + 1)}
    end, found = 0, set()
    for entry in tool("map", "--output=json", path, timeout=10).json():
        assert entry["start"] == end
        end += entry["length"]
        assert entry["data"] == entry["present"] != entry["zero"]
        if entry["data"]:
            found.update(range(entry["start"] >> bits, end >> bits))
    assert (end, found) == (size, clusters)
    same_info(path)
    result = tool("compare", path, path, timeout=20).succeeded()
    assert result.out == "Images are identical.\n"
