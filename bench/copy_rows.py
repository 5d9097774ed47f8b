# SPDX-License-Identifier: MIT
"""
Rows of whole disks: convert in all its ways, compare, rebase, and `info`, which is the start of the
program. What is made must read, by QEMU's reader, as the disk that it was made from.
"""
import subprocess

from images import GIB, Images, command, convert, make_once, make_sparse, warm
from measure import REPORT, Failed, Row, room_for
from meta_rows import MetaRow, extents, printed

PARALLEL = ["-W", "-m", "16"]
PIECE = 64 << 10
ZSTD = ["-o", "compression_type=zstd"]


def same_disk(path, path_format, other, other_format="raw"):
    """What our side made must read, by their reader, as the disk that it was made from."""
    def check():
        done = subprocess.run(["qemu-img", "compare", "-f", other_format, "-F", path_format, other,
                               path], capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"our output isn't the same disk: {done.stdout}{done.stderr}")
    return check


class Copies:
    """What the rows need beside the disk and its images: more images, each made once."""

    def __init__(self, images, packed):
        """packed: the disk that is compressed and decompressed, which may be a smaller one."""
        self.images = images
        self.packed = packed
        self.twin = images.folder / "twin.qcow2"
        self.near = images.folder / "near.qcow2"
        self.overlay = images.folder / "overlay.qcow2"
        self.sparse_raw = images.folder / "sparse.raw"
        self.sparse = images.folder / "sparse.qcow2"
        self.small = images.folder / "small.qcow2"

    def prepare(self, say):
        self.images.prepare(say)
        self.packed.prepare(say, compressed=True)
        plain = self.images.plain
        for path, make in [
            (self.twin, lambda p: command("cp", "--reflink=never", plain, p)),
            (self.near, self.make_near),
            (self.overlay, self.make_overlay),
            (self.sparse_raw, lambda p: make_sparse(p, 4 * self.images.data_bytes)),
            (self.sparse, lambda p: convert(self.sparse_raw, p)),
            (self.small, lambda p: command("qemu-img", "create", "-f", "qcow2", p, "64M")),
        ]:
            make_once(path, make, say)
        self.images.warm()
        self.packed.warm()
        warm([self.twin, self.near, self.sparse_raw, self.sparse, self.small])
        return True

    def remove(self):
        """They are kept for the next run."""

    def make_near(self, path):
        """256 pieces of the disk written anew, each where there are data already."""
        command("cp", "--reflink=never", self.images.plain, path)
        runs = [e["start"] for e in extents(printed(["qemu-img", "map", "--output=json", path]))
                if e["data"] and e["length"] >= PIECE]
        command("qemu-io", "--cache", "unsafe", "-f", "qcow2", path, input="".join(
            f"write -q -P {n % 255 + 1} {runs[n * len(runs) // 256]} {PIECE}\n"
            for n in range(256)).encode())

    def make_overlay(self, path):
        command("qemu-img", "create", "-f", "qcow2", "-b", self.images.plain, "-F", "qcow2", path)


