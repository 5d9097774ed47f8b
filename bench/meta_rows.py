# SPDX-License-Identifier: MIT
"""
Rows of work on metadata alone: checks, repairs, snapshots, measuring. Their limit is meta_read.c,
which reads the same tables, or reads and writes them, and does nothing else.
"""
import os
import struct
import subprocess
from pathlib import Path

from images import GIB, MIB, command, make_once, preallocated
from measure import Failed, Row

SCATTERED = 100000  # clusters of 4 KiB that are written, out of order
LEAKS = 100000


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
    """Each side works on a copy of its own, which is made anew off the clock."""

    def __init__(self, name, source, ours, theirs, limit, **more):
        self.source = source
        self.path = str(source.parent / "meta.out")
        super().__init__(name, [*ours, self.path], [*theirs, self.path],
                         limit=limit and [*limit, self.path], **more)

    def run(self, stopwatch, say):
        for number in range(self.rounds):
            sides = list(self.commands)
            sides = sides[number % len(sides):] + sides[:number % len(sides)]
            for side in sides:
                copy(self.source, self.path)
                os.sync()
                sample = stopwatch.timed(self.commands[side])
                self.samples[side].append(sample)
                say(f"{self.name}: round {number + 1} of {self.rounds}: {side} "
                    f"{sample.seconds:.3f} s")
                if number == 0 and side == "ours":
                    self.look_at_it()
        os.remove(self.path)

    def look_at_it(self):
        done = subprocess.run(["qemu-img", "check", self.path], capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"{self.name}: qemu-img check: {done.stdout}{done.stderr}")


class MetaImages:
    def __init__(self, images):
        self.huge = images.folder / "huge.qcow2"
        self.tera = images.folder / "tera.qcow2"
        self.mapped = images.large
        self.scattered = images.folder / "scattered.qcow2"
        self.leaking = images.folder / "leaking.qcow2"
        self.snapped = images.folder / "snapped.qcow2"
        self.aged = images.folder / "aged.qcow2"
        self.huge_snapped = images.folder / "huge-snapped.qcow2"

    def prepare(self, say):
        for path, make in [
            (self.huge, preallocated("2T")),
            (self.tera, preallocated("1T")),
            (self.mapped, preallocated("256G")),
            (self.scattered, make_scattered),
            (self.leaking, make_leaking),
            (self.snapped, make_snapped(self.mapped)),
            (self.aged, make_aged(self.mapped)),
            (self.huge_snapped, make_snapped(self.huge)),
        ]:
            make_once(path, make, say)


def build_limit(folder):
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "meta_read"
    source = Path(__file__).resolve().parent / "meta_read.c"
    command("cc", "-O2", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", source, "-o", program)
    return str(program)


def plan(qcow2, meta_read, images, full):
    """What the rows need, and the rows."""
    made = MetaImages(images)
    rounds = 9 if full else 3

    def check(name, path, **more):
        return Row(f"check of {name}", [qcow2, "check", str(path)],
                   ["qemu-img", "check", str(path)], limit=[meta_read, str(path)], rounds=rounds,
                   **more)

    def change(name, source, *argv, write=False, **more):
        return MetaRow(name, source, [qcow2, *argv], ["qemu-img", *argv],
                       [meta_read, "-w"] if write else None, rounds=rounds, **more)

    def of_snapshots(name, source, snapped, tag):
        return [
            change(f"snapshot create, {name}", source, "snapshot", "-c", "new", write=True,
                   target=5),
            change(f"snapshot apply, {name}", snapped, "snapshot", "-a", tag, target=5),
            change(f"snapshot delete, {name}", snapped, "snapshot", "-d", tag, write=True,
                   target=5),
            change(f"snapshot list, {name}", snapped, "snapshot", "-l"),
        ]

    return made, [
        check("2 TiB, preallocated metadata", made.huge, target=30, within=2.0),
        check(f"{SCATTERED:,} fragments, five snapshots", made.scattered, target=200, within=5.0),
        Row("measure of a 1 TiB mapped image", [qcow2, "measure", "-O", "qcow2", str(made.tera)],
            ["qemu-img", "measure", "-O", "qcow2", str(made.tera)],
            limit=[meta_read, str(made.tera)], rounds=rounds, target=30, within=2.0),
        change(f"check -r leaks, {LEAKS:,} of them", made.leaking, "check", "-r", "leaks",
               target=200),
        change("snapshot create, 256 GiB", made.mapped, "snapshot", "-c", "b", write=True,
               target=10, within=2.0),
        change("snapshot apply, 256 GiB", made.snapped, "snapshot", "-a", "a", target=30),
        change("snapshot delete, 256 GiB", made.snapped, "snapshot", "-d", "a", write=True,
               target=20, within=2.0),
        change("snapshot delete, a tenth discarded since", made.aged, "snapshot", "-d", "a",
               write=True, target=80, within=3.0),
        change("snapshot list, 256 GiB", made.snapped, "snapshot", "-l"),
        *of_snapshots("2 TiB", made.huge, made.huge_snapped, "a"),
        *of_snapshots(f"{SCATTERED:,} fragments, five snapshots", made.scattered, made.scattered,
                      "s2"),
    ]
