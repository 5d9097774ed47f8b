# SPDX-License-Identifier: MIT
"""
Rows of convert on file systems that share blocks, xfs and btrfs, each in a file that is made once
and mounted for the run. Their limit is `cp --reflink=always` of the source: the file system's own
work.
"""
import subprocess

from copy_rows import same_disk
from images import GIB, command, convert, make_disk, make_once, warm
from measure import Row

DATA = GIB  # copied by nobody but theirs, so a quick run has as much of it
SYSTEMS = {"xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"], "btrfs": ["mkfs.btrfs", "-q"]}


class Shared:
    """The mounted file systems, with a raw disk and a qcow2 image on each."""

    def __init__(self, folder):
        self.folder = folder
        self.mounted = []

    def place(self, system):
        return self.folder / system

    def prepare(self, say):
        """False: they can't be had here."""
        for system, make in SYSTEMS.items():
            place = self.place(system)
            image = self.folder / f"{system}-{DATA >> 20}-mib.img"
            place.mkdir(parents=True, exist_ok=True)
            make_once(image, lambda p, argv=make: self.make_system(p, argv), say)
            done = subprocess.run(["mount", "-o", "loop,discard", image, place],
                                  capture_output=True, text=True)
            if done.returncode:
                say(f"rows on {' and '.join(SYSTEMS)} are left out, they take root and loop "
                    f"devices: {done.stderr.strip()}")
                return False
            self.mounted.append(place)
            raw, plain = place / "disk.raw", place / "disk.qcow2"
            make_once(raw, lambda p: make_disk(p, DATA), say)
            make_once(plain, lambda p, source=raw: convert(source, p), say)
            command("sync", "-f", place)
            warm([raw, plain])
        return True

    def make_system(self, image, make):
        with open(image, "wb") as f:
            f.truncate(4 * DATA + GIB)
        command(*make, image)

    def remove(self):
        for place in self.mounted:
            subprocess.run(["umount", place], check=True)


def plan(qcow2, folder, full):
    """What the rows need, and the rows."""
    shared = Shared(folder)

    def row(system, source, target):
        place = shared.place(system)
        path, out = str(place / f"disk.{source}"), str(place / "out")
        words = ["convert", "-f", source, "-O", target, path, out]
        return Row(f"{source} to {target}, {system}", [qcow2, *words], ["qemu-img", *words],
                   output=out, rounds=9 if full else 3,
                   theirs_rounds=None if full else 1, target=100, thorough=system != "xfs",
                   limit=["cp", "--reflink=always", path, out],
                   verify=same_disk(out, target, str(place / "disk.raw")))

    return shared, [row(system, *way) for system in SYSTEMS
                    for way in (("raw", "qcow2"), ("qcow2", "raw"), ("qcow2", "qcow2"))]
