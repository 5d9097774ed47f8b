# SPDX-License-Identifier: MIT
"""
Ctrl-C at an exact place: strace sends the signal as a system call is made for the n-th time. What
may be cancelled is; what is left is a good image, or none.
"""
import os
import shutil
import signal
import struct
import sys
from dataclasses import dataclass

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib.run import SANITIZER_ENV, TOOL, Result, command, qemu_img, tool  # noqa: E402
from lib.seed import long_run  # noqa: E402

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


# ---- verbs that change an image: as before, or as after ----

CONTENT = ("write -P 1 0 2M", "write -P 2 3M 1M", "write -P 3 7M 64k")


@dataclass
class Case:
    words: tuple  # of the command
    before: tuple = ()  # commands that come before it
    leaks: bool = False  # clusters are taken and not used
    calls: tuple = ("pwrite64", "fdatasync")
    reads: str = "same"  # what the disk reads as: see check_content
    catches: bool = True  # or the signal ends it at once


IO = ("io", "-c", "write -P 9 0 64k", "-c", "write -P 9 5M 1M", "-c", "flush", "-c",
      "write -P 9 6M 1M", "-c", "discard 1M 1M", "disk")
CASES = {
    "resize": Case(("resize", "-q", "--preallocation=metadata", "disk", "24M"), reads="prefix"),
    "resize-full": Case(("resize", "-q", "--preallocation=full", "disk", "10M"), reads="prefix"),
    "shrink": Case(("resize", "-q", "--shrink", "disk", "1M"), reads="prefix"),
    "snapshot-c": Case(("snapshot", "-c", "new", "disk")),
    "snapshot-a": Case(("snapshot", "-a", "old", "disk"), (
        ("snapshot", "-c", "old", "disk"), ("io", "-c", "write -P 8 1M 4M", "disk")),
        reads="either"),
    "snapshot-d": Case(("snapshot", "-d", "old", "disk"), (
        ("snapshot", "-c", "old", "disk"), ("io", "-c", "write -P 8 1M 4M", "disk"))),
    "bitmap-add": Case(("bitmap", "--add", "-g", "512", "disk", "b"), catches=False),
    "bitmap-merge": Case(("bitmap", "--merge", "a", "disk", "b"), (
        ("bitmap", "--add", "-g", "512", "disk", "a"), ("bitmap", "--add", "disk", "b"),
        ("io", "-c", "write -P 8 1M 4M", "disk")), catches=False),
    "amend-width": Case(("amend", "-o", "refcount_bits=64", "disk")),
    "amend-version": Case(("amend", "-o", "compat=0.10", "disk"), (
        ("io", "-c", "write -z 4M 2M", "disk"),)),
    "check": Case(("check", "-q", "-r", "all", "disk"), leaks=True),
    "rebase": Case(("rebase", "-b", "", "disk"), (("create", "-q", "base", "8M"),
                   ("io", "-c", "write -P 6 0 8M", "base"),
                   ("rebase", "-u", "-b", "base", "-F", "qcow2", "disk"))),
    "commit": Case(("commit", "-q", "disk"), (("create", "-q", "base", "8M"),
                   ("rebase", "-u", "-b", "base", "-F", "qcow2", "disk"))),
    "io": Case(IO, reads="io", catches=False),
    "bench": Case(("bench", "-w", "-c", "200", "-d", "4", "--aio=threads", "-o", "4M", "disk"),
                  reads="any"),
}


def content(folder):
    qemu_img("convert", "-O", "raw", "disk", "raw", cwd=folder).succeeded()
    return (folder / "raw").read_bytes()


def leak(path):
    """Counts for clusters 1500 to 1699, of 2048 that the first block has: the end of the file."""
    with open(path, "r+b") as f:
        f.truncate(1700 * 4096)
        f.seek(48)
        table, = struct.unpack(">Q", f.read(8))
        f.seek(table)
        block, = struct.unpack(">Q", f.read(8))
        f.seek(block + 2 * 1500)
        f.write(200 * b"\0\1")


