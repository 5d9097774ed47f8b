# SPDX-License-Identifier: MIT
"""
qcow2 io as qemu-io on qcow2 images: what is written is there for both, the map is the same, and so
is what is said.
"""
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from io_oracle import Pair, raw, script  # noqa: E402
from lib.run import SANITIZER_ENV, command, qemu_img, qemu_io, tool  # noqa: E402

WRITES = [
    "w 0 64k", "w -P 1 100k 1", "r -v 102390 20", "w -P 2 200k 300k", "map", "w -z 64k 64k",
    "w -z 3 10", "w -zu 256k 64k", "r -P 0 64k 64k", "map", "alloc 0 1M",
    "alloc 65k 100k", "writev -P 3 600k 512 3 70k", "readv -P 3 600k 512 3 70k", "w -f -P 4 7 9",
    "aio_write -P 5 700k 64k", "aio_flush", "aio_write -z 720k 4k", "aio_flush", "r -P 0 720k 4k",
    "discard 0 64k", "map", "discard 100 200", "discard 256k 64k", "r -v 65530 12", "flush", "map",
    "w -P 6 1048000 576", "r -P 6 1048000 576", "w 1M 1", "w -c 1M 64k", "length", "info",
]


def kind(*words, size="1M"):
    """A maker of an empty image with these creation options."""
    def make(folder):
        options = ["-o", ",".join(words)] if words else []
        return zoo.create(folder, "disk.qcow2", *options, size)
    return make


def over(base, *words):
    """A maker of an image over a backing file with data, as long or shorter."""
    def make(folder):
        zoo.create(folder, "base.qcow2", base)
        zoo.io(folder, "base.qcow2", "write -P 0x77 0 512k")
        return zoo.create(folder, "disk.qcow2", "-b", "base.qcow2", "-F", "qcow2", "-o",
                          ",".join(words or ("cluster_size=64k",)), "1M")
    return make


KINDS = {
    "plain": kind(), "version 2": kind("compat=0.10"), "512": kind("cluster_size=512"),
    "2M": kind("cluster_size=2M"), "one bit": kind("refcount_bits=1"),
    "lazy": kind("lazy_refcounts=on"), "subclusters": kind("extended_l2=on"),
    "zstd": kind("compression_type=zstd"), "data file": kind("data_file=data.bin"),
    "raw data file": kind("data_file=data.raw", "data_file_raw=on"),
    "backing": over("1M"), "short backing": over("768k"),
    "version 2 over backing": over("1M", "compat=0.10"),
    "subclusters over backing": over("1M", "extended_l2=on"),
}


@pytest.fixture(params=KINDS)
def pair(request, work):
    return Pair(work, KINDS[request.param])


def test_one_script_for_every_kind_of_image(pair):
    pair.run("disk.qcow2", *script(WRITES))
    pair.run("-d", "ignore", "disk.qcow2", *script(WRITES))


def test_compressed_writes(pair):
    pair.run("disk.qcow2", *script([
        "w -c -P 1 0 64k", "w -c -P 2 128k 64k", "r -P 1 0 64k", "r -P 2 128k 64k", "w -c 100 64k",
        "w -c 512512 512", "w -c 1M 512", "w -c 64k 3M", "w -c 64k 100"]))


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"2M"}))
def test_sizes(name, work):
    """Not 2 MiB: there the real program shows again what was cut off inside of a cluster."""
    pair = Pair(work, KINDS[name])
    pair.run("disk.qcow2", *script(["w -P 9 900k 100k", "truncate 2M", "length", "r -P 0 1M 1M",
                                    "w -P 8 1500k 64k", "truncate 512k", "length", "map",
                                    "truncate 1000", "truncate 1M", "r -P 0 512k 512k",
                                    "truncate -m full 512k", "length"]))


def test_preallocation_of_what_is_added(work):
    pair = Pair(work, kind())
    pair.run("disk.qcow2", *script(["truncate -m metadata 2M", "truncate -m falloc 3M",
                                    "truncate -m full 4M", "length", "alloc 0 4M",
                                    "r -P 0 0 4M"]))


def test_options_of_an_open_image(work):
    pair = Pair(work, over("1M"))
    pair.run("disk.qcow2", *script([
        "reopen -o lazy-refcounts=on", "w 0 64k", "info", "reopen -o cache-size=64k",
        "reopen -o l2-cache-size=x", "reopen -o overlap-check=all", "reopen -o overlap-check=foo",
        "reopen -o lazy-refcounts=foo", "reopen -o cache-size=1k,l2-cache-size=2k",
        "reopen -o pass-discard-request=off,pass-discard-snapshot=on,pass-discard-other=on",
        "reopen -o detect-zeroes=on", "reopen -o discard=foo", "reopen -o driver=raw",
        "reopen -o node-name=foo", "reopen -o file.filename=x", "reopen -o l2-cache-entry-size=512",
        "reopen -o cache-clean-interval=5", "reopen -o force-share=on", "reopen -o foo=bar",
        "reopen -o cache.direct=on", "w 64k 5", "reopen -o cache.no-flush=on", "r -v 65530 20",
        "reopen -r", "w 0 1", "reopen -w", "w 0 1", "reopen -o backing.driver=qcow2", "map"]))
    pair.run(*script([
        "open -o lazy-refcounts=on,overlap-check=none,cache-size=1M disk.qcow2", "w 5 6", "close",
        "open -o driver=qcow2,file.filename=disk.qcow2,file.locking=off", "length", "close",
        "open -o driver=qcow2,backing.driver=qcow2,backing.file.filename=base.qcow2 disk.qcow2",
        "r -P 0x77 128k 64k", "close", "open -o lazy-refcounts=x disk.qcow2",
        "open -o foo=x disk.qcow2", "open -o l2-cache-size=x disk.qcow2",
        "open -o overlap-check.template=all,overlap-check.main-header=off disk.qcow2", "length",
        "close", "open -o driver=qcow2,file.filename=nofile", "length"]))


