# SPDX-License-Identifier: MIT
"""
Rows of work on metadata alone: checks, repairs, snapshots, measuring. Their limit is meta_read.c,
which reads the same tables, or reads and writes them, and does nothing else.
"""
import json
import os
import struct
import subprocess

from images import GIB, MIB, command, make_fragmented, make_once, preallocated, warm
from measure import Failed, Row

SCATTERED = 100000  # clusters of 4 KiB that are written, out of order
LEAKS = 100000
TIB = 1024 * GIB
PATH = "{path}"


def copy(source, target):
    command("cp", "--sparse=always", "--reflink=never", source, target)


def make_scattered(path):
    """Five snapshots, between them a fifth of the clusters written anew."""
    def write(numbers):
        command("qemu-io", "--cache", "unsafe", "-f", "qcow2", path, input="".join(
            f"write -q {n * 7919 % SCATTERED * 8192} 4096\n" for n in numbers).encode())

    command("qemu-img", "create", "-f", "qcow2", "-o", "cluster_size=4k", path, "1G")
    write(range(SCATTERED))
    for n in range(5):
        command("qemu-img", "snapshot", "-c", f"s{n}", path)
        write(range(n, SCATTERED, 5))


def make_leaking(path):
    """Every other entry of the first L2 tables is gone; the refcounts aren't told."""
    command("qemu-img", "create", "-f", "qcow2", "-o", "preallocation=metadata", path, "64G")
    left = LEAKS
    with open(path, "r+b") as f:
        header = f.read(48)
        cluster = 1 << struct.unpack_from(">I", header, 20)[0]
        l1_entries, l1_off = struct.unpack_from(">IQ", header, 36)
        f.seek(l1_off)
        for (entry,) in struct.iter_unpack(">Q", f.read(l1_entries * 8)):
            if left == 0:
                break
            f.seek(entry & 0x00fffffffffffe00)
            table = bytearray(f.read(cluster))
            for i in range(0, min(cluster, left * 16), 16):
                table[i:i + 8] = bytes(8)
                left -= 1
            f.seek(entry & 0x00fffffffffffe00)
            f.write(table)


def make_snapped(source):
    def make(path):
        copy(source, path)
        command("qemu-img", "snapshot", "-c", "a", path)
    return make


def make_aged(source):
    """A tenth of the disk is discarded after the snapshot, a piece of each L2 table's part."""
    def make(path):
        make_snapped(source)(path)
        command("qemu-io", "--cache", "unsafe", "-f", "qcow2", path, input="".join(
            f"discard -q {off} {52 * MIB}\n" for off in range(0, 256 * GIB, 512 * MIB)).encode())
    return make


class MetaRow(Row):
    """
    Each side works on a copy of its own, which is made anew off the clock: its path stands at the
    end of each command or where PATH is. Ours has to be sound by their checker, and of disk_bytes
    if that is given.
    """

    def __init__(self, name, source, ours, theirs, limit, verify=None, disk_bytes=None, **more):
        self.source = source
        self.path = str(source.parent / "meta.out")
        self.disk_bytes = disk_bytes
        self.also = verify
        super().__init__(name, self.placed(ours), self.placed(theirs), verify=self.look_at_it,
                         limit=limit and self.placed(limit), **more)

    def placed(self, argv):
        argv = argv if any(PATH in word for word in argv) else [*argv, PATH]
        return [word.replace(PATH, self.path) for word in argv]

    def once(self, side, stopwatch):
        copy(self.source, self.path)
        os.sync()
        return stopwatch.timed(self.commands[side])

    def clean(self):
        os.remove(self.path)

    def look_at_it(self):
        done = subprocess.run(["qemu-img", "check", self.path], capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"{self.name}: qemu-img check: {done.stdout}{done.stderr}")
        info = json.loads(printed(["qemu-img", "info", "--output=json", self.path]))
        if self.disk_bytes and info["virtual-size"] != self.disk_bytes:
            raise Failed(f"{self.name}: the disk has {info['virtual-size']} bytes")
        if self.also:
            self.also()


