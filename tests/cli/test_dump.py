# SPDX-License-Identifier: MIT
"""qcow2 dump: offsets and values are those of the file's bytes."""
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from lib.run import tool  # noqa: E402

PARTS = [["header"], ["extensions"], ["l1"], ["l2", "0"], ["reftable"], ["refblock", "0"],
         ["snapshots"], ["bitmaps"]]
KEYS = ["offset", "length", "table", "index", "field", "value", "meaning"]


@pytest.fixture
def image(work):
    name = zoo.snapshots(work)
    zoo.qemu_img("bitmap", "--add", name, "a bitmap", cwd=work).succeeded()
    return Path(work, name)


def fields(image, *words):
    return tool("dump", "--output=json", image, *words).json()


@pytest.mark.parametrize("words", PARTS, ids=lambda w: w[0])
def test_each_value_stands_in_the_file(words, image):
    data = image.read_bytes()
    found = fields(image, *words)
    assert found
    for f in found:
        assert list(f) == KEYS, f
        stored = data[f["offset"]:f["offset"] + f["length"]]
        if words[0] == "extensions":
            assert stored[:4] == f["value"].to_bytes(4, "big"), f
        elif f["length"]:
            assert stored == f["value"].to_bytes(f["length"], "big"), f


@pytest.mark.parametrize("words", PARTS, ids=lambda w: w[0])
def test_text_has_the_same_rows(words, image):
    lines = tool("dump", image, *words).succeeded().out.splitlines()
    assert lines[0].split() == ["Offset", "Length", "Index", "Field", "Value", "Meaning"]
    rows = fields(image, *words)
    assert len(lines) == len(rows) + 1
    for line, row in zip(lines[1:], rows):
        assert int(line[:16], 16) == row["offset"]
        assert int(line[16:22]) == row["length"]
        assert line[24:32].strip() == ("" if row["table"] == "header" else str(row["index"]))
        assert line[32:56].strip() == row["field"]
        assert int(line[56:75].strip(), 0) == row["value"]
        assert line == line.rstrip()
        assert line[75:] == row["meaning"]


def test_the_header_is_what_is_shown_without_a_word(image):
    assert fields(image) == fields(image, "header")
    names = {f["field"]: f for f in fields(image)}
    assert names["magic"]["value"] == 0x514649fb and names["version"]["value"] == 3
    assert names["size"]["offset"] == 24


def test_empty_tables_are_headings_or_an_empty_list(work):
    name = zoo.fresh(work)
    assert tool("dump", name, "snapshots", cwd=work).succeeded().out.count("\n") == 1
    assert tool("dump", "--output=json", name, "l1", cwd=work).succeeded().out == "[]\n"


def test_what_isnt_there_is_said(image, work):
    tool("dump", image, "l2", "9999").refused("9999")
    tool("dump", image, "refblock", "18446744073709551615").refused("refblock")
    Path(work, "x.raw").write_bytes(bytes(512))
    tool("dump", "x.raw", cwd=work).refused("x.raw")
    assert tool("dump", "x.raw", cwd=work).out == ""


@pytest.mark.parametrize("words,said", [
    (["snapshot"], "did you mean 'snapshots'"), (["frob"], "no 'frob'"), (["l2"], "index"),
    (["l1", "3"], "'3'"), (["l2", "x"], "'x'"), (["l2", "18446744073709551616"], "not an index"),
    (["l2", "-1"], "'-1'"), (["l2", "1", "2"], "expecting")])
def test_wrong_words(words, said, image):
    result = tool("dump", "--", image, *words).ended_well()
    assert result.code == 1 and result.out == "", result.describe()
    assert result.err.startswith("qcow2: ") and said in result.err, result.describe()
    assert result.err.endswith("Try 'qcow2 dump --help' for more information\n")
