# SPDX-License-Identifier: MIT
"""qcow2 bench: what it prints and refuses beside qemu-img, and that it does what it says."""
import os
import re
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from lib.run import qemu_img, tool  # noqa: E402
from lib.writing import is_clean  # noqa: E402


@pytest.fixture
def disk(work):
    zoo.create(work, "disk", "4M")
    zoo.io(work, "disk", "write -P 1 0 1M")
    return work


def timeless(text):
    return re.sub(r"\d+\.\d{3} seconds", "N seconds", text)


@pytest.mark.parametrize("words", [
    ["-c", "100"], ["-c", "100", "-q"], ["-c", "0"], ["-c", "50", "-d", "1"],
    ["-c", "1", "-d", "99"],
    ["-c", "100", "-w"], ["-c", "40", "-s", "1M"], ["-c", "60", "-S", "8k", "-o", "64k"],
    ["-c", "100", "-w", "--pattern", "65", "--flush-interval", "10", "-d", "10"],
    ["-c", "100", "-w", "--flush-interval", "10", "--no-drain", "-d", "5"],
    ["-c", "30", "-i", "threads"], ["-c", "30", "-i", "io_uring", "-t", "none"],
    ["-c", "30", "-n", "-t", "none"], ["-c", "20", "-U"], ["-c", "20", "-f", "raw"],
    ["-c", "20", "-s", "0"], ["-c", "10", "-o", "5M"], ["-c", "3", "-s", "3M"],
    ["-c", "3", "-s", "4097", "-S", "1"], ["-c", "3", "-o", "4193792", "-d", "1"],
    ["-c", "x"], ["-d", "x"], ["-w", "--pattern", "300"], ["-w", "--flush-interval", "x"],
    ["-s", "3G"], ["--flush-interval", "100"], ["-w", "--flush-interval", "10"]])
def test_it_prints_what_qemu_img_prints(words, disk):
    theirs = qemu_img("bench", *words, "disk", cwd=disk)
    ours = tool("bench", *words, "disk", cwd=disk).ended_well()
    both = ours.describe() + theirs.describe()
    assert ours.code == theirs.code, both
    assert timeless(ours.out) == timeless(theirs.out), both
    assert ours.err.replace("qcow2:", "qemu-img:") == theirs.err, both


def test_what_was_asked_for_is_written(disk):
    tool("bench", "-w", "-c", "64", "-d", "8", "-s", "64k", "--pattern", "7", "disk",
         cwd=disk).succeeded()
    zoo.io(disk, "disk", "read -P 7 0 4M")
    tool("bench", "-w", "-c", "3", "-d", "2", "-s", "4k", "-S", "1M", "-o", "64k", "--pattern", "8",
         "disk", cwd=disk).succeeded()
    zoo.io(disk, "disk", *(f"read -P 8 {64 + 1024 * i}k 4k" for i in range(3)), "read -P 7 0 64k",
           "read -P 7 68k 512k")
    is_clean("disk", cwd=disk)


def test_what_is_refused(disk):
    tool("bench", "gone", cwd=disk).refused("gone", "No such file")
    tool("bench", "-U", "-w", "disk", cwd=disk).refused("-U")
    for words in ([], ["disk", "disk"], ["-i", "x", "disk"], ["-t", "x", "disk"],
                  ["-S", "x", "disk"]):
        result = tool("bench", *words, cwd=disk)
        assert result.code == 1 and "qcow2 bench --help" in result.err, result.describe()
