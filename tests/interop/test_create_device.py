# SPDX-License-Identifier: MIT
"""
New images on block devices: what was there before must not matter, and what doesn't fit must be
refused while it still is there.
"""
import os
import subprocess

import pytest

from lib import run

M = 1 << 20
DEVICE = 64 * M


@pytest.fixture
def device(work):
    """A loop device full of old bytes."""
    backing = work / "backing"
    backing.write_bytes(os.urandom(M) * 64)
    made = subprocess.run(["losetup", "--find", "--show", backing], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no loop devices here: {made.stderr.strip()}")
    name = made.stdout.strip()
    yield name
    subprocess.run(["losetup", "--detach", name], check=True)


def create(*args, fmt="qcow2", cwd="/"):
    return run.tool("create", "-q", "-f", fmt, *args, cwd=cwd)


def reads_as_zeros(path, fmt, size, work):
    zeros = work / "zeros"
    with open(zeros, "wb") as f:
        f.truncate(size)
    run.qemu_img("compare", "-f", fmt, "-F", "raw", path, zeros).succeeded()


def test_a_device_needs_force(device):
    create(device, "1M").refused("block device", "--force")
    create(device, "1M", fmt="raw").refused("block device", "--force")


@pytest.mark.parametrize("mode", ["off", "metadata", "falloc", "full"])
def test_old_contents_do_not_matter(device, work, mode):
    create("--force", "-o", f"preallocation={mode}", device, 50_000_000).succeeded()
    run.qemu_img("check", "-f", "qcow2", device).succeeded()
    reads_as_zeros(device, "qcow2", 50_000_256, work)


def test_a_thin_image_may_be_larger_than_its_device(device, work):
    create("--force", device, "1T").succeeded()
    run.qemu_img("check", "-f", "qcow2", device).succeeded()


def test_a_raw_image_is_zeroed(device, work):
    create("--force", device, 50_000_000, fmt="raw").succeeded()
    with open(device, "rb") as f:
        assert f.read(50_000_256) == bytes(50_000_256)
        assert f.read(M) != bytes(M)


def test_what_does_not_fit_is_refused_and_nothing_is_touched(device, work):
    with open(device, "rb") as f:
        before = f.read()
    create("--force", "-o", "preallocation=metadata", device, "64M").refused("the device has")
    create("--force", device, DEVICE + 1, fmt="raw").refused("the device")
    create("--force", "-o", f"data_file={device}", "disk", DEVICE + 1, cwd=work).refused("device")
    with open(device, "rb") as f:
        assert f.read() == before
    assert not (work / "disk").exists()


@pytest.mark.parametrize("size", [DEVICE, DEVICE - 512])
def test_a_device_as_data_file(device, work, size):
    """It may end in the middle of a cluster."""
    create("--force", "-o", f"data_file={device},data_file_raw=on,cluster_size=2M", "disk", size,
           cwd=work).succeeded()
    run.qemu_img("check", work / "disk").succeeded()
    with open(device, "rb") as f:
        assert f.read(size) == bytes(size)
