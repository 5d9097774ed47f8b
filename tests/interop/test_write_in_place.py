# SPDX-License-Identifier: MIT
"""
Images that qcow2 io changes in place, beside what qemu-io makes of the same: where clusters lie,
what happens to feature bits, what a larger disk is given, and a file system that is full.
"""
import json
import struct
import subprocess
from pathlib import Path

import pytest

from lib.run import qemu_img, qemu_io, tool
from lib.writing import is_clean

K, M = 1 << 10, 1 << 20


def create(path, *options, size="4M"):
    words = ["-o", ",".join(options)] if options else []
    qemu_img("create", "-q", "-f", "qcow2", *words, path, size).succeeded()
    return path


def io(path, *commands, code=0):
    script = [word for c in commands for word in ("-c", c)]
    return tool("io", "-f", "qcow2", *script, path).succeeded(code)


def field(path, offset, length):
    return int.from_bytes(Path(path).read_bytes()[offset:offset + length], "big")


def patch(path, offset, value):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(value)


def words(data, offset, n):
    return struct.unpack_from(f">{n}Q", data, offset)


def layout(path):
    """The entries of all tables that map the disk."""
    data = Path(path).read_bytes()
    data += bytes(-len(data) % (2 * M))  # a table may pass the end
    cluster = 1 << struct.unpack_from(">I", data, 20)[0]
    l1 = words(data, *(field(path, *f) for f in ((40, 8), (36, 4))))
    return [l1] + [words(data, e & 0x00fffffffffffe00, cluster // 8) for e in l1 if e]


# ---- where clusters lie ----

SCRIPTS = {
    "in order": [f"write {n * 200}k 200k" for n in range(20)],
    "scattered": [f"write {n * 7919 * 512 % (4 * M - 70 * K)} 5000" for n in range(60)],
    "backwards": [f"write {n}M 64k" for n in (3, 2, 1, 0)],
    "across tables": ["write 1900k 300k", "write 3M 1M", "write 0 64k"],
    "zeros between": ["write 0 1M", "write -z 256k 128k", "write 200k 300k"],
    "compressed": [f"write -c {n * 64}k 64k" for n in range(6)] + ["write 1M 64k"],
}


@pytest.mark.parametrize("options", ["cluster_size=4k", "cluster_size=64k", "cluster_size=512",
                                     "cluster_size=64k,extended_l2=on", "compat=0.10"])
@pytest.mark.parametrize("script", ["in order", "scattered", "backwards", "across tables"])
def test_clusters_lie_where_the_real_program_puts_them(options, script, work):
    theirs, ours = (create(work / name, options) for name in ("theirs", "ours"))
    qemu_io(theirs, *SCRIPTS[script])
    io(ours, *SCRIPTS[script])
    assert layout(ours) == layout(theirs)
    is_clean(ours)


@pytest.mark.parametrize("script", ["zeros between", "compressed"])
def test_so_do_those_that_were_zeros_and_those_that_are_packed(script, work):
    """Of clusters that compress to one sector, whoever does it."""
    theirs, ours = (create(work / name) for name in ("theirs", "ours"))
    qemu_io(theirs, *SCRIPTS[script])
    io(ours, *SCRIPTS[script])
    assert layout(ours) == layout(theirs)


# ---- bits of the header ----

def test_a_corrupt_image_is_read_but_not_written(work):
    disk = create(work / "disk")
    io(disk, "write -P 5 0 64k")
    patch(disk, 79, b"\2")
    before = disk.read_bytes()
    tool("io", "-f", "qcow2", "-c", "read 0 1", disk).refused("corrupt")
    result = tool("io", "-r", "-f", "qcow2", "-c", "read -P 5 0 64k", disk).succeeded()
    assert "Pattern" not in result.out
    assert disk.read_bytes() == before


def test_unknown_compatible_bits_and_extensions_stay(work):
    disk = create(work / "disk", "lazy_refcounts=on", size="1M")
    header_length = field(disk, 100, 4)
    extensions = disk.read_bytes()[header_length:65536]
    unknown = struct.pack(">II", 0x12345678, 11) + b"eleven byte" + bytes(5)
    patch(disk, header_length, unknown + extensions[:-len(unknown)])
    patch(disk, 80, struct.pack(">Q", 1 << 40 | 1))
    io(disk, "write 0 1M", "truncate 8M", "write 7M 1M", "truncate 2M")
    tool("snapshot", "-c", "one", disk).succeeded()
    tool("snapshot", "-a", "one", disk).succeeded()
    assert field(disk, 80, 8) == 1 << 40 | 1
    assert disk.read_bytes()[header_length:header_length + len(unknown)] == unknown
    is_clean(disk)


def test_unknown_autoclear_bits_go_and_a_raw_data_file_keeps_its_own(work):
    plain = create(work / "plain")
    raw = create(work / "raw", f"data_file={work / 'data'},data_file_raw=on")
    for disk, kept in (plain, 0), (raw, 2):
        patch(disk, 88, struct.pack(">Q", 1 << 62 | kept))
        tool("io", "-r", "-f", "qcow2", "-c", "read 0 64k", disk).succeeded()
        assert field(disk, 88, 8) == 1 << 62 | kept
        io(disk, "write 0 1")
        assert field(disk, 88, 8) == kept


def test_a_dirty_image_is_repaired_before_it_is_written(work):
    disk = create(work / "disk", "lazy_refcounts=on")
    io(disk, "write -P 3 0 1M")
    table = field(disk, 48, 8)
    block = field(disk, table, 8)
    patch(disk, block + 10, bytes(30))  # as a crash leaves counts
    patch(disk, 79, b"\1")
    tool("io", "-r", "-f", "qcow2", "-c", "read -P 3 0 1M", disk).succeeded()
    assert field(disk, 72, 8) == 1
    io(disk, "write -P 4 1M 1M", "read -P 3 0 1M")
    assert field(disk, 72, 8) == 0
    is_clean(disk)
    qemu_io(disk, "read -P 3 0 1M", "read -P 4 1M 1M")


def test_a_snapshot_that_cant_be_taken_leaves_nothing(work):
    """The real program leaks what it had taken for it."""
    disk = create(work / "disk", "refcount_bits=1")
    io(disk, "write -P 3 0 1M")
    before = qemu_img("map", "--output=json", disk).json()
    tool("snapshot", "-c", "one", disk).refused("refcounts")
    is_clean(disk)
    assert qemu_img("map", "--output=json", disk).json() == before


# ---- a larger disk ----

GROWN = {
    "plain": (), "4k": ("cluster_size=4k",), "version 2": ("compat=0.10",),
    "subclusters": ("extended_l2=on",),
    "data file": ("data_file=data",), "raw data file": ("data_file=data", "data_file_raw=on"),
}


@pytest.mark.parametrize("mode", ["metadata", "falloc", "full"])
@pytest.mark.parametrize("kind", GROWN)
def test_what_a_larger_disk_is_given(kind, mode, work):
    sizes = []
    for name in "theirs", "ours":
        folder = work / name
        folder.mkdir()
        options = ["-o", ",".join(GROWN[kind])] if GROWN[kind] else []
        qemu_img("create", "-q", "-f", "qcow2", *options, "disk", "3M", cwd=folder).succeeded()
        qemu_io("disk", "write -P 7 0 3M", cwd=folder)
        if name == "theirs":
            qemu_img("resize", "-q", f"--preallocation={mode}", "disk", "9M",
                     cwd=folder).succeeded()
        else:
            tool("io", "-f", "qcow2", "-c", f"truncate -m {mode} 9M", "disk",
                 cwd=folder).succeeded()
        is_clean("disk", cwd=folder)
        qemu_io("disk", "read -P 7 0 3M", "read -P 0 3M 6M", cwd=folder)
        extents = qemu_img("map", "--output=json", "disk", cwd=folder).json()
        for e in extents:
            e.pop("offset", None)
        files = [folder / f for f in ("disk", "data") if (folder / f).exists()]
        sizes.append((merged(extents), [f.stat().st_blocks >> 11 for f in files]))
    assert sizes[0] == sizes[1]


def merged(extents):
    """Neighbours that differ in their place alone are one."""
    found = []
    for e in extents:
        e = dict(e)
        start, length = e.pop("start"), e.pop("length")
        if found and found[-1][2] == e:
            found[-1][1] += length
        else:
            found.append([start, length, e])
    return found


def test_a_larger_disk_over_a_longer_backing_file(work):
    """Nothing of it comes to light; version 2 can't say that, and stays as it is."""
    base = create(work / "base", size="8M")
    qemu_io(base, "write -P 9 0 8M")
    for compat in "1.1", "0.10":
        disk = work / f"disk-{compat}"
        qemu_img("create", "-q", "-f", "qcow2", "-o", f"compat={compat}", "-b", base, "-F", "qcow2",
                 disk, "2M").succeeded()
        if compat == "0.10":
            assert "truncate" in tool("io", "-f", "qcow2", "-c", "truncate 6M", disk).err or \
                json.loads(qemu_img("info", "--output=json", disk).out)["virtual-size"] == 2 * M
        else:
            io(disk, "truncate 6M", "read -P 9 0 2M", "read -P 0 2M 4M")
            qemu_io(disk, "read -P 9 0 2M", "read -P 0 2M 4M")
        is_clean(disk)


# ---- a file system that is full ----

@pytest.fixture
def small(work):
    """A file system of 4 MiB in memory."""
    folder = work / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder],
                          capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("options", ["cluster_size=64k", "cluster_size=512,refcount_bits=64",
                                     "cluster_size=4k,lazy_refcounts=on", "compat=0.10",
                                     "cluster_size=64k,extended_l2=on"])
def test_without_space_a_request_fails_and_others_go_on(options, small):
    disk = create(small / "disk", options, size="64M")
    step = 512 * K
    fill = [f"write -P {n + 1} {n * step} {step}" for n in range(12)]
    result = io(disk, "write -P 99 63M 64k", "flush", *fill, "write -P 77 63M 64k",
                "read -P 77 63M 64k", "read -P 1 0 512k", "flush", "discard 0 2M", "flush",
                "write -P 88 0 64k", "read -P 88 0 64k", "read -P 0 64k 1M", "flush", code=1)
    lines = result.out.splitlines()
    failed = [n for n, line in enumerate(lines) if "failed" in line]
    # of the large writes those that don't fit, and nothing that came after
    assert 3 <= len(failed) <= 8, result.describe()
    assert all(lines[n] == "write failed: No space left on device" for n in failed)
    assert lines[failed[-1] + 1].startswith("wrote 65536/65536 bytes at offset 66060288")
    assert "Pattern" not in result.out and "refused" not in result.err, result.describe()
    is_clean(disk)
    qemu_io(disk, "read -P 77 63M 64k", "read -P 88 0 64k", "read -P 0 64k 1M")


def test_space_that_runs_out_while_closing_is_told(small):
    """What was written is there, or it was said that it isn't."""
    disk = create(small / "disk", "cluster_size=4k", size="64M")
    filler = small / "filler"
    for left in range(0, 40 * K, 4 * K):
        filler.write_bytes(b"")
        with open(filler, "wb") as f:
            stat = subprocess.run(["stat", "-f", "-c", "%a %S", small], capture_output=True,
                                  text=True, check=True).stdout.split()
            f.write(bytes(max(0, int(stat[0]) * int(stat[1]) - left)))
        script = [f"write -P 6 {n * 4}M 4k" for n in range(4)]
        result = tool("io", "-f", "qcow2", *[w for c in script for w in ("-c", c)], disk)
        result.ended_well()
        filler.unlink()
        reads = [f"read -P 6 {n * 4}M 4k" for n, line in
                 enumerate(l for l in result.out.splitlines() if "wrote" in l or "failed" in l)
                 if "wrote" in line]
        if result.code == 0:
            qemu_io(disk, *reads)
        check = qemu_img("check", "-q", disk)
        assert check.code in (0, 3), check.describe()
