# SPDX-License-Identifier: MIT
"""qcow2 convert --bitmaps: which bitmaps the copy has, and what is in them, beside qemu-img."""
import shutil

import pytest

from lib.bitmaps import dirty, listed
from lib.run import qemu_img, qemu_io, tool
from lib.writing import is_clean


def source(work):
    qemu_img("create", "-q", "-f", "qcow2", "s", "8M", cwd=work).succeeded()
    qemu_img("bitmap", "--add", "-g", "4k", "s", "on", cwd=work).succeeded()
    qemu_img("bitmap", "--add", "s", "off", cwd=work).succeeded()
    qemu_io(work / "s", "write -P 1 1M 100k")
    qemu_img("bitmap", "--disable", "s", "off", cwd=work).succeeded()
    qemu_io(work / "s", "write -P 2 5M 4k")


def broken(work):
    source(work)
    tool("io", "-c", "write 0 64k", "-c", "flush", "-c", "abort", "s", cwd=work)
    qemu_img("bitmap", "--add", "s", "good", cwd=work).succeeded()


def both(work, *words, code=0):
    ours = tool("convert", *words, "-O", "qcow2", "s", "ours", cwd=work).ended_well()
    theirs = qemu_img("convert", *words, "-O", "qcow2", "s", "theirs", cwd=work)
    assert ours.code == theirs.code == code, ours.describe() + theirs.describe()
    return ours, theirs


@pytest.mark.parametrize("options", [[], ["-c"], ["-o", "cluster_size=4k"], ["-n"]])
def test_the_copy_has_the_same_bitmaps(work, options):
    source(work)
    if "-n" in options:
        for name in ("ours", "theirs"):
            qemu_img("create", "-q", "-f", "qcow2", name, "8M", cwd=work).succeeded()
    both(work, "--bitmaps", *options)
    assert listed(work / "ours") == listed(work / "theirs") == listed(work / "s")
    for name in ("on", "off"):
        assert dirty(work / "ours", name) == dirty(work / "s", name)
    is_clean(work / "ours")
    qemu_img("compare", "s", "ours", cwd=work).succeeded()


def test_without_the_option_it_has_none(work):
    source(work)
    both(work)
    assert listed(work / "ours") == []


def test_inconsistent_ones_stand_in_the_way_or_are_left_out(work):
    broken(work)
    ours, _ = both(work, "--bitmaps", code=1)
    assert "inconsistent bitmap" in ours.err and "--skip-broken-bitmaps" in ours.err
    assert not (work / "ours").exists()
    ours, theirs = both(work, "--bitmaps", "--skip-broken-bitmaps")
    assert ours.err.replace("qcow2: ", "") == theirs.err.replace("qemu-img: ", "")
    assert [b[0] for b in listed(work / "ours")] == ["off", "good"]  # it recorded nothing


def test_what_does_not_go_together(work):
    source(work)
    shutil.copy(work / "s", work / "t")
    assert "requires --bitmaps" in both(work, "--skip-broken-bitmaps", code=1)[0].err
    tool("convert", "--bitmaps", "-O", "qcow2", "s", "t", "out", cwd=work).refused("single source")
    tool("convert", "--bitmaps", "-O", "raw", "s", "out", cwd=work).refused("without bitmaps")
    tool("convert", "--bitmaps", "-O", "qcow2", "-o", "compat=0.10", "s", "out",
         cwd=work).refused("without bitmaps")
    (work / "raw").write_bytes(bytes(4096))
    tool("convert", "--bitmaps", "-f", "raw", "-O", "qcow2", "raw", "out", cwd=work).refused("raw")
    assert not (work / "out").exists()
