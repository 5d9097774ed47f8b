# SPDX-License-Identifier: MIT
"""qcow2 commit: what it prints, what it refuses, and that it can be interrupted."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from lib.run import SANITIZER_ENV, TOOL, qemu_img, tool  # noqa: E402
from lib.writing import is_clean, same_bytes  # noqa: E402

ENV = {**os.environ, **SANITIZER_ENV}


@pytest.fixture
def chain(work):
    zoo.create(work, "base", "4M")
    zoo.create(work, "mid", "-b", "base", "-F", "qcow2", "4M")
    zoo.create(work, "top", "-b", "mid", "-F", "qcow2", "4M")
    zoo.io(work, "base", "write -P 1 0 1M")
    zoo.io(work, "top", "write -P 2 512k 1M", "write -z 0 64k")
    return work


@pytest.mark.parametrize("words", [["top"], ["-q", "top"], ["-d", "top"], ["-b", "mid", "top"],
                                   ["-b", "./base", "top"], ["-f", "qcow2", "-t", "none", "top"],
                                   ["-t", "unsafe", "top"], ["-r", "100M", "top"]])
def test_it_prints_what_qemu_img_prints(words, chain):
    for name in ("base", "mid", "top"):
        (chain / (name + ".kept")).write_bytes((chain / name).read_bytes())
    theirs = qemu_img("commit", *words, cwd=chain).succeeded()
    for name in ("base", "mid", "top"):
        (chain / name).write_bytes((chain / (name + ".kept")).read_bytes())
    ours = tool("commit", *words, cwd=chain).succeeded()
    assert ours.out == theirs.out and ours.err == "" == theirs.err


def test_a_rate_is_kept_to(work):
    (work / "noise").write_bytes(os.urandom(6 << 20))
    zoo.create(work, "base", "6M")
    zoo.create(work, "top", "-b", "base", "-F", "qcow2", "6M")
    zoo.io(work, "top", "write -s noise 0 6M")
    assert tool("commit", "-d", "-r", "6M", "top", cwd=work).succeeded().seconds > 0.8
    assert qemu_img("compare", "base", "top", cwd=work).code == 0


def test_progress_ends_at_a_hundred(chain):
    out = tool("commit", "-p", "top", cwd=chain).succeeded().out
    assert out.startswith("    (0.00/100%)\n") and "(100.00/100%)" in out, out
    assert out.endswith("\nImage committed.\n"), out


def test_what_is_refused(chain):
    zoo.create(chain, "alone", "1M")
    Path(chain, "raw").write_bytes(bytes(1 << 20))
    before = {f: (chain / f).read_bytes() for f in ("base", "mid", "top")}
    tool("commit", "alone", cwd=chain).refused("Image does not have a backing file")
    tool("commit", "-f", "raw", "raw", cwd=chain).refused("Image does not have a backing file")
    tool("commit", "-b", "raw", "top", cwd=chain).refused(
        "Did not find 'raw' in the backing chain of 'top'")
    tool("commit", "-b", "top", "top", cwd=chain).refused("Did not find 'top'")
    tool("commit", "gone", cwd=chain).refused("gone", "No such file")
    for words in ([], ["top", "mid"], ["-t", "some", "top"], ["-r", "x", "top"]):
        result = tool("commit", *words, cwd=chain)
        assert result.code == 1 and "qcow2 commit --help" in result.err, result.describe()
    assert before == {f: (chain / f).read_bytes() for f in before}


@pytest.mark.parametrize("held", ["top", "mid"])
def test_files_in_use_are_left_alone(held, chain):
    before = {f: (chain / f).read_bytes() for f in ("base", "mid", "top")}
    with zoo.held_by_qemu_io(chain / held):
        tool("commit", "top", cwd=chain).refused(held)
    assert before == {f: (chain / f).read_bytes() for f in before}
    # another overlay that is open reads the base, and mustn't see it change
    zoo.create(chain, "other", "-b", "mid", "-F", "qcow2", "4M")
    with zoo.held_by_qemu_io(chain / "other"):
        tool("commit", "top", cwd=chain).refused("mid")
    assert before == {f: (chain / f).read_bytes() for f in before}
    tool("commit", "top", cwd=chain).succeeded()


def test_a_base_that_cannot_be_written_is_found_before_anything_is(chain):
    os.unlink(chain / "mid")
    os.mkdir(chain / "mid")
    tool("commit", "top", cwd=chain).refused("mid")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_has_done_no_harm(signum, work):
    zoo.create(work, "base", "16M")
    zoo.create(work, "top", "-b", "base", "-F", "qcow2", "16M")
    zoo.io(work, "top", "write -P 2 0 12M")
    qemu_img("convert", "-O", "raw", "top", "before", cwd=work).succeeded()
    start = os.path.getsize(work / "base")
    with subprocess.Popen([TOOL, "commit", "-r", "3M", "top"], cwd=work, env=ENV,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as p:
        began = time.monotonic()
        while os.path.getsize(work / "base") == start and time.monotonic() < began + 20:
            time.sleep(0.02)
        p.send_signal(signum)
        out = p.communicate(timeout=30)[0]
    assert (p.returncode, out) == (-signum, b"")
    for name in ("base", "top"):
        is_clean(name, cwd=work)
    qemu_img("convert", "-O", "raw", "top", "after", cwd=work).succeeded()
    same_bytes(work / "before", work / "after")
    tool("commit", "top", cwd=work).succeeded()
    qemu_img("convert", "-O", "raw", "base", "after", cwd=work).succeeded()
    same_bytes(work / "before", work / "after")


def test_a_full_disk_is_told_and_does_no_harm(work):
    zoo.create(work, "base", "8M")
    zoo.create(work, "top", "-b", "base", "-F", "qcow2", "8M")
    zoo.io(work, "top", "write -P 2 0 6M")
    qemu_img("convert", "-O", "raw", "top", "before", cwd=work).succeeded()
    script = 'trap "" XFSZ; ulimit -f 2048; exec "$0" commit top'
    done = subprocess.run(["bash", "-c", script, TOOL], cwd=work, env=ENV, timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 1, done
    assert done.stderr.startswith(b"qcow2: ") and done.stderr.count(b"\n") == 1, done
    qemu_img("convert", "-O", "raw", "top", "after", cwd=work).succeeded()
    same_bytes(work / "before", work / "after")
    tool("commit", "top", cwd=work).succeeded()
    is_clean("base", cwd=work)
