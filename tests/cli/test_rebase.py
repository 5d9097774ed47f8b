# SPDX-License-Identifier: MIT
"""qcow2 rebase: what it prints, what it refuses, and that it can be interrupted."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from lib.run import SANITIZER_ENV, TOOL, qemu_img, tool  # noqa: E402
from lib.writing import is_clean, same_bytes  # noqa: E402

ENV = {**os.environ, **SANITIZER_ENV}
MIB = 1 << 20


@pytest.fixture
def chain(work):
    zoo.create(work, "base", "4M")
    zoo.create(work, "mid", "-b", "base", "-F", "qcow2", "4M")
    zoo.create(work, "top", "-b", "mid", "-F", "qcow2", "4M")
    zoo.io(work, "base", "write -P 1 0 1M")
    zoo.io(work, "mid", "write -P 3 2M 1M")
    zoo.io(work, "top", "write -P 2 512k 1M", "write -z 0 64k")
    return work


def backing(work, name):
    info = qemu_img("info", "--output=json", "-U", name, cwd=work).json()
    return info.get("backing-filename"), info.get("backing-filename-format")


def test_cache_modes_and_formats_are_taken(chain):
    for words in (["-t", "none", "-T", "none"], ["-t", "unsafe"], ["-f", "qcow2", "-U"]):
        result = tool("rebase", *words, "-b", "base", "-F", "qcow2", "top", cwd=chain).succeeded()
        assert result.out == result.err == ""
        tool("rebase", "-b", "mid", "-F", "qcow2", "top", cwd=chain).succeeded()
    assert backing(chain, "top") == ("mid", "qcow2")


def test_progress_is_that_of_qemu_img(chain):
    out = tool("rebase", "-p", "-b", "base", "-F", "qcow2", "top", cwd=chain).succeeded().out
    # (carriage returns became line feeds when this was read)
    assert out.startswith("    (0.00/100%)\n") and out.endswith("    (100.00/100%)\n"), out
    out = tool("rebase", "-p", "-q", "-b", "mid", "-F", "qcow2", "top", cwd=chain).succeeded().out
    assert out == ""


def test_what_is_refused(chain):
    Path(chain, "raw").write_bytes(bytes(MIB))
    before = {f: (chain / f).read_bytes() for f in ("base", "mid", "top")}
    for words, *sentence in (
            (["-b", "base", "top"], "Could not change the backing file to 'base': backing format "
             "must be specified"),
            (["-u", "-b", "base", "top"], "backing format must be specified"),
            (["-b", "gone", "-F", "qcow2", "top"], "new backing file", "gone", "No such file"),
            (["-b", "base", "-F", "vdi", "top"], "unknown format 'vdi'"),
            (["-f", "raw", "-b", "base", "-F", "qcow2", "raw"], "raw image"),
            (["-b", "top", "-F", "qcow2", "top"], "top"),
            (["-b", "top", "-F", "qcow2", "mid"], "mid"),
            (["-b", "raw", "-F", "qcow2", "top"], "raw"),
            (["-u", "-b", "n" * 1024, "-F", "raw", "top"], "1024 bytes")):
        tool("rebase", *words, cwd=chain).refused(*sentence)
    for words in ([], ["-b", "base"], ["top"], ["-b", "base", "top", "mid"],
                  ["-t", "some", "-b", "base", "top"], ["-T", "some", "-b", "base", "top"]):
        result = tool("rebase", *words, cwd=chain)
        assert result.code == 1 and "qcow2 rebase --help" in result.err, result.describe()
    assert before == {f: (chain / f).read_bytes() for f in before}


def test_an_image_with_raw_external_data_gets_no_backing_file(chain):
    zoo.create(chain, "ext", "-o", "data_file=ext.data,data_file_raw=on", "4M")
    tool("rebase", "-u", "-b", "base", "-F", "qcow2", "ext", cwd=chain).refused("raw")


def test_a_missing_backing_file_is_replaced_without_looking_only(chain):
    os.rename(chain / "mid", chain / "moved")
    tool("rebase", "-b", "moved", "-F", "qcow2", "top", cwd=chain).refused("mid")
    tool("rebase", "-u", "-b", "moved", "-F", "qcow2", "top", cwd=chain).succeeded()
    assert backing(chain, "top") == ("moved", "qcow2")


def test_files_in_use_are_left_alone(chain):
    before = {f: (chain / f).read_bytes() for f in ("base", "mid", "top")}
    with zoo.held_by_qemu_io(chain / "top"):
        tool("rebase", "-b", "base", "-F", "qcow2", "top", cwd=chain).refused("top")
        tool("rebase", "-u", "-b", "base", "-F", "qcow2", "top", cwd=chain).refused("top")
    with zoo.held_by_qemu_io(chain / "base"):
        tool("rebase", "-b", "base", "-F", "qcow2", "top", cwd=chain).refused("base")
    assert before == {f: (chain / f).read_bytes() for f in before}


def test_a_name_is_meant_from_where_the_image_is(chain):
    os.mkdir(chain / "sub")
    zoo.create(chain / "sub", "near", "4M")
    zoo.create(chain / "sub", "over", "-b", "near", "-F", "qcow2", "4M")
    tool("rebase", "-b", "../base", "-F", "qcow2", "sub/over", cwd=chain).succeeded()
    assert backing(chain / "sub", "over") == ("../base", "qcow2")
    tool("rebase", "-b", "sub/near", "-F", "qcow2", "sub/over", cwd=chain).refused("sub/near")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_interrupted_it_leaves_the_image_as_it_was(signum, work):
    zoo.create(work, "base", "64M")
    zoo.io(work, "base", "write -P 1 0 64M")
    zoo.create(work, "top", "-b", "base", "-F", "qcow2", "64M")
    start = os.path.getsize(work / "top")
    # every write waits for the disk
    with subprocess.Popen([TOOL, "rebase", "-t", "writethrough", "-b", "", "top"], cwd=work,
                          env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as p:
        began = time.monotonic()
        while os.path.getsize(work / "top") < start + MIB and time.monotonic() < began + 20:
            time.sleep(0.002)
        p.send_signal(signum)
        out = p.communicate(timeout=60)[0]
    assert out == b""
    # it may have been too fast
    assert p.returncode == -signum or backing(work, "top")[0] is None, p.returncode
    assert p.returncode == 0 or backing(work, "top") == ("base", "qcow2")
    is_clean("top", cwd=work)
    qemu_img("convert", "-O", "raw", "top", "a", cwd=work).succeeded()
    qemu_img("convert", "-O", "raw", "base", "b", cwd=work).succeeded()
    same_bytes(work / "a", work / "b")
