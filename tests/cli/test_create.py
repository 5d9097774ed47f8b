# SPDX-License-Identifier: MIT
"""qcow2 create: what is typed, what is printed, what is refused. The bytes are others' matter."""
import os
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from lib.run import qemu_img, tool  # noqa: E402


@pytest.fixture
def base(work):
    zoo.create(work, "base.qcow2", "3M")
    zoo.create(work, "comma,base", "3M")
    return "base.qcow2"


def equal(*words, work):
    """Both programs make it, say the same and report the same of what they made."""
    said = []
    for program in (tool, qemu_img):
        result = program("create", *words, cwd=work).succeeded()
        assert result.err == "", result.describe()
        said.append((result.out, qemu_img("info", "--output=json", "x", cwd=work).json()))
        said[-1][1].pop("actual-size")
        for made in ("x", "data"):
            Path(work, made).unlink(missing_ok=True)
    assert said[0] == said[1]
    return said[0]


QCOW2 = ["", "compat=0.10", "compat=v2", "compat=1.1", "compat=v3", "cluster_size=512",
         "cluster_size=2M", "cluster_size=0x1000", "refcount_bits=1", "refcount_bits=0x40",
         "lazy_refcounts=on", "lazy_refcounts", "lazy_refcounts=off", "extended_l2=on",
         "preallocation=off", "preallocation=metadata", "preallocation=falloc",
         "preallocation=full", "compression_type=zlib", "compression_type=zstd",
         "data_file=data", "data_file=data,data_file_raw=on", "data_file_raw=off", "size=2M",
         "compat=1.1,cluster_size=128k,extended_l2=on,refcount_bits=8,lazy_refcounts=on,"
         "preallocation=metadata,compression_type=zstd,data_file_raw=off"]


@pytest.mark.parametrize("options", QCOW2)
def test_qcow2_options_are_told_as_qemu_img_tells_them(options, work):
    words = ["-o", options] if options else []
    size = [] if "size=2M" in options.split(",") else ["1M"]
    equal("-f", "qcow2", *words, "x", *size, work=work)


@pytest.mark.parametrize("words", [
    ["x", "1M"], ["x", "1"], ["-o", "preallocation=falloc", "x", "1M"], ["-o", "size=1k", "x"],
    ["-o", "preallocation=full,size=1k", "x"], ["-q", "x", "1M"]])
def test_raw_options_are_told_as_qemu_img_tells_them(words, work):
    equal("-f", "raw", *words, work=work)


@pytest.mark.parametrize("words", [
    ["-b", "base.qcow2", "-F", "qcow2", "x"],
    ["-b", "base.qcow2", "-F", "qcow2", "x", "5M"],
    ["-b", "base.qcow2", "-F", "qcow2", "-o", "backing_file=gone,cluster_size=4k", "x"],
    ["-b", "comma,base", "-F", "qcow2", "x"],
    ["-o", "backing_file=comma,,base,backing_fmt=qcow2", "x"],
    ["-o", "backing_file=base.qcow2", "-o", "backing_fmt=qcow2", "-o", "compat=v2", "x"],
    ["-u", "-b", "gone", "-F", "raw", "x", "1M"],
    ["-f", "raw", "-f", "qcow2", "-o", "size=1M", "-o", "size=2M", "x"]])
def test_backing_files_are_told_as_qemu_img_tells_them(words, base, work):
    equal("-f", "qcow2", *words, work=work)


def test_a_prefixed_size_wins_nothing(work):
    assert "size=1073741824 " in tool("create", "x", "1G", cwd=work).succeeded().out


def test_qcow2_is_the_format_when_none_is_said(work):
    result = tool("create", "x", "1M", cwd=work).succeeded()
    assert result.out.startswith("Formatting 'x', fmt=qcow2 "), result.describe()


def test_quiet(work):
    result = tool("create", "-q", "x", "1M", cwd=work).succeeded()
    assert (result.out, result.err) == ("", "")
    assert Path(work, "x").stat().st_size > 0


def test_a_file_that_isnt_empty_needs_force(work):
    Path(work, "x").write_bytes(b"precious")
    tool("create", "x", "1M", cwd=work).refused('"x"', "isn't empty", "--force")
    assert tool("create", "x", "1M", cwd=work).out == ""
    assert Path(work, "x").read_bytes() == b"precious"
    tool("create", "--force", "x", "1M", cwd=work).succeeded()
    qemu_img("check", "x", cwd=work).succeeded()
    Path(work, "empty").touch()
    tool("create", "empty", "1M", cwd=work).succeeded()


def test_nothing_is_said_to_be_formatted_when_it_isnt(work):
    result = tool("create", "no/such/folder/x", "1M", cwd=work).refused("no/such/folder/x")
    assert result.out == ""


@pytest.mark.parametrize("fmt", ["qcow2", "raw"])
@pytest.mark.parametrize("word", ["help", "?", "size=1M,help"])
def test_the_table_of_options(fmt, word, work):
    result = tool("create", "-f", fmt, "-o", word, cwd=work).succeeded()
    theirs = qemu_img("create", "-f", fmt, "-o", word, "x", cwd=work).succeeded()
    missing = re.compile(r"^  (encrypt|nocow|extent_size_hint)")
    expected = [line for line in theirs.out.splitlines() if not missing.match(line)]
    assert result.out.splitlines() == expected
    assert not Path(work, "x").exists()


