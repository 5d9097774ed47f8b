# SPDX-License-Identifier: MIT
"""qcow2 bench does what it says; tests/dropin compares what it prints."""
import json
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from lib.run import tool  # noqa: E402
from lib.writing import is_clean  # noqa: E402


@pytest.fixture
def disk(work):
    zoo.create(work, "disk", "4M")
    zoo.io(work, "disk", "write -P 1 0 1M")
    return work


def test_what_was_asked_for_is_written(disk):
    tool("bench", "-w", "-c", "64", "-d", "8", "-s", "64k", "--pattern", "7", "disk",
         cwd=disk).succeeded()
    zoo.io(disk, "disk", "read -P 7 0 4M")
    tool("bench", "-w", "-c", "3", "-d", "2", "-s", "4k", "-S", "1M", "-o", "64k", "--pattern", "8",
         "disk", cwd=disk).succeeded()
    zoo.io(disk, "disk", *(f"read -P 8 {64 + 1024 * i}k 4k" for i in range(3)), "read -P 7 0 64k",
           "read -P 7 68k 512k")
    is_clean("disk", cwd=disk)


def test_the_result_as_an_object(disk):
    result = tool("bench", "--output=json", "-w", "-c", "20", "-d", "4", "-s", "8k", "-o", "64k",
                  "--flush-interval", "5", "disk", cwd=disk).succeeded()
    told = json.loads(result.out)
    assert told.pop("elapsed-ns") > 0
    assert told == {"operation": "write", "requests": 20, "bytes": 8192, "depth": 4,
                    "offset": 65536, "step": 8192, "flush-interval": 5}


def test_what_is_refused(disk):
    tool("bench", "gone", cwd=disk).refused("gone", "No such file")
    tool("bench", "-U", "-w", "disk", cwd=disk).refused("-U")
    for words in ([], ["disk", "disk"], ["-i", "x", "disk"], ["-t", "x", "disk"],
                  ["-S", "x", "disk"]):
        result = tool("bench", *words, cwd=disk)
        assert result.code == 1 and "qcow2 bench --help" in result.err, result.describe()