def check_content(case, found, before, after):
    if case.reads == "same":
        assert found == before
    elif case.reads == "either":
        assert found in (before, after)
    elif case.reads == "prefix":
        n = min(len(before), len(after))
        assert found[:n] == before[:n] and len(found) in (len(before), len(after))
        if len(found) > len(before):
            assert not any(found[len(before):])
    elif case.reads == "io":
        for off in range(0, len(found), 65536):
            assert found[off:off + 65536] in (before[off:off + 65536], after[off:off + 65536])


def moments(work, case, call, rng):
    """Some of the times that an undisturbed run makes that call."""
    command("strace", "-f", "-qq", "-o", work / "calls", "-e", f"trace={call}", TOOL,
            *case.words, cwd=work / "now", env=ENV).succeeded()
    n = (work / "calls").read_text(errors="replace").count(f"{call}(")
    more = min(n, 3 if long_run() else 1)
    return sorted({1, 2, n} | set(rng.sample(range(1, n + 1), more))) if n else []


def start_again(work):
    shutil.rmtree(work / "now", ignore_errors=True)
    shutil.copytree(work / "start", work / "now")


def prepare(work, case):
    start = work / "start"
    start.mkdir()
    tool("create", "-q", "-o", "cluster_size=4k", "disk", "8M", cwd=start).succeeded()
    tool("io", *(w for c in CONTENT for w in ("-c", c)), "disk", cwd=start).succeeded()
    for words in case.before:
        tool(*words, cwd=start).succeeded()
    if case.leaks:
        leak(start / "disk")
    before = content(start)
    start_again(work)
    tool(*case.words, cwd=work / "now").succeeded()
    return before, content(work / "now")


@pytest.mark.parametrize("sig", ["SIGINT", "SIGTERM"] if long_run() else ["SIGINT"])
@pytest.mark.parametrize("name", CASES)
def test_an_interrupted_change_leaves_a_good_image(name, sig, work, rng):
    case = CASES[name]
    before, after = prepare(work, case)
    hits = 0
    for call in case.calls:
        start_again(work)
        for nth in moments(work, case, call, rng):
            start_again(work)
            struck = strike(work / "now", call, nth, *case.words, sig=sig)
            hits += struck.hit
            ends = (0, -getattr(signal, sig)) if case.catches else (-getattr(signal, sig),)
            assert not struck.hit or struck.result.code in ends, struck.result.describe()
            found = qemu_img("check", "disk", cwd=work / "now")
            assert found.code in (0, 3), f"{call} {nth}\n" + found.describe()
            check_content(case, content(work / "now"), before, after)
    assert hits > 0


# ---- verbs that only read ----

@pytest.mark.parametrize("words", [
    ("measure", "-O", "qcow2", "disk"), ("info", "--usage", "disk"), ("check", "disk"),
    ("compare", "disk", "disk"), ("bench", "-c", "500", "-d", "1", "--aio=threads", "disk")])
def test_an_interrupted_reader_says_nothing_wrong(words, work):
    tool("create", "-q", "-o", "cluster_size=4k", "disk", "32M", cwd=work).succeeded()
    tool("io", "-c", "write 0 32M", "disk", cwd=work).succeeded()
    bytes_before = (work / "disk").read_bytes()
    cancelled = 0
    for nth in (1, 3, 10, 20):
        struck = strike(work, "pread64", nth, *words, "--progress=json")
        assert struck.result.code in (0, -signal.SIGINT), struck.result.describe()
        state = "finished" if struck.result.code == 0 else "cancelled"
        # if it had begun. Each thread of compare sends one, and the second ends it at once
        if struck.result.err and words[0] != "compare":
            assert struck.result.err.endswith(f'"state": "{state}"}}\n'), struck.result.describe()
        cancelled += struck.result.code != 0
    assert cancelled > 0
    assert (work / "disk").read_bytes() == bytes_before
