# SPDX-License-Identifier: MIT
"""qcow2 info: the same output as the real program's, byte for byte, and what it does beyond."""
import json
import os
import struct
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from lib.run import qemu_img, tool  # noqa: E402


def equal(*words, work, **how):
    ours = tool("info", *words, cwd=work, **how).succeeded()
    theirs = qemu_img("info", *words, cwd=work, **how).succeeded()
    text = without_tree(ours.out) if "--backing-chain" in words else ours.out
    assert text == theirs.out, ours.describe() + "\n" + theirs.describe()
    assert ours.err == "", ours.describe()


def without_tree(text):
    """Without the chain at a glance, which we have in front of it."""
    return text if text.startswith("[") else text.partition("\n\n")[2]


@pytest.mark.parametrize("make", zoo.ALL)
def test_text_and_json_are_those_of_qemu_img(make, work):
    name = make(work)
    equal(name, work=work)
    equal("--output=human", "-U", name, work=work)
    equal("--output=json", name, work=work)
    equal("--backing-chain", name, work=work)
    equal("--output=json", "--backing-chain", name, work=work)


def test_dates_are_in_local_time(work):
    name = zoo.odd_snapshots(work)
    equal(name, work=work, env={"TZ": "America/New_York"})
    assert "19:00:00" in tool("info", name, cwd=work, env={"TZ": "America/New_York"}).out


def test_the_format_can_be_said(work):
    name = zoo.fresh(work)
    equal("-f", "raw", name, work=work)
    equal("-f", "raw", "-f", "qcow2", name, work=work)
    Path(work, "x.raw").write_bytes(bytes(512))
    tool("info", "-f", "qcow2", "x.raw", cwd=work).refused("x.raw")


def test_sizes_of_all_magnitudes(work):
    for size in (512, 999 << 10, 999 * 1024 + 512, 1000 << 10, 1023 << 10, 1 << 20, 10188800,
                 999 << 20, 1000 << 20, 1 << 30, 1000 << 30, 5 << 40):
        with open(Path(work, "x.raw"), "wb") as f:
            f.truncate(size)
        equal("x.raw", work=work)


def test_lost_bitmaps_are_not_listed_but_told(work):
    name = zoo.bitmaps(work)
    zoo.patch(work, name, 88, bytes(8))
    ours = tool("info", name, cwd=work).succeeded()
    assert ours.out == qemu_img("info", name, cwd=work).succeeded().out
    assert len(ours.warnings()) == 1 and "bitmap" in ours.err, ours.describe()


def test_damaged_snapshots_are_told_and_the_rest_is_shown(work):
    name = zoo.snapshots(work)
    zoo.patch(work, name, 64, struct.pack(">Q", 1 << 50))
    result = tool("info", name, cwd=work).succeeded()
    assert len(result.warnings()) == 1 and result.warnings() == result.err.splitlines()
    assert "snapshot" in result.err and "Snapshot list" not in result.out
    assert "virtual size: 64 MiB" in result.out
    assert "snapshots" not in tool("info", "--output=json", name, cwd=work).json()


def test_control_characters_of_names_dont_reach_the_terminal(work):
    name = zoo.odd_snapshots(work)
    off = struct.unpack(">Q", Path(work, name).read_bytes()[64:72])[0]
    zoo.patch(work, name, off + 40, b"\x1bno\nex\x9b")  # id and name of the first record
    zoo.create(work, "on.qcow2", "-u", "-b", "\x1b]0;x\x07.qcow2", "-F", "qcow2", "1M")
    for words in ([name], ["on.qcow2"], ["--backing-chain", "on.qcow2"]):
        result = tool("info", *words, cwd=work).ended_well()
        for character in "\x1b\x07\x9b":
            assert character not in result.out + result.err, result.describe()
        assert "\\x1b" in result.out + result.err, result.describe()
    snapshot = tool("info", "--output=json", name, cwd=work).json()["snapshots"][0]
    assert (snapshot["id"], snapshot["name"]) == ("\x1b", "no\nex\ufffdra")


def test_backing_files_are_opened_for_the_chain_only(work):
    name = zoo.create(work, "disk.qcow2", "-u", "-b", "missing.qcow2", "-F", "qcow2", "1M")
    equal(name, work=work)
    tool("info", "--backing-chain", name, cwd=work).refused("missing.qcow2")
    assert tool("info", "--backing-chain", name, cwd=work).out == ""


def test_a_circle_of_backing_files_is_found(work):
    zoo.create(work, "a.qcow2", "-u", "-b", "b.qcow2", "-F", "qcow2", "1M")
    zoo.create(work, "b.qcow2", "-u", "-b", "./a.qcow2", "-F", "qcow2", "1M")
    equal("a.qcow2", work=work)
    tool("info", "--backing-chain", "a.qcow2", cwd=work).refused("a.qcow2", "circle")