def wrong(result, *said):
    result.ended_well()
    assert result.code == 1 and result.out == "", result.describe()
    first, second = result.err.splitlines()
    assert first.startswith("qcow2: ") and all(s in first for s in said), result.describe()
    assert second == "Try 'qcow2 create --help' for more information"


@pytest.mark.parametrize("options,said", [
    ("clustersize=4k", "did you mean 'cluster_size'?"),
    ("refcount-bits=4", "did you mean 'refcount_bits'?"),
    ("frobnicate=on", "unknown option 'frobnicate'"),
    ("=x", "unknown option ''"),
    ("cluster_size", "needs a value"),
    ("cluster_size=", "''"),
    ("cluster_size=-1", "'-1'"),
    ("cluster_size=1.5", "'1.5'"),
    ("cluster_size=99999999999999999999", "99999999999999999999"),
    ("refcount_bits=1k", "a number"),
    ("refcount_bits=0", "a number from 1 on"),
    ("cluster_size=0", "a power of two from 512 to 2M"),
    ("refcount_bits=4294967312", "a number"),
    ("refcount_bits=-1", "a number"),
    ("lazy_refcounts=maybe", "expecting on or off"),
    ("compat=2", "expecting 0.10, 1.1, v2, v3"),
    ("preallocation=some", "expecting off, metadata, falloc, full"),
    ("compression_type=lzma", "expecting zlib, zstd"),
    (",compat=v2", "empty element"), ("compat=v2,", "empty element"), ("", "empty element")])
def test_wrong_options(options, said, work):
    wrong(tool("create", "-o", options, "x", "1M", cwd=work), said)
    assert not Path(work, "x").exists()


@pytest.mark.parametrize("word", ["1kB", "-1", "-0", "1.5", "1e3", "x", "", "8E", "16E", "1 G",
                                  "0x", "18446744073709551616"])
def test_wrong_sizes(word, work):
    wrong(tool("create", "--", "x", word, cwd=work), f"'{word}'", "k, M, G, T, P or E")
    assert qemu_img("create", "-f", "qcow2", "--", "x", word, cwd=work).code == 1
    assert not Path(work, "x").exists()


@pytest.mark.parametrize("word", ["0", "1", "512", "1.5k", "0.1M", "1.00001M", "+1M", " 1M", "1b",
                                  "0x1000", "0x10000000", "1.", "1.0", "0.0005k", "7.3G"])
def test_sizes_are_read_as_qemu_img_reads_them(word, work):
    equal("-f", "qcow2", "--", "x", word, work=work)


def test_wrong_operands(work):
    wrong(tool("create", cwd=work), "expecting a file")
    wrong(tool("create", "x", "1M", "2M", cwd=work), "expecting a file")
    wrong(tool("create", "x", cwd=work), "size is needed", "create x 10G")
    wrong(tool("create", "-u", "-b", "gone", "-F", "raw", "x", cwd=work), "size is needed")
    wrong(tool("create", "-o", "size=1M", "x", "2M", cwd=work), "given twice")
    wrong(tool("create", "-f", "raw", "-o", "cluster_size=4k", "x", "1M", cwd=work), "cluster_size")
    wrong(tool("create", "-f", "raw", "-b", "y", "x", "1M", cwd=work), "backing_file")
    assert not Path(work, "x").exists()


@pytest.mark.parametrize("words,said", [
    (["-f", "vmdk", "x", "1M"], "'vmdk'; supported are qcow2 and raw"),
    (["-o", "encryption=on", "x", "1M"], "encrypted images aren't supported yet"),
    (["-o", "encrypt.format=luks,encrypt.key-secret=s", "x", "1M"], "encrypt.format"),
    (["-o", "compat=0.10,extended_l2=on", "x", "1M"], "compat=1.1"),
    (["-o", "cluster_size=3k", "x", "1M"], "power of two"),
    (["-o", "data_file_raw=on", "x", "1M"], "data file"),
    (["-f", "raw", "-o", "preallocation=metadata", "x", "1M"], "metadata"),
    (["-b", "base.qcow2", "x"], "backing format"),
    (["-F", "qcow2", "x", "1M"], "backing"),
    (["-b", "gone", "-F", "qcow2", "x"], "gone"),
    (["x", "3P"], "3377699720527872")])
def test_what_cant_be_made_is_refused_with_the_reason(words, said, base, work):
    tool("create", *words, cwd=work).refused(said)
    assert not Path(work, "x").exists()
    if "vmdk" not in words:
        assert qemu_img("create", "-f", "qcow2", *words, cwd=work).code == 1


@pytest.mark.parametrize("option", ["nocow=on", "nocow=off", "extent_size_hint=1M"])
def test_hints_to_the_file_system_are_taken_with_a_warning(option, work):
    result = tool("create", "-o", option, "x", "1M", cwd=work).succeeded()
    assert len(result.warnings()) == 1 and option.split("=")[0] in result.err, result.describe()
    assert option not in result.out


def test_names_are_made_harmless(work):
    result = tool("create", "a\x1b[2J", "1M", cwd=work).succeeded()
    assert result.out.startswith("Formatting 'a\\x1b[2J', fmt=qcow2 ")
    assert Path(work, "a\x1b[2J").exists()
