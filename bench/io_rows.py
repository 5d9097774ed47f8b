# SPDX-License-Identifier: MIT
"""
The rows that read and write like a guest: io_bench beside `qemu-img bench`, and beside plain
pread and pwrite on a raw file (the limit), all with the same requests in the same order.
"""
import os
import shutil
import subprocess
import sys

from images import GIB, MIB, command
from measure import Failed, Row, room_for, touch_memory

SIDES = ["ours", "theirs", "limit"]
EMPTY = 4 * GIB  # the disk that nothing is written to yet
PAGE = 4096
LAYERS = 300
PACKED = 256 * MIB
MAPPED_STEP = 2047 * MIB + PAGE  # qemu-img takes steps below 2 GiB
MAPPED = ["16G", "256G", "1T"]  # disks that are mapped whole, of holes of the host's file


def jumps(disk_bytes):
    """
    A step that jumps about the whole disk: the golden section of it, in an odd number of pages, so
    that each page of a disk of 2^n bytes comes up once before any comes up again. The smaller part
    of the section, because qemu-img takes steps below 2 GiB.
    """
    return (int(disk_bytes / PAGE * 0.3819660112501051) | 1) * PAGE


def fill(path, image_format, size, pattern):
    """
    A full disk, page after page. In small writes, because ext4 then has it in small pieces in
    memory: where one file lies in large pieces and the other doesn't, writes to them take 2 µs or
    10 µs for the kernel's own reasons.
    """
    command("qemu-img", "bench", "-q", "-f", image_format, "-t", "unsafe", "-w", "-s", PAGE, "-c",
            size // PAGE, f"--pattern={pattern}", path)


def create(path, image_format, size, *options):
    """size None: that of the backing file."""
    command("qemu-img", "create", "-q", "-f", image_format, *options, path, *[size] * bool(size))


class Disks:
    """Files that rows work on. Each side has its own, so that what it wrote can be compared."""

    def __init__(self, folder, size):
        """size: of the disk that is written already, and of the one that lies below overlays."""
        self.folder = folder
        self.size = size
        self.base = folder / "io-base.qcow2"
        self.packed = folder / "io-packed.qcow2"
        self.packed_small = folder / "io-packed-small.qcow2"
        self.chain = folder / "io-chain"
        self.mapped = {size: folder / f"io-mapped-{size}.qcow2" for size in MAPPED}

    def full(self, side):
        return self.folder / f"io-full.{side}"

    def out(self, side):
        return self.folder / f"io-out.{side}"

    def prepare(self, say):
        self.folder.mkdir(parents=True, exist_ok=True)
        say("making the disks that are read and written")
        create(self.base, "qcow2", self.size)
        command("qemu-io", "-t", "unsafe", "-f", "qcow2", "-c", f"write -P 17 0 {self.size}",
                self.base)
        for side in SIDES:
            kind = "raw" if side == "limit" else "qcow2"
            how = [] if side == "limit" else ["-o", "preallocation=metadata"]
            create(self.full(side), kind, self.size, *how)
            fill(self.full(side), kind, self.size, 0x22)
        self.make_packed(self.packed, PACKED)
        self.make_packed(self.packed_small, 16 * MIB)
        self.make_chain()
        for size, path in self.mapped.items():
            create(path, "qcow2", size, "-o", "preallocation=metadata")
        os.sync()
        return True

    def make_packed(self, path, size):
        """Lines of text, a different one each time, so that clusters shrink to about a third."""
        text = self.folder / "io-text.raw"
        with open(text, "wb") as f:
            for n in range(0, size, 64):
                f.write(b"%031d a line of some text, %08x\n" % (n, n * 2654435761 % 2**32))
        command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-W", "-m", "16", text,
                path)
        text.unlink()

    def make_chain(self):
        """Data in the lowest layer only."""
        self.chain.mkdir(exist_ok=True)
        below = self.base
        for n in range(1, LAYERS):
            path = self.top(n)
            path.unlink(missing_ok=True)
            command("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", below, "-F", "qcow2",
                    path, self.size)
            below = path

    def top(self, n=LAYERS - 1):
        return self.chain / f"{n}.qcow2"

    def remove(self):
        for path in [self.base, self.packed, self.packed_small, *self.mapped.values(),
                     *map(self.full, SIDES), *map(self.out, SIDES)]:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.chain, ignore_errors=True)

    def empty(self, side):
        self.out(side).unlink(missing_ok=True)
        create(self.out(side), "raw" if side == "limit" else "qcow2", EMPTY)

    def lazy(self, side):
        self.out(side).unlink(missing_ok=True)
        options = [] if side == "limit" else ["-o", "lazy_refcounts=on"]
        create(self.out(side), "raw" if side == "limit" else "qcow2", EMPTY, *options)

    def overlay(self, *options):
        def make(side):
            self.out(side).unlink(missing_ok=True)
            if side == "limit":
                create(self.out(side), "raw", self.size)
            else:
                create(self.out(side), "qcow2", None, *options, "-b", self.base, "-F", "qcow2")
        return make


