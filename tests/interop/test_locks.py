# SPDX-License-Identifier: MIT
"""
Image locks against the real programs, both ways: we refuse what they hold, they refuse what we
hold. The library's side is lock_helper (tests/unit/lock_helper.c).
"""
import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

BUILD = Path(os.environ.get("QCOW2_BUILD", Path(__file__).parents[2] / "build"))
HELPER = BUILD / "tests/unit/lock_helper"

# What is used and what is forbidden to others: bits of QCOW2_LOCK_*.
WRITER = (0xb, 0xa)
READER = (0x1, 0xa)
INFO = (0x0, 0xa)
SHARED = (0x1, 0x0)
CREATOR = (0xa, 0x8)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    return path


@contextlib.contextmanager
def hold(image, how, *more):
    """Our lock, held while the block runs; gives "ok" or the sentence, and the process id."""
    command = [HELPER, image, str(how[0]), str(how[1]), *more]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        yield p.stdout.readline().rstrip("\n"), p.pid
        p.stdin.close()


def attempt(image, how):
    with hold(image, how) as (said, _):
        return said


@contextlib.contextmanager
def qemu_nbd(image, tmp_path, *options):
    """A server, ready; gives its process id."""
    pid_file, socket = tmp_path / "nbd.pid", tmp_path / "nbd.sock"
    subprocess.run(["qemu-nbd", "--fork", "--persistent", "-f", "qcow2", "--pid-file", pid_file,
                    "-k", socket, *options, image], check=True, timeout=60)
    pid = int(pid_file.read_text())
    try:
        yield pid
    finally:
        os.kill(pid, 15)
        # it isn't our child: gone when the pid file is
        while pid_file.exists() and Path(f"/proc/{pid}").exists():
            time.sleep(0.01)


