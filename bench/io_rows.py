# SPDX-License-Identifier: MIT
"""
The rows that read and write like a guest: io_bench beside `qemu-img bench`, and beside plain
pread and pwrite on a raw file (the limit), all with the same requests in the same order.
"""
import os
import subprocess
import sys

from images import GIB, MIB, command
from measure import Failed, Row, touch_memory

SIDES = ["ours", "theirs", "limit"]
FULL = GIB  # the disk that is written already, and the one that lies below overlays
EMPTY = 4 * GIB  # the one that isn't
PAGE = 4096


def jumps(disk_bytes):
    """
    A step that jumps about the whole disk: the golden section of it, in an odd number of pages, so
    that each page of a disk of 2^n bytes comes up once before any comes up again. The smaller part
    of the section, because qemu-img takes steps below 2 GiB.
    """
    return (int(disk_bytes / PAGE * 0.3819660112501051) | 1) * PAGE


def fill(path, image_format, pattern):
    """
    A full disk, page after page. In small writes, because ext4 then has it in small pieces in
    memory: where one file lies in large pieces and the other doesn't, writes to them take 2 µs or
    10 µs for the kernel's own reasons.
    """
    command("qemu-img", "bench", "-q", "-f", image_format, "-t", "unsafe", "-w", "-s", PAGE, "-c",
            FULL // PAGE, f"--pattern={pattern}", path)


def create(path, image_format, size, *options):
    """size None: that of the backing file."""
    command("qemu-img", "create", "-q", "-f", image_format, *options, path, *[size] * bool(size))


class Disks:
    """Files that rows work on. Each side has its own, so that what it wrote can be compared."""

    def __init__(self, folder):
        self.folder = folder
        self.base = folder / "io-base.qcow2"

    def full(self, side):
        return self.folder / f"io-full.{side}"

    def out(self, side):
        return self.folder / f"io-out.{side}"

    def prepare(self, say):
        self.folder.mkdir(parents=True, exist_ok=True)
        say("making the disks that are read and written")
        create(self.base, "qcow2", FULL)
        fill(self.base, "qcow2", 0x11)
        for side in SIDES:
            kind = "raw" if side == "limit" else "qcow2"
            how = [] if side == "limit" else ["-o", "preallocation=metadata"]
            create(self.full(side), kind, FULL, *how)
            fill(self.full(side), kind, 0x22)
        os.sync()

    def remove(self):
        for path in [self.base, *map(self.full, SIDES), *map(self.out, SIDES)]:
            path.unlink(missing_ok=True)

    def empty(self, side):
        self.out(side).unlink(missing_ok=True)
        create(self.out(side), "raw" if side == "limit" else "qcow2", EMPTY)

    def overlay(self, *options):
        def make(side):
            self.out(side).unlink(missing_ok=True)
            if side == "limit":
                create(self.out(side), "raw", FULL)
            else:
                create(self.out(side), "qcow2", None, *options, "-b", self.base, "-F", "qcow2")
        return make


class IoRow(Row):
    """A row whose file is there before the clock starts, and is looked at by qemu-img after it."""

    def __init__(self, name, commands, files, make=None, writes=False, ready=MIB, **more):
        super().__init__(name, commands["ours"], commands["theirs"], limit=commands["limit"],
                         **more)
        self.files = files
        self.make = make
        self.writes = writes
        self.ready = ready

    def run(self, stopwatch, say):
        for number in range(self.rounds):
            # Everybody is first, second and last in turn.
            sides = SIDES[number % 3:] + SIDES[:number % 3]
            for side in sides:
                self.samples[side].append(self.once(side, stopwatch))
                say(f"{self.name}: round {number + 1} of {self.rounds}: {side} "
                    f"{self.samples[side][-1].seconds:.3f} s")
            if number == 0 and self.writes:
                self.look_at_it()
            if self.make:
                for side in sides:
                    self.files(side).unlink()

    def once(self, side, stopwatch):
        path = self.files(side)
        if self.make:
            self.make(side)
            touch_memory(self.ready)
        sample = stopwatch.timed(self.commands[side], str(path) if self.make else None)
        # So that no other run waits for the disk. What is removed needn't get there.
        if self.writes and not self.make:
            with open(path, "rb") as f:
                os.fsync(f.fileno())
        return sample

    def look_at_it(self):
        """Sound by their checker, and the same disk as theirs after the same requests."""
        ours, theirs = str(self.files("ours")), str(self.files("theirs"))
        for argv in (["check", "-f", "qcow2", ours],
                     ["compare", "-f", "qcow2", "-F", "qcow2", ours, theirs]):
            done = subprocess.run(["qemu-img", *argv], capture_output=True, text=True)
            if done.returncode:
                raise Failed(f"{self.name}: qemu-img {argv[0]}: {done.stdout}{done.stderr}")


def fastest_engine():
    """io_uring where it may be used: theirs is faster with it than with its threads."""
    argv = ["qemu-img", "bench", "-q", "-f", "raw", "-i", "io_uring", "-c", "1", "-s", "512"]
    done = subprocess.run([*argv, sys.executable], capture_output=True)
    return "threads" if done.returncode else "io_uring"


def plan(io_bench, folder, full):
    disks = Disks(folder)
    engine = fastest_engine()
    rounds = 11 if full else 3
    patterns = iter(range(0x31, 0x100))

    def row(name, files, *options, write=True, cache="unsafe", rounds=rounds, **more):
        pattern = ["-w", f"--pattern={next(patterns)}"] if write else []
        same = ["-t", cache, *pattern, *map(str, options)]
        commands = {
            "ours": [io_bench, "-f", "qcow2", *same, str(files("ours"))],
            "theirs": ["qemu-img", "bench", "-q", "-f", "qcow2", "-i", engine, *same,
                       str(files("theirs"))],
            "limit": [io_bench, "-l", *same, str(files("limit"))],
        }
        return IoRow(f"io: {name}", commands, files, writes=write, rounds=rounds, **more)

    def random(disk_bytes, count, depth):
        return ["-s", PAGE, "-S", jumps(disk_bytes), "-c", count, "-d", depth]

    def sequential(size):
        return ["-s", size, "-S", size, "-c", GIB // 2 // size, "-d", 1]

    rows = []
    for depth in 1, 32:
        rows += [row(f"4 KiB reads, depth {depth}", disks.full, *random(FULL, 100000, depth),
                     write=False, within=1.2),
                 row(f"4 KiB writes in place, depth {depth}", disks.full,
                     *random(FULL, 50000, depth), within=1.2)]
    for depth in 1, 32:
        where = f"depth {depth}"
        subclusters = disks.overlay("-o", "extended_l2=on")
        rows += [row(f"4 KiB writes, empty, {where}", disks.out, *random(EMPTY, 50000, depth),
                     make=disks.empty, ready=GIB // 2),
                 row(f"4 KiB writes, overlay, {where}", disks.out, *random(FULL, 8000, depth),
                     make=disks.overlay(), ready=GIB // 2),
                 row(f"4 KiB writes, overlay with subclusters, {where}", disks.out,
                     *random(FULL, 16000, depth), make=subclusters, ready=GIB // 2)]
    # these wait for the disk, which may have other things to do: more rounds
    flushes = {"cache": "writeback", "rounds": 3 * rounds}
    each = ["--flush-interval", 1]
    rows += [
        row("64 KiB writes, empty, in order", disks.out, *sequential(64 << 10), make=disks.empty,
            ready=GIB // 2),
        row("1 MiB writes, empty, in order", disks.out, *sequential(MIB), make=disks.empty,
            ready=GIB // 2),
        row("4 KiB writes in place, a flush after each", disks.full, *random(FULL, 500, 1), *each,
            **flushes),
        row("4 KiB writes, empty, a flush after each", disks.out, *random(EMPTY, 300, 1), *each,
            make=disks.empty, **flushes),
    ]
    return disks, rows
