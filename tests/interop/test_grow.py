# SPDX-License-Identifier: MIT
"""Disks that grow with their space preallocated: what stands at the old end, and a full disk."""
import os

import pytest

from lib.mount import mounted
from lib.run import qemu_img, tool

M = 1 << 20
MODES = ["metadata", "falloc", "full"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", ["", "extended_l2=on", "data_file=data", "cluster_size=2M"])
@pytest.mark.parametrize("old", [99328, 2 * M - 512])
def test_what_only_the_backing_file_has_stays(work, rng, mode, options, old):
    """The old end lies in a cluster that isn't in the overlay."""
    base = work / "base"
    base.write_bytes(rng.randbytes(old))
    words = ["-o", options] if options else []
    tool("create", "-q", *words, "-b", "base", "-F", "raw", "top", old, cwd=work).succeeded()
    tool("resize", "-q", f"--preallocation={mode}", "top", "+20M", cwd=work).succeeded()
    qemu_img("check", "-q", "top", cwd=work).succeeded()
    with open(base, "ab") as f:
        f.truncate(old + 20 * M)
    qemu_img("compare", "-f", "raw", "-F", "qcow2", "base", "top", cwd=work).succeeded()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 700 MiB, in a sparse file."""
    yield from mounted(tmp_path, 700 * M, "mkfs.ext4", "-q", "-F")


@pytest.mark.parametrize("first", ["4M", "100M", "512M"])
def test_a_disk_that_the_host_has_no_room_for_stays_as_it_was(small_disk, first):
    path = small_disk / "disk"
    tool("create", "-q", path, first).succeeded()
    tool("io", "-c", "write -P 7 0 3M", path).succeeded()
    before = os.stat(path)
    tool("resize", "-q", "--preallocation=falloc", path, "+2G").refused("No space left")
    qemu_img("check", "-q", path).succeeded()
    after = os.stat(path)
    assert after.st_blocks * 512 < before.st_blocks * 512 + M, "what was taken is given back"
    info = tool("info", "--output=json", path).json()
    assert info["virtual-size"] == {"4M": 4, "100M": 100, "512M": 512}[first] * M
    tool("io", "-c", "read -P 7 0 3M", "-c", "write -P 8 1M 1M", path).succeeded()