@contextlib.contextmanager
def qemu_io(image, *options):
    with subprocess.Popen(["qemu-io", "-f", "qcow2", *options, image], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as p:
        p.stdin.write("length\n")
        p.stdin.flush()
        assert "1 MiB" in p.stdout.readline()
        yield p.pid
        p.stdin.close()


def qemu(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def sentence(image, name, pid, does):
    return f'"{image}" is in use by another program: {name} (process {pid}) {does}'


def test_nobody_in_the_way(image):
    for how in WRITER, READER, INFO, SHARED, CREATOR:
        assert attempt(image, how) == "ok"


def test_a_server_that_writes_is_named(image, tmp_path):
    with qemu_nbd(image, tmp_path) as pid:
        for how in WRITER, READER, INFO:
            assert attempt(image, how) == sentence(image, "qemu-nbd", pid, "writes to it")
        assert attempt(image, SHARED) == "ok"
        assert attempt(image, CREATOR) == sentence(image, "qemu-nbd", pid, "may resize it")
    assert attempt(image, WRITER) == "ok"


def test_a_server_that_reads_lets_us_read(image, tmp_path):
    with qemu_nbd(image, tmp_path, "-r") as pid:
        for how in READER, INFO, SHARED:
            assert attempt(image, how) == "ok"
        said = sentence(image, "qemu-nbd", pid, "lets nobody else write to it")
        assert attempt(image, WRITER) == said
        assert attempt(image, CREATOR) == said


def test_qemu_io_is_named(image):
    with qemu_io(image) as pid:
        assert attempt(image, READER) == sentence(image, "qemu-io", pid, "writes to it")
    with qemu_io(image, "-r") as pid:
        assert attempt(image, READER) == "ok"
        assert attempt(image, WRITER) == sentence(image, "qemu-io", pid,
                                                  "lets nobody else write to it")
    with qemu_io(image, "-r", "-U") as pid:
        assert attempt(image, WRITER) == "ok"


def refused(result, which):
    assert result.returncode != 0
    assert f'Failed to get {which} lock' in result.stdout + result.stderr
    assert "Is another process using the image" in result.stdout + result.stderr


def test_they_refuse_what_we_write(image, tmp_path):
    with hold(image, WRITER) as (said, _):
        assert said == "ok"
        refused(qemu("qemu-img", "info", image), 'shared "write"')
        refused(qemu("qemu-img", "check", image), 'shared "write"')
        refused(qemu("qemu-img", "snapshot", "-c", "s", image), '"write"')
        refused(qemu("qemu-img", "create", "-f", "qcow2", image, "1M"), '"write"')
        refused(qemu("qemu-io", "-c", "read 0 512", image), '"write"')
        refused(qemu("qemu-io", "-r", "-c", "read 0 512", image), 'shared "write"')
        refused(qemu("qemu-nbd", "-k", tmp_path / "s", "-f", "qcow2", image), '"write"')
        assert qemu("qemu-img", "info", "-U", image).returncode == 0
        assert qemu("qemu-io", "-r", "-U", "-c", "read 0 512", image).returncode == 0
    assert qemu("qemu-img", "check", image).returncode == 0


def test_they_may_read_what_we_read(image):
    with hold(image, READER) as (said, _):
        assert said == "ok"
        assert qemu("qemu-img", "info", image).returncode == 0
        assert qemu("qemu-io", "-r", "-c", "read 0 512", image).returncode == 0
        refused(qemu("qemu-io", "-c", "read 0 512", image), '"write"')
        refused(qemu("qemu-img", "resize", image, "2M"), '"write"')
    with hold(image, INFO) as (said, _):
        assert said == "ok"
        refused(qemu("qemu-img", "resize", image, "2M"), '"write"')
    with hold(image, SHARED) as (said, _):
        assert said == "ok"
        assert qemu("qemu-img", "resize", image, "2M").returncode == 0


def test_ours_among_ourselves(image):
    with hold(image, WRITER) as (said, pid):
        assert said == "ok"
        assert attempt(image, READER) == sentence(image, "lock_helper", pid, "writes to it")
        assert attempt(image, SHARED) == "ok"
    with hold(image, READER) as (said, pid):
        assert attempt(image, READER) == "ok"
        assert attempt(image, WRITER) == sentence(image, "lock_helper", pid,
                                                  "lets nobody else write to it")
        # the refused one has left nothing behind
        assert attempt(image, READER) == "ok"


def test_a_refused_lock_holds_nothing(image):
    with qemu_io(image, "-r"):
        with hold(image, WRITER) as (said, _):
            assert "lets nobody else write" in said
            # were our bytes still there this would fail
            assert qemu("qemu-io", "-r", "-c", "read 0 512", image).returncode == 0


def test_a_classic_lock_is_named_by_the_system(image):
    """A foreign exclusive lock of the old kind: not QEMU's, but in the way."""
    script = ("import fcntl, sys; f = open(sys.argv[1], 'r+b');"
              "fcntl.lockf(f, fcntl.LOCK_EX, 1, 100); print('held', flush=True);"
              "sys.stdin.read()")
    with subprocess.Popen(["python3", "-c", script, image], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout.readline() == "held\n"
        assert re.search(rf"another program: python3\S* \(process {p.pid}\) reads it$",
                         attempt(image, READER))
        p.stdin.close()
    assert attempt(image, READER) == "ok"


def test_a_process_that_may_not_be_looked_into_has_no_name(image):
    """Root may look into everybody, so it asks as nobody; others are asked to hide."""
    root = os.geteuid() == 0
    nobody = {"user": 65534, "group": 65534, "extra_groups": []} if root else {}
    with tempfile.TemporaryDirectory() as folder:
        open_to_all = Path(shutil.move(image, folder))
        helper = shutil.copy(HELPER, folder)
        Path(folder).chmod(0o755)
        open_to_all.chmod(0o666)
        with hold(open_to_all, WRITER, "hide") as (said, _):
            assert said == "ok"
            result = subprocess.run([helper, open_to_all, "1", "0xa"], stdin=subprocess.DEVNULL,
                                    capture_output=True, text=True, check=False, **nobody)
    assert result.stdout == (f'"{open_to_all}" is in use by another program, '
                             'which writes to it\n')
