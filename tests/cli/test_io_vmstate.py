# SPDX-License-Identifier: MIT
"""
read -b and write -b of qcow2 io as of qemu-io: the same words, the same errors, the same images;
and what the one wrote is there for the other, through snapshots and sizes.
"""
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from io_oracle import Pair, raw, script  # noqa: E402
from lib.run import qemu_img, qemu_io, tool  # noqa: E402
from lib.writing import is_clean  # noqa: E402

COMMANDS = [
    "r -b 0 64k", "w -b 0 64k", "r -b -P 0xcd 0 64k", "w -b -P 1 512 1k", "r -bv 0 1k",
    "r -b -P 1 -s 512 -l 1024 0 64k", "r -b -P 1 -s 500 -l 1024 0 64k", "w -bq -P 2 10M 3M",
    "r -bC -P 2 10M 3M", "w -bC 1M 0", "r -b 5 0", "r -b 0 5", "w -b 0 5", "w -bp -P 3 1G 64k",
    "r -bp -P 3 1G 64k", "r -b -P 0 2G 64k", "w -b -c -P 4 64k 64k", "r -b -P 4 64k 64k",
    "w -b -s pattern 128k 64k", "r -bv 130560 512", "w -bs missing 0 512", "w -P 5 0 1M",
    "r -P 5 0 1M", "r -b -P 3 1G 64k", "w -b -z 0 64k", "w -b -f 0 64k", "w -bn 0 512",
    "w -bu 0 512", "w -bx 0 512", "r -bx 0 512", "map", "length", "flush", "discard 0 1M",
    "r -b -P 4 64k 64k", "reopen", "r -b -P 2 10M 3M", "reopen -r", "r -b -P 2 10M 3M",
    "w -b 0 512", "reopen -w", "r -b 0 2G", "r -b 0 3000000000",
]
FAR = [
    "r -b 1P 512", "r -b 7E 512", "w -b 7E 512", "r -b 8E 512", "r -b 9007199254740991k 512",
    "w -b 9007199254740991k 512", "r -b 9223372036854774784 512", "w -b 9223372036854774784 512",
    "r -b 9223372035781032960 512", "r -b 9223372035781033984 512", "r -b -1 512",
    "r -b 9223372035244162560 512", "w -b 9223372035244162560 512",
    "r -b 9223372035244163072 512", "w -b 9223372035244163072 512", "r -b x 512", "r -b 0 x",
]
KINDS = {"plain": (), "version 2": ("-o", "compat=0.10"), "512": ("-o", "cluster_size=512"),
         "subclusters": ("-o", "extended_l2=on"), "lazy": ("-o", "lazy_refcounts=on")}


def image(*options, size="1M"):
    def make(folder):
        Path(folder, "pattern").write_bytes(bytes(range(1, 101)))
        return zoo.create(folder, "disk.qcow2", *options, size)
    return make


def io(path, *commands, cwd):
    result = tool("io", "-f", "qcow2", *script(commands), path, cwd=cwd).succeeded()
    assert "failed" not in result.out, result.describe()


@pytest.mark.parametrize("kind", KINDS)
def test_one_script(kind, work):
    pair = Pair(work, image(*KINDS[kind]))
    commands = COMMANDS if kind != "512" else [c for c in COMMANDS if "G" not in c]
    pair.run("disk.qcow2", *script(commands))
    pair.each(["disk.qcow2"], FAR if kind == "plain" else ["r -b 0 64k", "w -b 64k 512"])