class Plan:
    """The commands of a row are the same on both sides, but for what each is given in addition."""

    def __init__(self, qcow2, limits, copies, full):
        self.qcow2 = qcow2
        self.limits = limits
        self.copies = copies
        self.raw = copies.images.raw
        self.plain = copies.images.plain
        self.out = str(copies.images.folder / "out")
        self.full = full
        self.many, self.some = (9, 5) if full else (3, 2)
        self.slow = None if full else 1

    def cp(self, path):
        return ["cp", "--sparse=always", "--reflink=never", str(path), self.out]

    def convert(self, name, source, source_format, target_format, ours=(), theirs=(), disk=None,
                **more):
        """disk: the raw one that the source was made from."""
        formats = ["convert", "-f", source_format, "-O", target_format]
        return Row(name, [self.qcow2, *formats, *ours, str(source), self.out],
                   ["qemu-img", *formats, *theirs, str(source), self.out], output=self.out,
                   verify=same_disk(self.out, target_format, disk or self.raw),
                   **{"rounds": self.many, **more})

    def plain_ways(self):
        ways = (("raw to qcow2", self.raw, "raw", "qcow2"),
                ("qcow2 to raw", self.plain, "qcow2", "raw"),
                ("qcow2 to qcow2", self.plain, "qcow2", "qcow2"))
        direct = ["-t", "none", "-T", "none"]
        dd = ["dd", f"if={self.raw}", f"of={self.out}", "bs=1M", "iflag=direct", "oflag=direct",
              "conv=sparse", "status=none"]
        rows = []
        for name, *way in ways:
            rows.append(self.convert(name, *way, limit=self.cp(way[0]), target=1.4, within=1.1))
            rows.append(self.convert(f"{name}, theirs -W -m 16", *way, theirs=PARALLEL,
                                     target=1.4, rounds=self.some, thorough=True))
        rows += [self.convert(f"{name}, direct I/O on both sides", *way, direct, direct, limit=dd,
                              within=1.05, rounds=self.some, ready=GIB // 2,
                              thorough=name == "qcow2 to qcow2")
                 for name, *way in ways]
        return rows

    def sparse_ways(self):
        raw, image = self.copies.sparse_raw, self.copies.sparse
        return [self.convert(f"{name}, many small extents", *way, disk=raw, limit=self.cp(way[0]),
                             target=2.8, within=1.25, theirs_rounds=self.slow,
                             ready=self.copies.images.data_bytes // 2)
                for name, *way in (("raw to qcow2", raw, "raw", "qcow2"),
                                   ("qcow2 to raw", image, "qcow2", "raw"),
                                   ("qcow2 to qcow2", image, "qcow2", "qcow2"))]

    def packed_ways(self):
        images, rows = self.copies.packed, []
        ready = room_for(images.data_bytes)
        for name, how, target in ("deflate", [], 5), ("zstd", ZSTD, 2.2):
            rows.append(self.convert(
                f"compress, {name}", images.raw, "raw", "qcow2", ["-c", *how],
                ["-c", *how, *PARALLEL], disk=images.raw,
                limit=[self.limits.codec, REPORT, name, str(images.raw)], no_larger=True,
                rounds=self.many, theirs_rounds=self.slow, target=target, within=1.15, ready=ready))
        for name, image in ("deflate", images.deflate), ("zstd", images.zstd):
            rows.append(self.convert(
                f"decompress, {name}", image, "qcow2", "raw", theirs=PARALLEL, disk=images.raw,
                limit=[self.limits.codec, REPORT, "unpack", str(image)], floor=self.cp(images.raw),
                target=3.5, within=1.2, ready=ready))
        for name, image, how in ("deflate", images.deflate, []), ("zstd", images.zstd, ZSTD):
            rows.append(self.convert(
                f"{name} to {name}", image, "qcow2", "qcow2", ["-c", *how], ["-c", *how, *PARALLEL],
                limit=["cp", "--reflink=never", str(image), self.out], disk=images.raw,
                theirs_rounds=self.slow, target=20, within=1.2, ready=ready,
                thorough=name == "zstd"))
        return rows

    def two_images(self):
        twin, near, overlay = (str(p) for p in
                               (self.copies.twin, self.copies.near, self.copies.overlay))
        both = ["compare", "-f", "qcow2", "-F", "qcow2", str(self.plain), twin]
        onto = ["rebase", "-f", "qcow2", "-F", "qcow2", "-b", near]
        work = str(self.copies.images.folder / "meta.out")
        return [
            Row("compare, identical", [self.qcow2, *both], ["qemu-img", *both],
                limit=[self.limits.read_both, str(self.plain), twin], rounds=self.many, target=2.2,
                within=1.15),
            MetaRow("rebase onto a near base", self.copies.overlay, [self.qcow2, *onto],
                    ["qemu-img", *onto],
                    [self.limits.read_both, str(self.plain), near], rounds=self.many, target=3,
                    within=1.15, verify=same_disk(work, "qcow2", overlay, "qcow2")),
        ]

    def start(self):
        small = str(self.copies.small)
        return [Row(" ".join(words), [self.qcow2, *words, small], ["qemu-img", *words, small],
                    limit=[self.limits.smallest, small], repeat=40, rounds=self.many, target=5,
                    within=1.6, thorough=len(words) > 1)
                for words in (["info"], ["info", "--output=json"])]


def plan(qcow2, limits, images, full):
    """What the rows need, and the rows, in the order of the table."""
    few = images.data_bytes // 4
    small = images if full else Images(images.folder.parent / f"packed-{few >> 20}-mib", few)
    copies = Copies(images, small)
    p = Plan(qcow2, limits, copies, full)
    return copies, [*p.plain_ways(), *p.sparse_ways(), *p.packed_ways(), *p.two_images(),
                    *p.start()]
