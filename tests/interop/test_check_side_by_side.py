# SPDX-License-Identifier: MIT
"""
Seeded damages, repaired by us and by qemu-img on a copy each: neither finds the other's result
unclean, and what the guest could read it reads afterwards.

Some seventy in a normal run; QCOW2_TEST_LONG=1, or --long, makes it four thousand.
"""
import os
import random
import shutil

import pytest

from lib import forged
from lib.checking import Patcher, check, qemu_check
from lib.qcow2img import COMPRESSED, COPIED, ZERO
from lib.run import qemu_img, tool
from lib.seed import long_run
from lib.victims import victim

GROUPS, PER_GROUP = (160, 25) if long_run() else (12, 6)
SHAPES = [{}, {"version": 2}, {"cluster_bits": 9}, {"cluster_bits": 9, "version": 2},
          {"cluster_bits": 14, "extended_l2": True}, {"refcount_order": 3},
          {"refcount_order": 6}, {"refcount_order": 5, "cluster_bits": 10}, {"extras": False},
          {"extras": False, "refcount_order": 1}]

# What only we look for, so that an image that qemu-img calls clean may have it: section 28 of the
# format reference, and tables that the refcounts allow to be something else as well.
ONLY_OURS = {
    "l2-shared": "qemu-img doesn't look whether the parts of an image overlap",
    "table-shared": "the same",
    "refblock-shared": "the same, for a block that is data with the count of two",
    "reftable-shared": "the same, for the table",
    "zero-in-v2": "only met at run time",
    "l2-reserved": "the zero flag beside subclusters isn't looked at",
    "leak": "counts of clusters behind the end of the file aren't looked at",
    "compressed-offset": "bits of a compressed offset above 2^56 aren't looked at",
    "bitmaps-missing": "isn't looked at",
    "table-past-end": "a table that begins behind the end reads as zeros, and counts as empty",
    "snapshot-l1": "a table that begins in the file's last cluster isn't looked at there",
}


