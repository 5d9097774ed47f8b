# SPDX-License-Identifier: MIT
"""preallocation=falloc where the file system can't reserve space: ext2 writes zeros instead."""
import os
import subprocess

import pytest

from lib.mount import mounted
from lib.run import qemu_img, tool

M = 1 << 20
DISK = 8 * M


@pytest.fixture
def ext2(work):
    """A mounted file system without extents, which has no fallocate."""
    yield from mounted(work, 64 * M, "mkfs.ext2", "-q", "-F")


@pytest.fixture
def source(work):
    path = work / "source.raw"
    with open(path, "wb") as f:
        f.truncate(DISK)
        f.seek(3 * M + 4096)
        f.write(os.urandom(M))
    return path


def test_the_file_system_is_one_of_that_sort(ext2):
    reserved = subprocess.run(["fallocate", "-l", "1M", ext2 / "probe"], capture_output=True)
    assert reserved.returncode != 0 and b"not supported" in reserved.stderr


@pytest.mark.parametrize("target,data_file,options", [
    ("raw", False, ""),
    ("qcow2", False, ""),
    ("qcow2", False, ",extended_l2=on"),
    ("qcow2", True, ""),
    ("qcow2", True, ",data_file_raw=on"),
])
def test_the_space_is_written_instead(ext2, source, target, data_file, options):
    path, data = ext2 / "t", ext2 / "data"
    options = "preallocation=falloc" + (f",data_file={data}" if data_file else "") + options
    tool("convert", "-f", "raw", "-O", target, "-o", options, source, path).succeeded()
    qemu_img("compare", "-f", "raw", "-F", target, source, path).succeeded()
    if target == "qcow2":
        qemu_img("check", path).succeeded()
    assert os.stat(data if data_file else path).st_blocks * 512 >= DISK


@pytest.mark.parametrize("words", [("-f", "raw"), ("-o", "data_file=data")])
def test_a_disk_grows_with_zeros_too(ext2, words):
    path = ext2 / "disk"
    tool("create", "-q", *words, path, M, cwd=ext2).succeeded()
    tool("resize", "-q", "--preallocation=falloc", path, 4 * M, cwd=ext2).succeeded()
    written = ext2 / "data" if (ext2 / "data").exists() else path
    assert os.stat(written).st_blocks * 512 >= 3 * M
