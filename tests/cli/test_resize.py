# SPDX-License-Identifier: MIT
"""qcow2 resize, and what qemu-img resize makes of the same command line on a copy."""
import shutil

import pytest

from lib.run import qemu_img, qemu_io, tool

LINES = [
    ["a.qcow2", "8M"], ["a.qcow2", "+1M"], ["--shrink", "a.qcow2", "-1M"], ["a.qcow2", "-1M"],
    ["a.qcow2", "1M"], ["--shrink", "a.qcow2", "1M"], ["-q", "a.qcow2", "5M"], ["a.qcow2", "+0"],
    ["a.qcow2", "foo"], ["a.qcow2", "1000"], ["--shrink", "a.qcow2", "-99M"], ["a.qcow2", "0"],
    ["a.qcow2"], [], ["nofile", "1M"], ["--preallocation=foo", "a.qcow2", "64M"],
    ["--preallocation=full", "--shrink", "a.qcow2", "512"], ["-f", "foo", "a.qcow2", "1M"],
    ["a.qcow2", "9E"], ["a.qcow2", "64P"], ["--preallocation=metadata", "a.qcow2", "6M"],
    ["-f", "raw", "a.raw", "3000001"], ["-f", "raw", "--shrink", "a.raw", "512"],
    ["old.qcow2", "8M"], ["a.qcow2", "1M", "extra"],
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resize")
    qemu_img("create", "-q", "-f", "qcow2", "a.qcow2", "4M", cwd=folder).succeeded()
    qemu_io("a.qcow2", "write -P 1 0 100k", "write -P 2 2M 100k", cwd=folder)
    qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "old.qcow2", "4M",
             cwd=folder).succeeded()
    qemu_img("snapshot", "-c", "s", "old.qcow2", cwd=folder).succeeded()
    (folder / "a.raw").write_bytes(b"x" * (1 << 20))
    return folder


def sizes(folder):
    return [qemu_img("info", "--output=json", n, cwd=folder).json()["virtual-size"]
            for n in ("a.qcow2", "old.qcow2", "a.raw")]


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_it_does_what_qemu_img_does(images, work, line):
    ours, theirs = work / "ours", work / "theirs"
    shutil.copytree(images, ours)
    shutil.copytree(images, theirs)
    a = tool("resize", *line, cwd=ours).ended_well()
    b = qemu_img("resize", *line, cwd=theirs)
    assert (a.code, a.out) == (b.code, b.out), a.describe() + b.describe()
    assert sizes(ours) == sizes(theirs)


def test_a_dry_run_tells_what_would_be_lost(images, work):
    shutil.copy(images / "a.qcow2", work)
    before = (work / "a.qcow2").read_bytes()
    r = tool("resize", "--dry-run", "--shrink", "a.qcow2", "1M", cwd=work).succeeded()
    assert r.out == ("The disk would lose its last 3 MiB (3145728 bytes), of which 128 KiB "
                     "(131072 bytes) hold data.\n")
    r = tool("resize", "--dry-run", "a.qcow2", "+1M", cwd=work).succeeded()
    assert r.out == "The disk would become 1 MiB (1048576 bytes) larger. Nothing would be lost.\n"
    assert (work / "a.qcow2").read_bytes() == before