@pytest.mark.parametrize("backing", ["nbd:unix:/nowhere", 'json:{"driver":"null-co"}',
                                     "https://example.com/x"])
def test_only_local_files_are_followed(backing, work):
    name = zoo.create(work, "disk.qcow2", "-u", "-b", backing, "-F", "raw", "1M")
    equal(name, work=work)
    equal("--output=json", name, work=work)
    tool("info", "--backing-chain", name, cwd=work).refused("disk.qcow2", "local file")


def test_a_long_chain_needs_many_files(work):
    """More layers than the usual soft limit of open files."""
    def layer(i, backing):
        return zoo.create(work, f"{i}.qcow2", *backing, "1M")

    layer(0, ())
    name = layer(1, ("-u", "-b", "0.qcow2", "-F", "qcow2"))
    data = Path(work, name).read_bytes()
    where = data.index(b"0.qcow2")
    layers = 300
    for i in range(2, layers):
        below = f"{i - 1}.qcow2".encode()
        one = bytearray(data)
        one[where:where + len(below)] = below
        struct.pack_into(">I", one, 16, len(below))
        Path(work, f"{i}.qcow2").write_bytes(one)
    result = tool("info", "--backing-chain", "--output=json", f"{layers - 1}.qcow2", cwd=work)
    assert len(result.json()) == layers


def test_a_writer_keeps_readers_out_unless_they_insist(work):
    path = Path(work, zoo.fresh(work))
    with zoo.held_by_qemu_io(path):
        for verb in ("info", "map", "dump"):
            tool(verb, path).refused(str(path), "qemu-io", "-U")
            tool(verb, "-U", path).succeeded()
        tool("compare", path, path).refused("-U", code=2)
        tool("compare", "-U", path, path).succeeded()
    tool("info", path).succeeded()


def test_every_image_is_valid_json(work):
    for make in (zoo.snapshots, zoo.strange_name):
        folder = Path(work, make.__name__)
        folder.mkdir()
        name = make(folder)
        result = tool("info", "--output=json", name, cwd=folder).succeeded()
        assert json.loads(result.out)["filename"] == name
        assert result.out.isascii()


def usage(work, name, *words):
    return tool("info", "--usage", "--output=json", *words, name, cwd=work).json()["usage"]


def test_where_the_space_goes(work):
    name = zoo.create(work, "disk.qcow2", "64M")
    zoo.io(work, name, "write -P 1 0 1M", "write -c -P 2 2M 64k", "write -c -P 3 3M 64k")
    now = usage(work, name)
    # header, refcount table and block, L1 table, L2 table
    assert now["data"] == 1 << 20 and now["metadata"] == 5 << 16
    assert 0 < now["compressed"] <= 1 << 16 and now["snapshots"] == now["leaked"] == 0
    assert sum(now.values()) >= Path(work, name).stat().st_size

    qemu_img("snapshot", "-c", "s", name, cwd=work).succeeded()
    zoo.io(work, name, "write -P 4 0 256k")
    then = usage(work, name)
    assert then["data"] == 1 << 20
    assert then["snapshots"] >= 256 << 10


def test_what_is_lost_and_what_is_free(work):
    name = zoo.create(work, "disk.qcow2", "64M")
    zoo.io(work, name, "write -P 1 0 512k")
    size = Path(work, name).stat().st_size
    with open(Path(work, name), "r+b") as f:
        f.truncate(size + (4 << 16))
    zoo.patch(work, name, 0x20000 + 2 * (size >> 16), struct.pack(">H", 1))
    now = usage(work, name)
    assert (now["leaked"], now["free"]) == (1 << 16, 3 << 16)
    text = tool("info", "--usage", name, cwd=work).succeeded().out
    assert "Space in the file:\n    data: 512 KiB\n" in text and "    leaked: 64 KiB\n" in text


def test_the_data_of_a_data_file_are_elsewhere(work):
    name = zoo.create(work, "disk.qcow2", "-o", "data_file=disk.data", "64M")
    zoo.io(work, name, "write -P 1 0 1M")
    assert usage(work, name)["data"] == 0


def test_the_chain_at_a_glance(work):
    zoo.create(work, "a.qcow2", "1M")
    zoo.create(work, "b.qcow2", "-b", "a.qcow2", "-F", "qcow2", "2M")
    zoo.create(work, "c.qcow2", "-b", "b.qcow2", "-F", "qcow2", "3M")
    tree = tool("info", "--backing-chain", "c.qcow2", cwd=work).succeeded().out.splitlines()[:4]
    assert [line.partition(",")[0] for line in tree] == [
        "c.qcow2 (qcow2", "\\_ b.qcow2 (qcow2", "   \\_ a.qcow2 (qcow2", ""]
    assert " 3 MiB, " in tree[0] and " 1 MiB, " in tree[2] and tree[0].endswith(" on disk)")
