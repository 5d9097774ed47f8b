# SPDX-License-Identifier: MIT
"""convert -n: into an image that exists. Empty ones are filled as they are; others stay as is."""
import pytest

from lib.run import SANITIZER_ENV, TOOL, command, qemu_img, qemu_io, tool

DISK = 8 << 20
MAKES = ["", "compat=0.10", "cluster_size=512", "cluster_size=2M", "extended_l2=on",
         "refcount_bits=1", "compression_type=zstd", "lazy_refcounts=on"]


@pytest.fixture
def source(work):
    with open(work / "source.raw", "wb") as f:
        f.truncate(DISK)
        f.seek(1 << 20)
        f.write(b"some data " * 100000)
    return "source.raw"


def settings(work, name):
    info = qemu_img("info", "--output=json", name, cwd=work).json()
    return info["cluster-size"], info["virtual-size"], info["format-specific"]


@pytest.mark.parametrize("options", MAKES)
@pytest.mark.parametrize("compress", [[], ["-c"]])
def test_an_empty_image_keeps_its_options_and_size(work, source, options, compress):
    make = ["-o", options] if options else []
    qemu_img("create", "-q", "-f", "qcow2", *make, "t", "16M", cwd=work).succeeded()
    before = settings(work, "t")
    tool("convert", "-n", *compress, "-f", "raw", "-O", "qcow2", source, "t", cwd=work).succeeded()
    assert settings(work, "t") == before
    qemu_img("check", "t", cwd=work).succeeded()
    qemu_img("compare", "-f", "raw", "-F", "qcow2", source, "t", cwd=work).succeeded()


def test_zeros_hide_the_backing_file_of_the_target(work, source):
    qemu_img("create", "-q", "-f", "raw", "base", str(DISK), cwd=work).succeeded()
    qemu_io("base", f"write -P 7 0 {DISK}", fmt="raw", cwd=work)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "t", cwd=work).succeeded()
    tool("convert", "-n", "-f", "raw", "-O", "qcow2", source, "t", cwd=work).succeeded()
    qemu_img("check", "t", cwd=work).succeeded()
    qemu_img("compare", "-f", "raw", "-F", "qcow2", source, "t", cwd=work).succeeded()


def refused(work, source, sentence):
    before = (work / "t").read_bytes()
    result = tool("convert", "-n", "-f", "raw", "-O", "qcow2", source, "t", cwd=work)
    assert result.code == 1 and sentence in result.err, result.describe()
    assert (work / "t").read_bytes() == before


def test_an_image_that_holds_data_is_left_alone(work, source):
    qemu_img("create", "-q", "-f", "qcow2", "t", "16M", cwd=work).succeeded()
    qemu_io("t", "write 0 512", cwd=work)
    refused(work, source, "has mapped clusters")


def test_an_image_with_a_snapshot_is_left_alone(work, source):
    qemu_img("create", "-q", "-f", "qcow2", "t", "16M", cwd=work).succeeded()
    qemu_img("snapshot", "-c", "s", "t", cwd=work).succeeded()
    refused(work, source, "has snapshots")


def test_an_image_that_is_too_small_is_left_alone(work, source):
    qemu_img("create", "-q", "-f", "qcow2", "t", "4M", cwd=work).succeeded()
    refused(work, source, "too small")


def test_a_failure_leaves_the_image_empty_and_whole(work, source):
    qemu_img("create", "-q", "-f", "qcow2", "t", "16M", cwd=work).succeeded()
    before = (work / "t").read_bytes()

    script = 'trap "" XFSZ; ulimit -f 1000; exec "$0" convert -n -f raw -O qcow2 "$1" t'
    result = command("sh", "-c", script, TOOL, source, cwd=work, env=SANITIZER_ENV)
    assert result.code == 1 and "File too large" in result.err, result.describe()
    assert (work / "t").read_bytes() == before
