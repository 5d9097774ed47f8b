# SPDX-License-Identifier: MIT
"""
The images that bench/run works on, made once and kept below the build folder.

They are made with QEMU's tools, so that both sides read what neither has an advantage with.
"""
import os
import shutil
import subprocess
from pathlib import Path
from random import Random

MIB = 1 << 20
GIB = 1 << 30
SOURCES = ["/usr/bin", "/usr/lib", "/usr/share", "/usr/include", "/usr/sbin", "/usr/libexec",
           "/usr/local", "/var/lib"]
FRAGMENTS = 40000
EXTENT_EVERY = 200 << 10  # bytes of a sparse disk


def command(*argv, **kwargs):
    subprocess.run([str(a) for a in argv], check=True, stdout=subprocess.DEVNULL, **kwargs)


def copy_files(stage, wanted):
    """
    The machine's own files, until there are `wanted` bytes. Where they don't suffice they come
    again, each time without some more of their first bytes: other blocks, the same kind of data.
    """
    total = 0
    for cut in range(0, 97 * 64, 97):
        before = total
        for source in SOURCES:
            for folder, dirs, names in os.walk(source):
                dirs.sort()
                for name in sorted(names):
                    path = Path(folder, name)
                    if total >= wanted:
                        return
                    total += copy_file(path, stage / str(cut), cut)
        if total == before:
            break
    raise SystemExit("bench: this machine has no files to fill a disk with")


def copy_file(path, below, cut):
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > 256 << 20:
            return 0
        data = path.read_bytes()[cut:]
        target = below / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    except OSError:
        return 0
    return len(data)


def make_disk(path, data_bytes):
    stage = path.parent / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    copy_files(stage, data_bytes)
    with open(path, "wb") as disk:
        disk.truncate(2 * data_bytes)
    command("mkfs.ext4", "-q", "-F", "-d", stage, path)
    shutil.rmtree(stage)


def make_sparse(path, size):
    """
    Extents of 4 to 16 KiB all over the disk, one in each third or fourth cluster of 64 KiB, written
    from the first to the last: bytes that look like data, none of them twice.
    """
    random = Random(1)
    with open(path, "wb", buffering=0) as disk:
        disk.truncate(size)
        for start in range(0, size - EXTENT_EVERY, EXTENT_EVERY):
            nbytes = random.randrange(1, 5) * 4096
            start += random.randrange(0, 8) * 4096
            os.pwrite(disk.fileno(), random.randbytes(nbytes), start)


def make_fragmented(path):
    """Clusters of 4 KiB, every other one written, from the last to the first."""
    command("qemu-img", "create", "-f", "qcow2", "-o", "cluster_size=4k", path, "1G")
    writes = "".join(f"write -q {n * 8192} 4096\n" for n in reversed(range(FRAGMENTS)))
    command("qemu-io", "--cache", "unsafe", "-f", "qcow2", path, input=writes.encode())


def convert(source, path, *options):
    command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-W", "-m", "16", *options, source,
            path)


def preallocated(size):
    return lambda path: command("qemu-img", "create", "-f", "qcow2", "-o",
                                "preallocation=metadata", path, size)


def make_once(path, make, say):
    if path.exists():
        return
    say(f"making {path.name}, once")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    make(unfinished)
    unfinished.rename(path)


def warm(paths):
    """Everything that is read comes from memory, for both sides alike; holes needn't be read."""
    for path in paths:
        with open(path, "rb", buffering=0) as f:
            end = 0
            while True:
                try:
                    start = os.lseek(f.fileno(), end, os.SEEK_DATA)
                except OSError:
                    break
                end = os.lseek(f.fileno(), start, os.SEEK_HOLE)
                for off in range(start, end, 8 * MIB):
                    os.pread(f.fileno(), min(8 * MIB, end - off), off)


class Images:
    """The paths, as attributes; `prepare` makes what isn't there."""

    def __init__(self, folder, data_bytes):
        self.folder = folder
        self.data_bytes = data_bytes
        self.raw = folder / "disk.raw"
        self.plain = folder / "disk.qcow2"
        self.deflate = folder / "deflate.qcow2"
        self.zstd = folder / "zstd.qcow2"

    def prepare(self, say, compressed=False):
        zstd = ["-c", "-o", "compression_type=zstd"]
        make_once(self.raw, lambda p: make_disk(p, self.data_bytes), say)
        make_once(self.plain, lambda p: convert(self.raw, p), say)
        if compressed:
            make_once(self.deflate, lambda p: convert(self.raw, p, "-c"), say)
            make_once(self.zstd, lambda p: convert(self.raw, p, *zstd), say)

    def warm(self):
        warm([p for p in (self.raw, self.plain, self.deflate, self.zstd) if p.exists()])
