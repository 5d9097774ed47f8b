# SPDX-License-Identifier: MIT
"""qcow2 dd: the same parts as qemu-img dd copies, the same words for what it doesn't take."""
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


@pytest.fixture
def disk(work):
    zoo.create(work, "disk", "4M")
    zoo.io(work, "disk", "write -P 1 0 1M", "write -P 2 1M 700k", "write -c -P 3 3M 64k")
    Path(work, "small").write_bytes(b"hello\n")
    return work


PARTS = [[], ["bs=1M", "count=2"], ["bs=1M", "count=2", "skip=1"], ["bs=777", "count=30", "skip=3"],
         ["skip=5", "bs=100k"], ["bs=64k", "skip=48", "count=1000"], ["count=0"],
         ["bs=1M", "skip=4"],
         ["bs=1M", "skip=9"], ["bs=1k", "count=2", "skip=3"], ["bs=2147483647"],
         ["count=1", "count=3", "bs=1k"], ["count=7E", "bs=1M"], ["bs=1b", "count=513"]]


@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
def test_parts_are_those_of_qemu_img(fmt, disk):
    for part in PARTS:
        words = ["dd", "-O", fmt, *part, "if=disk"]
        theirs = qemu_img(*words, "of=theirs", cwd=disk)
        ours = tool(words[0], "--force", *words[1:], "of=ours", cwd=disk).ended_well()
        assert ours.code == theirs.code, ours.describe() + theirs.describe()
        assert ours.err.replace("qcow2:", "qemu-img:") == theirs.err, ours.describe()
        for name in ("theirs", "ours"):
            qemu_img("convert", "-f", fmt, "-O", "raw", name, name + ".raw", cwd=disk).succeeded()
        same_bytes(disk / "theirs.raw", disk / "ours.raw")
        if fmt == "raw":
            same_bytes(disk / "theirs", disk / "ours")
        else:
            is_clean("ours", cwd=disk)


def test_a_small_raw_file_is_a_disk_of_whole_sectors(disk):
    for part in ([], ["bs=4"], ["bs=3", "count=1"]):
        for run, name in ((qemu_img, "theirs"), (tool, "ours")):
            run("dd", "-f", "raw", *part, "if=small", f"of={name}", cwd=disk).succeeded()
        same_bytes(disk / "theirs", disk / "ours")
        os.unlink(disk / "ours")


@pytest.mark.parametrize("words", [
    [], ["if=disk"], ["of=x"], ["if=disk", "of=x", "foo=1"], ["if=disk", "of=x", "conv=notrunc"],
    ["if=disk", "of=x", "isize=1M"], ["if=disk", "of=x", "extra"], ["if=disk", "of=x", "bs=0"],
    ["if=disk", "of=x", "bs=abc"], ["if=disk", "of=x", "bs="], ["if=disk", "of=x", "bs=3G"],
    ["if=disk", "of=x", "bs=-1"], ["if=disk", "of=x", "count=abc"], ["if=disk", "of=x", "skip=x"]])
def test_wrong_operands_are_told_in_the_same_words(words, disk):
    theirs, ours = qemu_img("dd", *words, cwd=disk), tool("dd", *words, cwd=disk)
    assert ours.code == theirs.code == 1
    assert ours.err.replace("qcow2:", "qemu-img:").splitlines()[0] == theirs.err.splitlines()[0]
    assert not (disk / "x").exists()


def test_what_is_there_is_kept_unless_forced(disk):
    Path(disk, "x").write_bytes(b"precious")
    tool("dd", "if=disk", "of=x", cwd=disk).refused("--force")
    assert (disk / "x").read_bytes() == b"precious"
    tool("dd", "--force", "if=disk", "of=disk", cwd=disk).refused("disk")
    tool("dd", "if=gone", "of=y", cwd=disk).refused("gone", "No such file")
    tool("dd", "-O", "vdi", "if=disk", "of=y", cwd=disk).refused("vdi")
    assert not (disk / "y").exists()


def test_progress_and_quiet(disk):
    result = tool("dd", "-p", "if=disk", "of=x", cwd=disk).succeeded()
    assert result.out.endswith("(100.00/100%)\n"), result.describe()
    assert tool("dd", "-p", "-q", "if=disk", "of=y", cwd=disk).succeeded().out == ""


def test_interrupted_it_leaves_nothing(work):
    Path(work, "big").write_bytes(os.urandom(1 << 20) * 200)
    with subprocess.Popen([TOOL, "dd", "-f", "raw", "-O", "qcow2", "bs=1M", "skip=1", "if=big",
                           "of=x"], cwd=work, env={**os.environ, **SANITIZER_ENV},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as p:
        began = time.monotonic()
        while not (work / "x").exists() and time.monotonic() < began + 20:
            time.sleep(0.001)
        p.send_signal(signal.SIGINT)
        out = p.communicate(timeout=60)[0]
    assert out == b"" and p.returncode in (0, -signal.SIGINT), (p.returncode, out)
    # it may have been too fast
    assert (work / "x").exists() == (p.returncode == 0)
