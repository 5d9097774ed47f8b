# SPDX-License-Identifier: MIT
"""
Ctrl-C at an exact place: strace sends the signal as a system call is made for the n-th time. What
may be cancelled is; what is left is a good image, or none.
"""
import os
import signal
import sys
from dataclasses import dataclass

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib.run import SANITIZER_ENV, TOOL, Result, command, qemu_img, tool  # noqa: E402

# what looks for leaks doesn't work beside strace
ENV = {**SANITIZER_ENV, "ASAN_OPTIONS": SANITIZER_ENV["ASAN_OPTIONS"] + ":detect_leaks=0"}


@dataclass
class Struck:
    result: Result
    hit: bool  # the call was made so often, and the signal sent

    def was_cancelled(self, signum=signal.SIGINT):
        assert self.hit and self.result.code == -signum, self.result.describe()


def strike(work, call, nth, *words, sig="SIGINT"):
    """
    Runs the tool, and sends it a signal when a thread of it makes a call for the n-th time. The
    call takes so long that the next time it is told how far the job is, the job listens.
    """
    log = work / "strace"
    inject = f"inject={call}:signal={sig}:delay_exit=210000:when={nth}"
    result = command("strace", "-f", "-qq", "-o", log, "-e", f"trace={call}", "-e", inject, TOOL,
                     *words, cwd=work, env=ENV)
    assert "Sanitizer" not in result.err, result.describe()
    return Struck(result, f"--- {sig} " in log.read_text(errors="replace"))


# ---- create and convert: all or nothing ----

MADE = [("qcow2", "full", "pwrite64"), ("qcow2", "metadata", "pwrite64"),
        ("qcow2", "falloc", "fallocate"), ("raw", "full", "pwrite64"),
        ("raw", "falloc", "fallocate")]


@pytest.mark.parametrize("fmt,prealloc,call", MADE)
def test_a_cancelled_create_leaves_nothing(fmt, prealloc, call, work):
    words = ("create", "-f", fmt, "-o", f"preallocation={prealloc}")
    struck = strike(work, call, 1, *words, "disk", "16M")
    struck.was_cancelled()
    assert struck.result.out == "" and not (work / "disk").exists()
    (work / "disk").write_text("something")
    tool(*words, "disk", "16M", cwd=work).refused("exists and isn't empty")
    strike(work, call, 1, *words, "--force", "disk", "16M").was_cancelled()
    assert not (work / "disk").exists()  # it was to be replaced


def test_what_is_done_stays_done(work):
    """The last write is that of the header, and the signal comes with the barrier behind it."""
    for nth in (1, 2, 3):
        (work / "disk").unlink(missing_ok=True)
        struck = strike(work, "fdatasync,fsync", nth, "create", "-q", "-o",
                        "preallocation=metadata", "disk", "16M")
        assert struck.result.code in (0, -signal.SIGINT), struck.result.describe()
        assert (work / "disk").exists() == (struck.result.code == 0)
        if struck.result.code == 0:
            qemu_img("check", "-q", "disk", cwd=work).succeeded()


def test_cancelled_is_told_to_programs(work):
    struck = strike(work, "pwrite64", 1, "create", "--progress=json", "-o", "preallocation=full",
                    "disk", "16M")
    struck.was_cancelled()
    assert struck.result.err.splitlines()[-1].endswith('"state": "cancelled"}')


@pytest.mark.parametrize("fmt,prealloc,call,options", [
    ("qcow2", "falloc", "fallocate", ""), ("raw", "falloc", "fallocate", ""),
    ("qcow2", "falloc", "fallocate", ",data_file=data,data_file_raw=on"),
    ("qcow2", "full", "pwrite64", ",data_file=data,data_file_raw=on")])
def test_a_convert_that_is_cancelled_while_it_preallocates_leaves_nothing(fmt, prealloc, call,
                                                                          options, work):
    tool("create", "-q", "disk", "16M", cwd=work).succeeded()
    tool("io", "-c", "write 0 3M", "disk", cwd=work).succeeded()
    cancelled = 0
    for nth in (1, 2, 3):
        struck = strike(work, call, nth, "convert", "-O", fmt, "-o",
                        f"preallocation={prealloc}{options}", "disk", "out")
        if struck.result.code == 0:
            tool("compare", "disk", "out", cwd=work).succeeded()
            (work / "out").unlink()
            (work / "data").unlink(missing_ok=True)
        else:
            struck.was_cancelled()
            cancelled += 1
            assert not (work / "out").exists() and not (work / "data").exists()
    assert cancelled > 0
