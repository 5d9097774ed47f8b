# SPDX-License-Identifier: MIT
"""Two processes that want to write one image: the second is refused, whichever of them is ours."""
import contextlib
import subprocess

import pytest

from lib.run import BUILD, qemu_img, tool

QEMU_IO = ["qemu-io", "-f", "qcow2"]
OURS = [BUILD / "tools/qcow2", "io", "-f", "qcow2"]


@pytest.fixture
def image(work):
    path = work / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "1M").succeeded()
    return path


@contextlib.contextmanager
def shell(program, image, *options):
    """A shell that has the image open while the block runs; gives a function that asks it."""
    with subprocess.Popen([*program, *options, image], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
        def ask(command, lines=1):
            p.stdin.write(command + "\n")
            p.stdin.flush()
            return [p.stdout.readline() for _ in range(lines)]

        assert "1 MiB" in ask("length")[0]
        yield ask
        p.stdin.write("quit\n")
        p.stdin.close()
        p.stdout.read()


def attempt(program, image, *options, command="write -P 2 0 64k"):
    return subprocess.run([*program, *options, "-c", command, image], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("holder, other", [(OURS, QEMU_IO), (QEMU_IO, OURS), (OURS, OURS)],
                         ids=["ours first", "theirs first", "both ours"])
def test_the_second_writer_is_refused(image, holder, other):
    with shell(holder, image) as ask:
        assert "wrote 65536/65536" in ask("write -P 1 0 64k", 2)[0]
        refused = attempt(other, image)
        assert refused.returncode != 0
        said = refused.stdout + refused.stderr
        assert ("is in use by another program" if other is OURS else "write\" lock") in said
        reader = attempt(other, image, "-r", command="read 0 64k")
        assert reader.returncode != 0
        # what the first one has in mind isn't disturbed
        assert "wrote 65536/65536" in ask("write -P 3 64k 64k", 2)[0]
    assert attempt(other, image, command="write -P 2 128k 64k").returncode == 0
    result = tool("io", "-r", "-f", "qcow2", "-c", "read -P 1 0 64k", "-c", "read -P 3 64k 64k",
                  "-c", "read -P 2 128k 64k", image).succeeded()
    assert "failed" not in result.out + result.err, result.describe()
    qemu_img("check", image).succeeded()


@pytest.mark.parametrize("holder, other", [(OURS, QEMU_IO), (QEMU_IO, OURS), (OURS, OURS)],
                         ids=["ours first", "theirs first", "both ours"])
def test_a_writer_is_refused_beside_a_reader(image, holder, other):
    with shell(holder, image, "-r"):
        assert attempt(other, image).returncode != 0
        assert attempt(other, image, "-r", command="read 0 64k").returncode == 0
    assert attempt(other, image).returncode == 0