def test_nothing_of_a_longer_backing_file_is_in_it(work):
    """In the real program it is: unwritten state reads as the backing disk does at that offset."""
    zoo.create(work, "base.qcow2", "8M")
    zoo.io(work, "base.qcow2", "write -P 0x77 0 8M", "write -b -P 0x88 0 8M")
    disk = zoo.create(work, "disk.qcow2", "-b", "base.qcow2", "-F", "qcow2",
                      "-o", "cluster_size=4k", "1M")
    before = Path(work, disk).read_bytes()
    io(disk, "read -b -P 0 0 8M", "write -b -P 1 1k 512", "read -b -P 0 0 1k",
       "read -b -P 1 1k 512", "read -b -P 0 1536 6M", "read -P 0x77 0 1M", cwd=work)
    qemu_io(disk, "read -b -P 0 0 1k", "read -b -P 1 1k 512", "read -b -P 0 1536 1k",
            "read -P 0x77 0 1M", cwd=work)
    is_clean(disk, cwd=work)
    result = tool("io", "-C", *script(["read -b -P 1 1k 512", "map"]), disk, cwd=work)
    assert "Pattern" not in result.succeeded().out
    Path(work, disk).write_bytes(before)
    tool("io", "-s", *script(["write -b -P 9 0 512", "read -b -P 9 0 512"]), disk,
         cwd=work).succeeded()
    assert Path(work, disk).read_bytes() == before


def test_a_raw_disk_has_none(work):
    pair = Pair(work, lambda folder: raw(folder))
    pair.run("-f", "raw", "disk.raw", *script(["w -b 0 512", "r -b 0 512", "r -b 20M 512",
                                               "w -b 0 1", "r -b 0 0", "r -b 7E 512"]))
    pair.run("-r", "-f", "raw", "disk.raw", *script(["w -b 0 512", "r -b 0 512"]))


@pytest.mark.parametrize("kind", KINDS)
def test_each_reads_what_the_other_wrote(kind, work, rng):
    """Both write to one image in turn, and take snapshots; both find all of it, both clean."""
    disk, states = zoo.create(work, "disk.qcow2", *KINDS[kind], "3M"), []
    for n in range(1, 7):
        at, length = 512 * rng.randrange(40), 512 * rng.randrange(1, 400)
        commands = [f"write -b -P {n} {at} {length}", f"write -b -P {n + 64} {n}M 64k",
                    f"write -P {n} {n * 64}k 64k"]
        if n % 2:
            io(disk, *commands, cwd=work)
            qemu_img("snapshot", "-c", f"s{n}", disk, cwd=work).succeeded()
        else:
            qemu_io(disk, *commands, cwd=work)
            tool("snapshot", "-c", f"s{n}", disk, cwd=work).succeeded()
        states.append((f"s{n}", [f"read -b -P {n} {at} {length}", f"read -b -P {n + 64} {n}M 64k",
                                 f"read -P {n} {n * 64}k 64k"]))
    rng.shuffle(states)
    for n, (name, reads) in enumerate(states):
        one, other = (qemu_img, tool) if n % 2 else (tool, qemu_img)
        one("snapshot", "-a", name, disk, cwd=work).succeeded()
        io(disk, *reads, cwd=work)
        qemu_io(disk, *reads, cwd=work)
        is_clean(disk, cwd=work)
    for n, (name, _) in enumerate(states):
        (tool if n % 2 else qemu_img)("snapshot", "-d", name, disk, cwd=work).succeeded()
        is_clean(disk, cwd=work)


def test_a_resize_drops_it_and_shows_nothing_of_it(work):
    """The real program shows it as the disk when that grows, and leaks it when it shrinks."""
    disk = zoo.create(work, "disk.qcow2", "-o", "cluster_size=512", "1M")
    io(disk, "write -b -P 7 0 100k", "truncate 3M", "read -P 0 0 3M", "read -b -P 0 0 1M",
       "write -b -P 8 0 100k", "truncate 600k", "read -b -P 0 0 3M", cwd=work)
    is_clean(disk, cwd=work)
    qemu_io(disk, "read -P 0 0 600k", "read -b -P 0 0 3M", cwd=work)


def test_with_an_external_data_file_it_is_refused(work):
    """The real program writes it into that file, behind the disk."""
    disk = zoo.create(work, "disk.qcow2", "-o", "data_file=data.raw,data_file_raw=on", "1M")
    result = tool("io", *script(["write -b 0 512", "read -b 0 512"]), disk, cwd=work).ended_well()
    assert result.code == 1 and result.out == ("write failed: Operation not supported\n"
                                               "read failed: Operation not supported\n")
    assert result.err.count("external data file") == 2
    assert Path(work, "data.raw").stat().st_size == 1 << 20
