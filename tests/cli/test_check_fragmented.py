# SPDX-License-Identifier: MIT
"""
Checks of images whose clusters lie in no order and have counts of all sorts, for they have
snapshots: what we find is what qemu-img's check finds, wherever the damage is.
"""
import os
import shutil
import struct
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from test_check import lines  # noqa: E402
from lib.checking import check  # noqa: E402
from lib.qcow2img import COPIED  # noqa: E402
from lib.run import qemu_img, qemu_io, tool  # noqa: E402

SHAPES = {
    "4k": "cluster_size=4k",
    "small clusters": "cluster_size=512",
    "large clusters": "cluster_size=64k",
    "8 bits a count": "cluster_size=4k,refcount_bits=8",
    "64 bits a count": "cluster_size=4k,refcount_bits=64",
    "subclusters": "cluster_size=16k,extended_l2=on",
}
CLUSTERS = 600


class Poked:
    """An image in a file, and where its tables are."""

    def __init__(self, path):
        self.f = open(path, "r+b")
        self.cs = 1 << struct.unpack(">I", self.read(20, 4))[0]
        self.width = 1 << struct.unpack(">I", self.read(96, 4))[0] >> 3
        self.entry = 16 if self.word(72) & 16 else 8
        self.size = os.path.getsize(path)

    def read(self, off, n):
        self.f.seek(off)
        return self.f.read(n)

    def word(self, off):
        return struct.unpack(">Q", self.read(off, 8))[0]

    def write(self, off, data):
        self.f.seek(off)
        self.f.write(data)

    def put(self, off, word):
        self.write(off, struct.pack(">Q", word))

    def count_at(self, cluster):
        block, i = divmod(cluster, self.cs // self.width)
        return self.word(self.word(48) + 8 * block) + i * self.width

    def entries(self, l1_off, n):
        """Where the words of the allocated clusters are."""
        found = []
        for i in range(n):
            table = self.word(l1_off + 8 * i) & (1 << 56) - 512
            if table:
                found += [table + k for k in range(0, self.cs, self.entry)
                          if self.word(table + k) & (1 << 56) - 512]
        return found

    def active(self):
        return self.entries(self.word(40), struct.unpack(">I", self.read(36, 4))[0])


def in_no_order(rng, clusters, cs, number):
    """Writes: some are adjacent, in either direction; most aren't."""
    order = rng.sample(range(0, CLUSTERS * 2, 2 - number % 2), clusters)
    order[:30] = sorted(order[:30])
    return [f"write -q {i * cs} {cs}" for i in order]


def scattered(path, options, rng, snapshots=3):
    cs = {"512": 512, "4k": 4096, "16k": 16384, "64k": 65536}[options.split("=")[1].split(",")[0]]
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, path, CLUSTERS * 2 * cs).succeeded()
    for number in range(snapshots + 1):
        writes = in_no_order(rng, CLUSTERS // (1 + 3 * number), cs, number)
        qemu_io(path, *writes, timeout=120).succeeded()
        if number < snapshots:
            qemu_img("snapshot", "-c", f"s{number}", path).succeeded()


def damage(p, rng, count):
    """Counts and flags; few entries, which stay such that both count alike what they lead to."""
    clusters, words = p.size // p.cs, p.active()
    for _ in range(count):
        kind = rng.random()
        if kind < 0.5:
            off = p.count_at(rng.randrange(clusters))
            p.write(off, rng.randrange(5).to_bytes(p.width, "big"))
        elif kind < 0.8:
            off = rng.choice(words)
            p.put(off, p.word(off) ^ COPIED)
        else:
            off = rng.choice(words)
            p.put(off, rng.choice([p.word(rng.choice(words)), 0, COPIED]))
    p.f.close()


@pytest.mark.parametrize("shape", SHAPES)
def test_damage_among_clusters_in_no_order(shape, work, rng):
    scattered(work / "image.qcow2", SHAPES[shape], rng)
    for count in (0, 1, 1, 1, 2, 5, 40):
        shutil.copy(work / "image.qcow2", work / "poked.qcow2")
        damage(Poked(work / "poked.qcow2"), rng, count)
        if count % 2:  # the end of what is in use isn't that of the file
            os.truncate(work / "poked.qcow2", Poked(work / "image.qcow2").size + (1 << 24))
        ours = tool("check", "poked.qcow2", cwd=work).ended_well()
        theirs = qemu_img("check", "poked.qcow2", cwd=work).ended_well()
        told = f"{ours.describe()}\n{theirs.describe()}"
        assert (ours.code, ours.out) == (theirs.code, theirs.out), told
        assert sorted(lines(ours.err)) == sorted(lines(theirs.err)), told


STRAY = {
    "data-unaligned": lambda word: word + 512,
    "data-past-end": lambda word: 1 << 45,
    "l2-reserved": lambda word: word | 1 << 58,
    "l2-copied": lambda word: word ^ COPIED,
}


@pytest.mark.parametrize("code", STRAY)
def test_one_entry_that_is_not_plain_data(code, work, rng):
    """Whichever it is of those that are decoded together."""
    scattered(work / "image.qcow2", SHAPES["4k"], rng, snapshots=0)
    for _ in range(10):
        shutil.copy(work / "image.qcow2", work / "poked.qcow2")
        p = Poked(work / "poked.qcow2")
        off = rng.choice(p.active())
        p.put(off, STRAY[code](p.word(off)))
        p.f.close()
        found = dict(check(work / "poked.qcow2").found())
        assert found.pop(code) == 1
        assert found == ({} if code.startswith("l2") else {"leak": 1})


def test_clusters_of_a_data_file_are_not_counted(work, rng):
    """Though the image is long enough to have clusters of these numbers itself."""
    path = work / "image.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"cluster_size=4k,data_file={work}/data",
             path, CLUSTERS * 2 * 4096).succeeded()
    qemu_io(path, *in_no_order(rng, CLUSTERS, 4096, 0)).succeeded()
    os.truncate(path, CLUSTERS * 2 * 4096)
    assert check(path).found() == {}


def test_what_is_free_among_clusters_in_no_order(work, rng):
    path = work / "image.qcow2"
    scattered(path, SHAPES["4k"], rng)
    os.truncate(path, Poked(path).size + (1 << 24))
    p = Poked(path)
    used = sum(p.read(p.count_at(i), 2) != b"\0\0" for i in range(p.size // p.cs)
               if p.word(p.word(48) + 8 * (i // (p.cs // 2))))
    usage = tool("info", "--usage", "--output=json", path).json()["usage"]
    assert usage["free"] == p.size - used * p.cs