class Poker:
    """Damage without sense or aim, to the words that mean something."""

    def __init__(self, rng, patcher):
        self.rng, self.p = rng, patcher
        self.built, self.cs = patcher.built, patcher.cs

    def offset(self):
        """Where something may be: a cluster of the file mostly."""
        clusters = self.built.file.size // self.cs
        at = self.rng.choice([self.rng.randrange(clusters), self.rng.randrange(clusters),
                              clusters + self.rng.randrange(30),
                              clusters + self.rng.randrange(3000)])
        return at * self.cs + (512 * self.rng.randrange(8) if self.rng.random() < 0.1 else 0)

    def entry(self):
        kind = self.rng.random()
        if kind < 0.1:
            return 0
        if kind < 0.2:
            return COMPRESSED | self.rng.randrange(4) << 70 - self.p.image.cluster_bits \
                | self.offset() + self.rng.randrange(500)
        return self.offset() | (COPIED if self.rng.random() < 0.7 else 0) \
            | (ZERO if self.rng.random() < 0.1 else 0)

    def word(self, off):
        old = self.p.get(off)
        self.p.word(off, self.rng.choice([
            self.entry(), self.entry(), old ^ 1 << self.rng.randrange(64), old ^ COPIED,
            old + self.cs, old | 1 << self.rng.randrange(56, 63)]))

    def l1(self):
        self.word(self.p.l1(self.rng.randrange(self.p.image.l1_size)))

    def l2(self):
        self.word(self.built.l2_entry[self.rng.choice(sorted(self.built.l2_entry))])

    def bitmap_word(self):
        if self.p.image.extended_l2:
            self.word(self.built.l2_entry[self.rng.choice(sorted(self.built.l2_entry))] + 8)

    def swap(self):
        """Two owners."""
        a, b = self.rng.sample(sorted(self.built.l2_entry), 2)
        self.p.word(self.p.l2(a), self.p.get(self.p.l2(b)))

    def count(self):
        at = self.rng.randrange(self.built.file.size // self.cs) * self.cs
        most = (1 << (1 << self.p.image.refcount_order)) - 1
        self.p.refcount(at, self.rng.choice([0, 1, 2, 3, most]) & most)

    def reftable(self):
        off = self.p.reftable(self.rng.randrange(2))
        # No far place: qemu-img makes the file as long as that, and counts all of it.
        self.p.word(off, self.rng.choice([self.offset(), self.p.get(off) ^ 1 << self.rng.randrange(
            20), self.p.get(off) + self.cs, 0, self.offset() | self.rng.randrange(1, 512)]))

    def cut(self):
        self.built.file.truncate(self.built.file.size - self.rng.randrange(1, 6) * self.cs)

    def snapshot(self):
        if self.p.image.snapshots:
            self.word(self.built.where["snapshots"])

    def inactive_l1(self):
        if self.p.image.snapshots:
            self.word(self.rng.choice(self.p.image.snapshots).l1)

    def bits(self):
        if self.p.image.version >= 3:
            self.p.flip(72, self.rng.choice([1, 2, 3]))

    def poke(self):
        for _ in range(self.rng.choice([1, 1, 1, 2, 3, 6])):
            self.rng.choice([self.l1, self.l2, self.l2, self.l2, self.bitmap_word, self.swap,
                             self.count, self.count, self.reftable, self.cut, self.snapshot,
                             self.inactive_l1, self.bits])()


def disk_of(path, out):
    """What a guest reads, zeros where it gets an error; None if the image doesn't open."""
    result = qemu_img("convert", "--salvage", "-f", "qcow2", "-O", "raw", path, out)
    result.ended_well()
    if result.code != 0:
        return None
    with open(out, "rb") as f:
        return f.read()


def run_case(work, rng, seed, tally):
    shape = {"cluster_bits": 12, **rng.choice(SHAPES)}
    image = victim(rng, **shape)
    patcher = Patcher(image, image.build())
    Poker(rng, patcher).poke()
    for name in ("damaged", "ours", "theirs"):
        patcher.built.save(forged.path_of(work, name))
    told = f"case {seed}, {shape}"
    before = disk_of(work / "damaged", work / "out")
    ours = tool("check", "-q", "-r", "all", "--no-undo", work / "ours").ended_well()
    theirs = qemu_img("check", "-q", "-r", "all", "-f", "qcow2", work / "theirs").ended_well()
    tally["cases"] += 1
    left = check(work / "ours")
    assert left.code == ours.code or ours.code == 1, f"{told}\n{ours.describe()}\n{left.describe()}"
    if ours.code == 0:
        tally["clean by ours"] += 1
        judged = qemu_check(work / "ours")
        assert judged.code == 0, f"{told}\n{ours.describe()}\n{judged.describe()}"
    # Now and then a second check of theirs finds what the first repair has left.
    if theirs.code == 0 and qemu_check(work / "theirs").code == 0:
        tally["clean by theirs"] += 1
        found = check(work / "theirs").found()
        assert not set(found) - set(ONLY_OURS), f"{told}\n{found}\n{theirs.describe()}"
    if before is not None:
        after = disk_of(work / "ours", work / "out")
        assert after is not None, f"{told}\n{ours.describe()}"
        differ = [i for i in range(0, len(before), image.cs)
                  if before[i:i + image.cs] != after[i:i + image.cs]]
        # What couldn't be read may have become readable; what could be read is the same, even
        # where that is a table: data in it are copied before it is changed.
        worse = [i for i in differ if any(before[i:i + image.cs])]
        assert not worse, f"{told}\nat {worse[:5]} of {differ[:9]}\n{ours.describe()}"
        tally["compared"] += 1
        tally["back"] += bool(differ)


@pytest.mark.parametrize("case", ["3666343118:8:5"])
def test_cases_that_once_went_wrong(case, work):
    tally = dict.fromkeys(["cases", "clean by ours", "clean by theirs", "compared", "back"], 0)
    run_case(work, random.Random(case), case, tally)
    assert tally["clean by ours"] == tally["compared"] == 1


@pytest.mark.parametrize("group", range(GROUPS))
def test_both_repair_and_neither_complains(group, work, rng):
    tally = dict.fromkeys(["cases", "clean by ours", "clean by theirs", "compared", "back"], 0)
    seed = os.environ.get("QCOW2_TEST_SEED")
    for n in range(PER_GROUP):
        case = f"{seed}:{group}:{n}"
        run_case(work, random.Random(case), case, tally)
    print(f"seed {seed}, group {group}: {tally}")
    assert tally["clean by ours"] >= tally["clean by theirs"] - PER_GROUP // 3, tally
