# SPDX-License-Identifier: MIT
"""qcow2 compare: lines and exit codes of the real program."""
import itertools
import json
import os
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from lib.run import qemu_img, tool  # noqa: E402


@pytest.fixture
def images(work):
    """Pairs of these differ in content, in size, in allocation only, or not at all."""
    def make(name, size, *commands):
        zoo.create(work, name, size)
        if commands:
            zoo.io(work, name, *commands)
        return name

    return [make("nothing", "1M"), make("data", "1M", "write -P 1 64k 64k"),
            make("byte", "1M", "write -P 1 64k 64k", "write -P 2 65537 1"),
            make("zeros", "1M", "write -z 128k 64k"), make("nulls", "1M", "write -P 0 128k 64k"),
            make("longer", "2M", "write -P 1 64k 64k"),
            make("tail", "2M", "write -P 1 1536k 64k")]


def comparable(out):
    """
    Without the steps of the progress, and without the place of a mismatch in allocation: there
    qemu-img tells where the run begins in which it found one, we tell the byte.
    """
    out = re.sub(r"(\n    \(\d+\.\d\d/100%\))+(?=\n)", "\n    (.../100%)", out)
    return re.sub(r"Offset \d+ block status", "Offset N block status", out)


def equal(*words, work):
    ours = tool("compare", *words, cwd=work).ended_well()
    theirs = qemu_img("compare", *words, cwd=work)
    both = ours.describe() + "\n" + theirs.describe()
    assert (ours.code, ours.err) == (theirs.code, theirs.err), both
    assert comparable(ours.out) == comparable(theirs.out), both
    return ours


def test_strict_mode_tells_the_first_byte_whose_allocation_differs(images, work):
    for a, b, where in (("nothing", "data", 65536), ("zeros", "nothing", 131072)):
        result = tool("compare", "-s", a, b, cwd=work).succeeded(1)
        assert result.out == f"Strict mode: Offset {where} block status mismatch!\n"


@pytest.mark.parametrize("words,code,verdict", [
    (["data", "data"], 0, {"identical": True, "sizes-differ": False}),
    (["data", "longer"], 0, {"identical": True, "sizes-differ": True}),
    (["data", "byte"], 1, {"identical": False, "sizes-differ": False, "difference": "content",
                           "offset": 65537}),
    (["-s", "data", "longer"], 1, {"identical": False, "sizes-differ": True,
                                   "difference": "size"}),
    (["-s", "-p", "zeros", "nothing"], 1, {"identical": False, "sizes-differ": False,
                                           "difference": "allocation", "offset": 131072})])
def test_the_verdict_as_an_object(words, code, verdict, images, work):
    result = tool("compare", "--output=json", *words, cwd=work).succeeded(code)
    assert json.loads(result.out) == verdict and result.err == ""
    assert tool("compare", "-q", "--output=json", *words, cwd=work).succeeded(code).out == ""


@pytest.mark.parametrize("words", [[], ["-s"], ["-q"], ["-U", "-s", "-q"]])
def test_verdicts_are_those_of_qemu_img(words, images, work):
    codes = {equal(*words, a, b, work=work).code
             for a, b in itertools.product(images[:3] + images[5:], images)}
    assert codes == {0, 1}


def test_formats_can_be_said(images, work):
    qemu_img("convert", "-O", "raw", "data", "data.raw", cwd=work).succeeded()
    assert equal("-f", "qcow2", "-F", "raw", "data", "data.raw", work=work).code == 0
    assert equal("-f", "raw", "-F", "raw", "data", "data.raw", work=work).code == 1
    tool("compare", "-F", "qcow2", "data", "data.raw", cwd=work).refused("data.raw", code=2)
    tool("compare", "-f", "vmdk", "data", "data.raw", cwd=work).refused("vmdk", "qcow2", code=2)