class IoRow(Row):
    """A row whose file is there before the clock starts, and is looked at by qemu-img after it."""

    def __init__(self, name, commands, files, make=None, writes=False, ready=MIB, theirs_times=1,
                 **more):
        super().__init__(name, commands["ours"], commands["theirs"], limit=commands["limit"],
                         ready=ready, **more)
        self.theirs_times = theirs_times
        self.files = files
        self.make = make
        self.writes = writes

    def run(self, stopwatch, say):
        for number in self.numbers():
            sides = self.sides(number)
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
        if side == "theirs" and self.theirs_times > 1:
            self.scale(sample, stopwatch)
        # So that no other run waits for the disk. What is removed needn't get there.
        if self.writes and not self.make:
            with open(path, "rb") as f:
                os.fsync(f.fileno())
        return sample

    def scale(self, sample, stopwatch):
        """Theirs did only a part of the requests. Opening and closing isn't scaled with them."""
        argv = list(self.commands["theirs"])
        argv[argv.index("-c") + 1] = "1"
        start = stopwatch.timed(argv)
        sample.seconds += (sample.seconds - start.seconds) * (self.theirs_times - 1)
        sample.cpu += (sample.cpu - start.cpu) * (self.theirs_times - 1)

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
    size = GIB if full else GIB // 2
    disks = Disks(folder, size)
    engine = fastest_engine()
    rounds = 11 if full else 3
    ready = room_for(size)
    many, into_empty, parts = (50000, 50000, 16000) if full else (30000, 10000, 10000)
    patterns = iter(range(0x31, 0x100))

    def row(name, files, *options, write=True, cache="unsafe", rounds=rounds, queue=False,
            limit=None, below=None, fewer=1, **more):
        """
        queue: ours from one thread too. limit: what to run instead of the raw file. below: the raw
        file from which the limit copies the rest of a cluster. fewer: theirs does only one request
        in so many, since it takes so long.
        """
        under = [] if below is None else ["-b", str(below)]
        pattern = ["-w", f"--pattern={next(patterns)}"] if write else []
        same = ["-t", cache, *pattern, *map(str, options)]
        theirs = ["-t", cache, *pattern, *map(str, options)]
        if fewer > 1:
            count = theirs.index("-c") + 1
            theirs[count] = str(int(theirs[count]) // fewer)
        commands = {
            "ours": [io_bench, "-f", "qcow2", *["-q"] * queue, *same, str(files("ours"))],
            "theirs": ["qemu-img", "bench", "-q", "-f", "qcow2", "-i", engine,
                       *["-n"] * (cache == "none" and engine == "native"), *theirs,
                       str(files("theirs"))],
            "limit": [io_bench, "-l", *under, *same, str(files("limit"))] if limit is None else
                     [io_bench, "-f", "qcow2", *["-q"] * queue, *same, str(limit)],
        }
        return IoRow(f"io: {name}", commands, files, writes=write, rounds=rounds,
                     theirs_times=fewer, **more)

    def random(disk_bytes, count, depth):
        return ["-s", PAGE, "-S", jumps(disk_bytes), "-c", count, "-d", depth]

    def sequential(piece):
        return ["-s", piece, "-S", piece, "-c", GIB // 2 // piece, "-d", 1]

    rows = []
    for depth, reads, writes in (1, 3.5, 6), (32, 4, 5):
        rows += [row(f"4 KiB reads, depth {depth}", disks.full, *random(size, 400000, depth),
                     write=False, target=reads, within=1.15),
                 row(f"4 KiB writes in place, depth {depth}", disks.full,
                     *random(size, many, depth), target=writes, within=1.2)]
    for depth in 1, 32:
        where = f"depth {depth}"
        subclusters = disks.overlay("-o", "extended_l2=on")
        rows += [row(f"4 KiB writes, empty, {where}", disks.out, *random(EMPTY, into_empty, depth),
                     make=disks.empty, ready=ready, target=8, within=1.3, thorough=depth > 1),
                 row(f"4 KiB writes, overlay, {where}", disks.out, *random(size, 8000, depth),
                     make=disks.overlay(), ready=ready, below=disks.full("limit"), target=1.8,
                     within=1.3, thorough=depth > 1),
                 row(f"4 KiB writes, overlay with subclusters, {where}", disks.out,
                     *random(size, parts, depth), make=subclusters, ready=ready, target=2,
                     within=1.3, thorough=depth > 1)]
    # these wait for the disk, which may have other things to do: more rounds
    flushes = {"cache": "writeback", "rounds": 3 * rounds}
    each = ["--flush-interval", 1]
    for piece in PAGE, 64 << 10:
        for depth in 1, 32:
            for write in False, True:
                what = "writes in place" if write else "reads"
                rows.append(row(
                    f"{piece >> 10} KiB {what}, direct, depth {depth}", disks.full, "-s", piece,
                    "-S", jumps(size) // PAGE // 16 * 16 * PAGE + piece, "-c",
                    4000 if depth == 1 else 16000, "-d", depth,
                    write=write, cache="none", queue=True, within=1.05, thorough=write))
    rows += [
        row("4 KiB reads of a compressed image", lambda side: disks.packed,
            *random(PACKED, 8000, 1), write=False, limit=disks.base, target=10),
        row("4 KiB reads of a compressed image of 16 MiB", lambda side: disks.packed_small,
            *random(16 * MIB, 20000, 1), write=False, limit=disks.base, target=10,
            thorough=True),
        row(f"4 KiB reads through {LAYERS} layers", lambda side: disks.top(),
            *random(size, 1000000, 1), write=False, limit=disks.base, fewer=500, target=100,
            within=1.3),
        *[row(f"4 KiB reads over {s}, mapped, direct", lambda side, s=s: disks.mapped[s],
              "-s", PAGE, "-S", MAPPED_STEP, "-c", 1000000, "-d", 1, write=False, cache="none",
              limit=disks.mapped["16G"], fewer=fewer, target=target, within=1.5)
          for s, target, fewer in [("256G", 3, 1), ("1T", 20, 50)]],
    ]
    rows += [
        row("64 KiB writes, empty, in order", disks.out, *sequential(64 << 10), make=disks.empty,
            ready=ready, target=2.5, within=1.25),
        row("1 MiB writes, empty, in order", disks.out, *sequential(MIB), make=disks.empty,
            ready=ready, thorough=True),
        row("4 KiB writes in place, a flush after each", disks.full, *random(size, 500, 1), *each,
            thorough=True, **flushes),
        row("4 KiB writes, empty, a flush after each", disks.out, *random(EMPTY, 300, 1), *each,
            make=disks.empty, target=2, **flushes),
        row("4 KiB writes, empty, lazy refcounts, a flush after each", disks.out,
            *random(EMPTY, 300, 1), *each, make=disks.lazy, target=1.8, **flushes),
    ]
    return disks, rows
