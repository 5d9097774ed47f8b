# SPDX-License-Identifier: MIT
"""qcow2 map: the same output as the real program's, byte for byte but for `compressed`."""
import os
import re
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from lib.run import qemu_img, tool  # noqa: E402

NO_WORDS = "compressed or encrypted"


def equal(*words, work):
    ours = tool("map", *words, cwd=work).ended_well()
    theirs = qemu_img("map", *words, cwd=work)
    both = ours.describe() + "\n" + theirs.describe()
    assert re.sub(r', "compressed": (true|false)', "", ours.out) == theirs.out, both
    assert ours.code == theirs.code, both
    if ours.code:
        ours.refused(NO_WORDS, "--output=json")
    else:
        assert ours.err == "", both
    return ours


@pytest.mark.parametrize("make", zoo.READABLE)
def test_text_and_json_are_those_of_qemu_img(make, work):
    name = make(work)
    equal(name, work=work)
    equal("-U", "--output=json", name, work=work)


@pytest.mark.parametrize("make", [zoo.chain, zoo.all_states, zoo.compressed, zoo.subclusters,
                                  zoo.raw_data_file, zoo.raw])
def test_parts_of_a_disk_are_those_of_qemu_img(make, work):
    name = make(work)
    for words in (["-s", "100k"], ["-s", "0x48001"], ["-l", "1M"],
                  ["--start-offset=260k", "--max-length=70000"], ["-s", "1088k", "-l", "1"],
                  ["-l", "0"], ["-s", "100T"], ["-s", "8191P", "-l", "8191P"]):
        equal(*words, name, work=work)
        equal(*words, "--output=json", name, work=work)


def test_compressed_clusters_are_told_and_joined(work):
    name = zoo.compressed(work)
    entries = tool("map", "--output=json", name, cwd=work).json()
    keys = ["start", "length", "depth", "present", "zero", "data", "compressed"]
    assert all(list(e) == keys + ["offset"] * ("offset" in e) for e in entries)
    told = [(e["start"] >> 10, e["length"] >> 10) for e in entries if e["compressed"]]
    assert told == [(256, 128), (640, 64)]
    assert not any("offset" in e for e in entries if e["compressed"])


def test_the_rows_before_a_compressed_cluster_are_printed(work):
    name = zoo.compressed(work)
    result = tool("map", name, cwd=work).refused(NO_WORDS, "0x40000")
    assert result.out.splitlines()[1].split()[:2] == ["0x10000", "0x10000"]
    equal("-l", "256k", name, work=work)
    equal("-s", "256k", name, work=work)


@pytest.mark.parametrize("word", ["", "abc", "1kB", "-1", "16E", "8E", "1.5", "1e3"])
@pytest.mark.parametrize("option", ["-s", "-l"])
def test_ranges_are_sizes(option, word, work):
    name = zoo.fresh(work)
    result = tool("map", option, word, name, cwd=work).ended_well()
    assert result.code == 1 and result.out == "", result.describe()
    assert result.err.startswith(f"qcow2: {option}: '{word}' is "), result.describe()
    assert qemu_img("map", option, word, name, cwd=work).code == 1


def test_a_missing_layer_is_an_error(work):
    name = zoo.create(work, "disk.qcow2", "-u", "-b", "missing", "-F", "qcow2", "1M")
    result = tool("map", name, cwd=work).refused("disk.qcow2", "missing")
    assert result.out == ""