def test_a_snapshot_below_is_left_alone(work):
    def make(folder):
        name = zoo.create(folder, "disk.qcow2", "1M")
        zoo.io(folder, name, "write -P 1 0 256k")
        qemu_img("snapshot", "-c", "one", name, cwd=folder).succeeded()
    pair = Pair(work, make)
    pair.run("disk.qcow2", *script(["w -P 2 10k 100k", "discard 192k 64k", "w -z 128k 64k", "map",
                                    "truncate 2M", "r -P 1 0 10k", "length"]))
    for folder in (pair.theirs, pair.ours):
        qemu_img("snapshot", "-a", "one", "disk.qcow2", cwd=folder).succeeded()
        qemu_io(Path(folder, "disk.qcow2"), "read -P 1 0 256k")


def test_many_requests_at_once(work, rng):
    """Ours alone: no two of the real program's runs need to end with the same layout."""
    pair = Pair(work, over("1M", "cluster_size=4k"))
    spans = [(512 * rng.randrange(2000), 512 * rng.randrange(1, 40), rng.randrange(256))
             for _ in range(300)]
    taken, commands, checks = set(), [], []
    for off, length, byte in spans:
        blocks = set(range(off // 512, min((off + length) // 512, 2048)))
        if not blocks or blocks & taken:
            continue
        taken |= blocks
        size = 512 * len(blocks)
        commands.append(f"aio_write -q -P {byte} {off} {size}")
        checks.append(f"aio_read -q -P {byte} {off} {size}")
    assert len(commands) > 20
    pair.run("disk.qcow2", *script([*commands, "aio_flush", *checks, "aio_flush", "flush",
                                    "alloc 0 1M"]))


@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
def test_snapshot_mode_loses_what_is_written(fmt, work):
    def make(folder):
        if fmt == "raw":
            return raw(folder, "disk.raw", 3 << 20, b"\1" * 100000)
        return over("1M")(folder)
    names = []
    pair = Pair(work, lambda folder: names.append(make(folder)))
    before = Path(pair.ours, names[0]).read_bytes()
    pair.run("-s", "-f", fmt, names[0], *script([
        "w -P 5 64k 100k", "r -P 5 64k 100k", "r -v 99990 20", "map", "info", "truncate 4M",
        "length"]))
    assert Path(pair.ours, names[0]).read_bytes() == before
    pair.run("-c", f"open -s -o driver={fmt} {names[0]}", "-c", "w 0 1", "-c", "map")
    pair.run("-r", "-s", "-f", fmt, names[0], "-c", "w 0 1", "-c", "r 0 1")


def test_snapshot_mode_outlives_a_reopen(work):
    """Ours alone: the real program can't find its nameless file again."""
    raw(work)
    result = tool("io", "-s", "-f", "raw", "disk.raw", *script([
        "w -q -P 5 64k 100k", "reopen -c none", "r -q -P 5 64k 100k", "reopen -r",
        "r -q -P 5 64k 100k", "w 0 1", "reopen -w", "reopen -o foo=x", "w -q 0 1",
        "r -q -P 5 64k 100k"]), cwd=work)
    assert result.code == 1 and result.out == ""
    assert [line.split(": ", 1)[1] for line in result.err.splitlines()] == [
        "Block node is read-only", "Cannot change the option 'foo'"]


def test_snapshot_mode_leaves_nothing_behind(work):
    raw(work)
    Path(work, "tmp").mkdir()
    tool("io", "-s", "-f", "raw", "disk.raw", "-c", "w 0 1M", cwd=work,
         env={"TMPDIR": str(Path(work, "tmp"))}).succeeded()
    assert list(Path(work, "tmp").iterdir()) == []
    assert not any(Path(work, "disk.raw").read_bytes())


def test_copy_on_read(work):
    pair = Pair(work, over("768k", "cluster_size=64k"))
    pair.run("-C", "disk.qcow2", *script([
        "alloc 0 1M", "r -P 0x77 100k 1", "map", "w -P 1 300k 1k", "r -P 0x77 310k 100k", "map",
        "aio_read -P 0x77 448k 64k", "aio_flush", "map", "r -P 0 700k 200k", "map", "r 0 1M", "map",
        "r -P 1 300k 1k"]))


def test_an_image_that_another_program_has(work):
    pair = Pair(work, kind())
    with zoo.held_by_qemu_io(Path(pair.theirs, "disk.qcow2")), \
         zoo.held_by_qemu_io(Path(pair.ours, "disk.qcow2")):
        pair.run("disk.qcow2", "-c", "length")
        pair.run("-r", "disk.qcow2", "-c", "length")
        pair.run("-r", "-U", "disk.qcow2", "-c", "length")
        pair.run("-f", "raw", "disk.qcow2", "-c", "length")


def test_damage_is_an_input_output_error(work):
    def make(folder):
        name = zoo.create(folder, "disk.qcow2", "1M")
        zoo.io(folder, name, "write 0 128k")
        zoo.patch(folder, name, 0x40000, b"\x80\0\0\0\0\0\x02\0")
    pair = Pair(work, make)
    words = ("disk.qcow2", "-c", "r 0 1")
    theirs = command("qemu-io", *words, cwd=pair.theirs)
    ours = command(pair.program, *words, cwd=pair.ours, env=SANITIZER_ENV).ended_well()
    assert ours.code == theirs.code == 1
    assert ours.out == theirs.out
