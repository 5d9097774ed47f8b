# SPDX-License-Identifier: MIT
"""qcow2 bitmap: what it says and refuses, and the order of its steps, beside qemu-img bitmap."""
import shutil

import pytest

from lib.bitmaps import listed
from lib.run import qemu_img, qemu_io, tool

HINT = "Try block-dirty-bitmap-remove to delete this bitmap from disk"


def pair(work, *options, size="10M"):
    """Two images that are the same, for theirs and for ours, and one with a bitmap beside them."""
    for name in ("theirs", "other"):
        qemu_img("create", "-q", "-f", "qcow2", *options, name, size, cwd=work).succeeded()
    if not options:
        qemu_img("bitmap", "--add", "other", "far", cwd=work).succeeded()
    shutil.copy(work / "theirs", work / "ours")


def both(work, *words):
    """The same with both; what they say is the same but for the first word and name."""
    ours = tool("bitmap", *[w if w != "IMAGE" else "ours" for w in words], cwd=work).ended_well()
    theirs = qemu_img("bitmap", *[w if w != "IMAGE" else "theirs" for w in words], cwd=work)
    described = ours.describe() + "\n" + theirs.describe()
    assert ours.code == theirs.code and ours.out == theirs.out == "", described
    assert ours.err.replace("qcow2: ", "") == theirs.err.replace("qemu-img: ", ""), described
    assert listed(work / "ours") == listed(work / "theirs"), described
    return ours


def test_every_step_and_its_refusals_are_those_of_qemu_img(work):
    pair(work)
    for words in (["--add"], ["--add"], ["--remove"], ["--remove"], ["--clear"], ["--enable"],
                  ["--disable"], ["--merge", "none"], ["--add", "--disable"], ["--enable"],
                  ["--enable", "--disable"], ["--merge", "none"], ["--merge", "b"],
                  ["--add", "--remove"], ["--remove", "--add"], ["--remove", "--add", "-g", "4k"],
                  ["--remove", "--remove"], ["--add", "-g", "2G"], ["--merge=far", "-b", "other"],
                  ["--merge", "far", "-b", "other", "-F", "qcow2"], ["--disable", "--disable"]):
        both(work, *words, "IMAGE", "b")
    qemu_img("check", "ours", cwd=work).succeeded()


def test_order_counts(work):
    pair(work)
    both(work, "--add", "IMAGE", "first")
    qemu_io(work / "ours", "write 0 64k")
    qemu_io(work / "theirs", "write 0 64k")
    both(work, "--add", "--merge", "first", "IMAGE", "kept")
    both(work, "--merge", "first", "--add", "IMAGE", "late")
    both(work, "--add", "--merge", "nothing", "IMAGE", "half")


@pytest.mark.parametrize("words", [
    [], ["IMAGE", "b"], ["--add"], ["--add", "IMAGE"], ["--add", "IMAGE", "b", "c"],
    ["--clear", "-g", "4k", "IMAGE", "b"], ["--add", "-b", "other", "IMAGE", "b"],
    ["--add", "-F", "qcow2", "IMAGE", "b"], ["--clear", "-F", "raw", "-g", "4k", "IMAGE", "b"],
    ["--merge", "far", "-F", "qcow2", "IMAGE", "b"], ["-f", "qcow2", "--image-opts", "--add", "x",
                                                      "y"],
    ["--add", "IMAGE", ""], ["--add", "-g", "100", "IMAGE", "b"],
    ["--add", "-g", "256", "IMAGE", "b"], ["--add", "-g", "3k", "IMAGE", "b"],
    ["--add", "-g", "4G", "IMAGE", "b"], ["--add", "-g", "0", "IMAGE", "b"]])
def test_command_lines(work, words):
    pair(work)
    both(work, *words)


def test_limits(work):
    pair(work, size="64T")
    tool("bitmap", "--add", "ours", "n" * 1024, cwd=work).refused("1023 bytes")
    tool("bitmap", "--add", "ours", "n" * 1023, cwd=work).succeeded()
    tool("bitmap", "--add", "-g", "512", "ours", "b", cwd=work).refused("granularity")
    tool("bitmap", "--add", "ours", "b", cwd=work).succeeded()
    qemu_img("create", "-q", "-f", "qcow2", "empty", "0", cwd=work).succeeded()
    tool("bitmap", "--add", "empty", "b", cwd=work).refused("no size")
    assert len(listed(work / "ours")) == 2


def test_where_there_can_be_none(work):
    pair(work, "-o", "compat=0.10")
    tool("bitmap", "--add", "ours", "b", cwd=work).refused("version 2")
    (work / "raw").write_bytes(bytes(4096))
    tool("bitmap", "--add", "-f", "raw", "raw", "b", cwd=work).refused("raw")
    tool("bitmap", "--add", "absent", "b", cwd=work).refused("absent")


def test_inconsistent_ones_can_be_removed_only(work):
    pair(work)
    tool("bitmap", "--add", "ours", "b", cwd=work).succeeded()
    tool("io", "-f", "qcow2", "-c", "write 0 64k", "-c", "flush", "-c", "abort", "ours", cwd=work)
    shutil.copy(work / "ours", work / "theirs")
    for words in (["--clear"], ["--enable"], ["--disable"], ["--merge", "b"], ["--add"]):
        result = both(work, *words, "IMAGE", "b")
        assert words == ["--add"] or HINT in result.err
    both(work, "--add", "IMAGE", "c")
    assert HINT in both(work, "--merge", "b", "IMAGE", "c").err
    tool("snapshot", "-c", "s", "ours", cwd=work).succeeded()
    result = tool("io", "-c", "truncate 20M", "ours", cwd=work)
    assert "inconsistent" in result.out + result.err, result.describe()
    both(work, "--remove", "IMAGE", "b")
    tool("io", "-c", "truncate 20M", "ours", cwd=work).succeeded()


def test_bitmaps_of_different_sizes_are_not_merged(work):
    pair(work, size="20M")
    qemu_img("create", "-q", "-f", "qcow2", "ours", "10M", cwd=work).succeeded()
    tool("bitmap", "--add", "ours", "b", cwd=work).succeeded()
    tool("bitmap", "--merge", "far", "-b", "other", "ours", "b", cwd=work).refused("sizes")


def test_a_list_of_driver_options(work):
    pair(work)
    tool("bitmap", "--image-opts", "--add", "driver=qcow2,file.filename=ours", "b",
         cwd=work).succeeded()
    assert [b[0] for b in listed(work / "ours")] == ["b"]


def test_a_missing_backing_file_is_no_hindrance(work):
    pair(work)
    qemu_img("rebase", "-u", "-b", "gone", "-F", "raw", "ours", cwd=work).succeeded()
    tool("bitmap", "--add", "ours", "b", cwd=work).succeeded()
    assert [b[0] for b in listed(work / "ours")] == ["b"]
