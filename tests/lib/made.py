# SPDX-License-Identifier: MIT
"""Images made by the real qemu-img and qemu-io: any options, seeded random contents."""
import os

from lib.run import qemu_img, qemu_io
from lib.sparse import Sparse

SECTOR = 512


def create(path, size, *, options=None, backing=None, backing_format=None):
    """qemu-img create with these -o options; the size may be None to take the backing file's."""
    words = [w for k, v in (options or {}).items() for w in ("-o", f"{k}={v}")]
    if backing:
        words += ["-b", str(backing), "-F", backing_format]
    tail = [] if size is None else [size]
    qemu_img("create", "-q", "-f", "qcow2", *words, path, *tail).succeeded()
    return str(path)


class Scribbler:
    """Random qemu-io commands for one image, every choice from one rng."""

    def __init__(self, path, size, cluster_size, rng, work):
        self.path, self.size, self.cs, self.rng = str(path), size, cluster_size, rng
        self.clusters = max(1, size // cluster_size)
        self.touched = set()
        self.noise = os.path.join(str(work), "noise")
        with open(self.noise, "wb") as f:
            f.write(rng.randbytes(65536))

    def span(self):
        """(offset, length): parts of clusters, whole ones, and the ends of the disk."""
        cs, rng = self.cs, self.rng
        kind = rng.randrange(4)
        if kind == 0:
            off = rng.randrange(self.clusters) * cs
            length = cs * rng.randrange(1, 4)
        elif kind == 1:
            off = rng.randrange(self.size // SECTOR) * SECTOR
            length = SECTOR * rng.randrange(1, 1 + max(1, min(2 * cs, 1 << 20) // SECTOR))
        elif kind == 2:
            off = max(0, self.size - SECTOR * rng.randrange(1, 1 + 2 * max(1, cs // SECTOR)))
            length = self.size
        else:
            off = rng.randrange(self.clusters) * cs + rng.randrange(cs // SECTOR) * SECTOR
            length = SECTOR
        return off, max(SECTOR, min(length, self.size - off, 4 << 20))

    def command(self):
        off, length = self.span()
        self.touched.update(range(off // self.cs, (off + length - 1) // self.cs + 1))
        kind = self.rng.randrange(10)
        if kind < 4:
            return f"write -q -P {self.rng.randrange(256)} {off} {length}"
        if kind < 6:
            return f"write -q -s {self.noise} {off} {length}"
        if kind < 7:
            return f"write -q -z {off} {length}"
        if kind < 8:
            return f"write -q -z -u {off} {length}"
        return f"discard -q {off} {length}"

    def compressed(self, count):
        """Whole clusters that nothing touched yet: others can't be written compressed."""
        free = sorted(set(range(self.size // self.cs)) - self.touched)
        chosen = self.rng.sample(free, min(count, len(free)))
        # Some in a row, so that they are packed side by side.
        chosen += [i + 1 for i in chosen[::2] if i + 1 in free and i + 1 not in chosen]
        self.touched.update(chosen)
        return [f"write -q -c -P {self.rng.randrange(1, 256)} {i * self.cs} {self.cs}"
                for i in chosen]

    def run(self, commands):
        qemu_io(self.path, *commands, options=("-d", "unmap"))

    def scribble(self, count, packed=0):
        commands = self.compressed(packed) + [self.command() for _ in range(count)]
        self.run(commands)


def raw_file(path, size, rng, pieces=8):
    """A raw file with data and holes."""
    disk = Sparse(size)
    for _ in range(pieces):
        off = rng.randrange(max(1, size // 4096)) * 4096
        disk.write(off, rng.randbytes(rng.choice([512, 4096, 65536])))
    disk.truncate(size)
    return disk.save(str(path))


def snapshot(path, name):
    qemu_img("snapshot", "-c", name, path).succeeded()