def test_progress_is_printed_as_qemu_img_prints_it(images, work):
    equal("-p", "nothing", "zeros", work=work)

    def bytes_of(*words):
        tool("compare", *words, cwd=work, stdout=Path(work, "out")).ended_well()
        return Path(work, "out").read_bytes()

    out = bytes_of("-p", "nothing", "zeros")
    assert out.startswith(b"    (0.00/100%)\r")
    assert out.endswith(b"    (100.00/100%)\rImages are identical.\n\n")
    assert bytes_of("-p", "-q", "nothing", "zeros") == b""
    assert bytes_of("-p", "nothing", "data").endswith(b"\rContent mismatch at offset 65536!\n\n")


def test_an_odd_end_reads_as_zeros(work):
    Path(work, "odd").write_bytes(bytes(4096) + b"x")
    with open(Path(work, "long"), "wb") as f:
        f.truncate(1 << 20)
    assert equal("odd", "long", work=work).out == "Content mismatch at offset 4096!\n"
    equal("long", "odd", work=work)
    with open(Path(work, "odd"), "wb") as f:
        f.truncate(100)
    equal("odd", "long", work=work)
    equal("-s", "odd", "long", work=work)


def test_trouble_is_2(images, work):
    tool("compare", "nothing", "missing", cwd=work).refused("missing", code=2)
    tool("compare", "missing", "nothing", cwd=work).refused("missing", code=2)
    zoo.create(work, "lost", "-u", "-b", "gone", "-F", "raw", "1M")
    tool("compare", "nothing", "lost", cwd=work).refused("gone", code=2)
    for words in ([], ["nothing"], ["nothing", "data", "zeros"], ["-x", "nothing", "data"],
                  ["-T", "fast", "nothing", "data"]):
        result = tool("compare", *words, cwd=work).ended_well()
        assert result.code == 2, result.describe()
        assert result.err.endswith("Try 'qcow2 compare --help' for more information\n")


def test_an_unreadable_cluster_is_trouble(images, work):
    zoo.io(work, "data", "write -c -P 3 512k 64k")
    l2 = tool("dump", "--output=json", "data", "l2", "0", cwd=work).json()
    packed = [f for f in l2 if f["value"] >> 62 & 1]
    assert len(packed) == 1
    host = packed[0]["value"] & ((1 << 54) - 1)
    zoo.patch(work, "data", host, b"\xff" * 64)
    zoo.create(work, "same", "1M")
    zoo.io(work, "same", "write -P 1 64k 64k")
    tool("compare", "data", "same", cwd=work).refused("data", code=2)


@pytest.mark.parametrize("cache", ["none", "writeback", "writethrough", "directsync", "unsafe"])
def test_cache_modes(cache, images, work):
    result = tool("compare", "-T", cache, "data", "data", cwd=work).ended_well()
    assert result.code == 0, result.describe()


def test_what_two_overlays_share_is_not_read(work):
    """A cluster of the shared base can't be decompressed: nobody notices."""
    zoo.create(work, "base", "8M")
    zoo.io(work, "base", "write -c -P 6 1M 64k", "write -P 7 2M 2M")
    l2 = tool("dump", "--output=json", "base", "l2", "0", cwd=work).json()
    packed = next(f["value"] for f in l2 if f["value"] >> 62 & 1)
    zoo.patch(work, "base", packed & ((1 << 54) - 1), b"\xff" * 64)
    for name in ("a", "b"):
        zoo.create(work, name, "-b", "base", "-F", "qcow2", "8M")
        zoo.io(work, name, "write -P 3 3M 64k")
    tool("convert", "a", "x", cwd=work).refused("a")
    assert tool("compare", "-s", "a", "b", cwd=work).succeeded().out == "Images are identical.\n"
    zoo.io(work, "b", "write -P 4 3100k 512")
    result = tool("compare", "a", "b", cwd=work).succeeded(1)
    assert result.out == f"Content mismatch at offset {3100 << 10}!\n"