def printed(argv):
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{' '.join(argv)}: {done.stderr}")
    return done.stdout


def same_words(ours, theirs, judge=lambda text: text):
    """Both print the same: judge brings it into a form in which that can be seen."""
    def check():
        if judge(printed(ours)) != judge(printed(theirs)):
            raise Failed(f"{' '.join(ours)}: prints something else than {theirs[0]}")
    return check


def extents(text):
    """A map without what only newer versions of theirs print."""
    return [{k: v for k, v in e.items() if k != "compressed"} for e in json.loads(text)]


def full_size(text):
    """What measure says of the whole disk; of what is there theirs leaves out holes of the file."""
    return [line for line in text.splitlines() if line.startswith("fully allocated size:")]


def sound(path, disk_bytes, nclusters):
    """A disk that was made here is sound by their checker, and all of it has clusters."""
    def check():
        report = json.loads(printed(["qemu-img", "check", "--output=json", "-f", "qcow2", path]))
        info = json.loads(printed(["qemu-img", "info", "--output=json", path]))
        if (info["virtual-size"], report.get("allocated-clusters")) != (disk_bytes, nclusters):
            raise Failed(f"{path}: not all of its clusters are there")
    return check


class MetaImages:
    def __init__(self, folder, full):
        self.full = full
        self.huge = folder / "huge.qcow2"
        self.tera = folder / "tera.qcow2"
        self.mapped = folder / "large.qcow2"
        self.fragmented = folder / "fragmented.qcow2"
        self.scattered = folder / "scattered.qcow2"
        self.leaking = folder / "leaking.qcow2"
        self.snapped = folder / "snapped.qcow2"
        self.aged = folder / "aged.qcow2"
        self.huge_snapped = folder / "huge-snapped.qcow2"

    def prepare(self, say):
        made = [
            (self.tera, preallocated("1T")),
            (self.mapped, preallocated("256G")),
            (self.fragmented, make_fragmented),
            (self.scattered, make_scattered),
            (self.leaking, make_leaking),
            (self.snapped, make_snapped(self.mapped)),
            (self.aged, make_aged(self.mapped)),
        ]
        if self.full:
            made += [(self.huge, preallocated("2T")), (self.huge_snapped, make_snapped(self.huge))]
        for path, make in made:
            make_once(path, make, say)
        warm([path for path, _ in made])
        return True

    def remove(self):
        """They are kept for the next run."""


def written(nbytes, path):
    """So many bytes of tables written into a new file from start to end, and flushed."""
    return ["dd", "if=/dev/zero", f"of={path}", "bs=256K", f"count={-(-nbytes // (256 << 10))}",
            "conv=fdatasync", "status=none"]


def tables(disk_bytes):
    """The bytes of L2 entries and refcounts for a disk that is mapped whole, in 64 KiB clusters."""
    return disk_bytes // 65536 * (8 + 2)


class Plan:
    """Makes rows in which both sides are given the same words."""

    def __init__(self, qcow2, limits, folder, full):
        self.slow = None if full else 1
        rounds = 9 if full else 3
        self.qcow2 = qcow2
        self.limits = limits
        self.out = str(folder / "meta-out.qcow2")
        self.rounds = rounds

    def look(self, name, path, *argv, limit=(), judge=None, **more):
        ours, theirs = ([tool, *argv, str(path)] for tool in (self.qcow2, "qemu-img"))
        return Row(name, ours, theirs, limit=[self.limits.meta_read, *limit, str(path)],
                   rounds=self.rounds, verify=judge and same_words(ours, theirs, judge), **more)

    def mapped(self, name, path, **more):
        return self.look(f"map --output=json, {name}", path, "map", "--output=json", limit=["-m"],
                         judge=extents, **more)

    def change(self, name, source, *argv, limit=None, **more):
        if isinstance(limit, str):
            limit = [self.limits.meta_read, limit]
        return MetaRow(name, source, [self.qcow2, *argv], ["qemu-img", *argv], limit,
                       rounds=self.rounds, **more)

    def create(self, size, disk_bytes, **more):
        argv = ["create", "-f", "qcow2", "-o", "preallocation=metadata", self.out, size]
        return Row(f"create {size}, preallocation=metadata", [self.qcow2, *argv],
                   ["qemu-img", *argv], output=self.out, rounds=self.rounds, target=10, within=1.5,
                   limit=written(tables(disk_bytes), self.out),
                   verify=sound(self.out, disk_bytes, disk_bytes // 65536), **more)

    def of_snapshots(self, name, source, snapped, tag, **slow):
        """slow: what holds for the rows in which theirs takes long."""
        return [
            self.change(f"snapshot create, {name}", source, "snapshot", "-c", "new", limit="-w",
                        target=5, **slow),
            self.change(f"snapshot apply, {name}", snapped, "snapshot", "-a", tag, target=5,
                        **slow),
            self.change(f"snapshot delete, {name}", snapped, "snapshot", "-d", tag, limit="-w",
                        target=5, **slow),
            self.change(f"snapshot list, {name}", snapped, "snapshot", "-l", thorough=True),
        ]


def plan(qcow2, limits, folder, full):
    """What the rows need, and the rows."""
    made = MetaImages(folder, full)
    p = Plan(qcow2, limits, folder, full)
    slow = p.slow
    fragments = f"{SCATTERED:,} fragments, five snapshots"
    grow = ["resize", "-q", "-f", "qcow2", "--preallocation=metadata", PATH, "+1T"]
    return made, [
        p.look("check, 1 TiB mapped", made.tera, "check", target=30, within=2.0),
        p.look(f"check, {fragments}", made.scattered, "check", target=200, within=5.0,
               theirs_rounds=slow),
        p.look("check, 40,000 fragments", made.fragmented, "check", repeat=5, target=5,
               thorough=True),
        p.change(f"check -r leaks, {LEAKS:,} of them", made.leaking, "check", "-r", "leaks",
                 target=200, theirs_rounds=slow),
        p.create("256G", 256 * GIB),
        p.create("1T", TIB, thorough=True),
        p.change("resize --shrink to half, 256 GiB mapped", made.mapped, "resize", "-q", "-f",
                 "qcow2", "--shrink", PATH, "128G", limit="-s", disk_bytes=128 * GIB, target=50,
                 within=2.0),
        p.change("resize +1T, preallocation=metadata, 256 GiB mapped", made.mapped, *grow,
                 limit=written(tables(TIB), PATH), disk_bytes=256 * GIB + TIB, target=50,
                 within=2.0, theirs_rounds=slow),
        p.change("resize +1T, 256 GiB mapped", made.mapped, "resize", "-q", "-f", "qcow2", PATH,
                 "+1T", disk_bytes=256 * GIB + TIB, thorough=True),
        p.mapped("1 TiB mapped", made.tera, repeat=5 if full else 1, theirs_rounds=slow, target=40,
                 within=2.5),
        p.mapped("40,000 fragments", made.fragmented, repeat=5, target=60, within=2.5,
                 thorough=True),
        p.mapped("100,000 fragments", made.scattered, repeat=2, target=60, within=2.5),
        p.look("measure, 1 TiB mapped", made.tera, "measure", "-O", "qcow2", judge=full_size,
               target=30, within=2.0),
        p.change("snapshot create, 256 GiB", made.mapped, "snapshot", "-c", "b", limit="-w",
                 target=10, within=2.0),
        p.change("snapshot apply, 256 GiB", made.snapped, "snapshot", "-a", "a", target=30),
        p.change("snapshot delete, 256 GiB", made.snapped, "snapshot", "-d", "a", limit="-w",
                 target=20, within=2.0),
        p.change("snapshot delete, a tenth discarded since", made.aged, "snapshot", "-d", "a",
                 limit="-w", target=80, within=3.0, theirs_rounds=slow),
        p.change("snapshot list, 256 GiB", made.snapped, "snapshot", "-l", thorough=True),
        *(p.of_snapshots("2 TiB", made.huge, made.huge_snapped, "a") if full else []),
        *p.of_snapshots(fragments, made.scattered, made.scattered, "s2", theirs_rounds=3,
                        thorough=True),
    ]
