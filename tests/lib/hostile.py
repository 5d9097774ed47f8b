# SPDX-License-Identifier: MIT
"""
Judges what the tool does with a damaged image. Whatever the damage: it ends by itself within
TIME_LIMIT, within a bound on memory, without a signal or a sanitizer's report; and either says one
sentence with exit code 1, or succeeds with the right data.

Right is what the real qemu-img reads. Where it refuses an image it is asked again without what
reading doesn't need (bitmaps, snapshots, refcounts), and where it still does only the data from
before the damage are right; or, if the tool warned that the file ends before its L1 table, what an
empty table means.
"""
import itertools
import os
import shutil

from lib import run
from lib.run import qemu_img, tool
from lib.seed import long_run
from lib.sparse import Sparse

TIME_LIMIT = 10
# The images here are of a few MiB at most. Seen: never more than the 10 MiB that the process that
# starts the tool has itself; 19 MiB with the address sanitizer.
RSS_LIMIT = 24 << 20
RSS_LIMIT_SANITIZED = 64 << 20

VERBS = ["info", "map", "info", "check map", "info", "compare", "dump"]


def rss_limit():
    return RSS_LIMIT_SANITIZED if run.sanitized() else RSS_LIMIT


def _run(*argv, **how):
    result = tool(*argv, timeout=TIME_LIMIT, **how).ended_well()
    assert result.rss < rss_limit(), result.describe()
    if result.code:
        result.refused(code=2 if argv[0] == "compare" else 1)
    return result


def _theirs(path, out, cwd):
    """What qemu-img reads, or None."""
    try:
        oracle = qemu_img("convert", "-f", "qcow2", "-O", "raw", path, out, cwd=cwd,
                          timeout=TIME_LIMIT)
        return Sparse.load(out) if oracle.code == 0 else None
    finally:
        if os.path.exists(out):
            os.unlink(out)


def strip(path, sound):
    """Takes away what reading doesn't need; sound is the header before the damage."""
    with open(path, "r+b") as f:
        version = int.from_bytes(f.read(8)[4:], "big")
        f.seek(48)
        f.write(sound[48:60] + bytes(12))
        if version >= 3:
            # All of the autoclear features but the one of raw data files.
            f.seek(88)
            f.write(bytes(7) + bytes([sound[95] & 2]))


def is_one_of(expected, out):
    assert None not in expected, "accepted, but nobody knows what it reads as"
    for disk in expected[:-1]:
        try:
            return disk.assert_same(out)
        except AssertionError:
            continue
    return expected[-1].assert_same(out)


class Judge:
    """sound: the header before the damage; empty: what the disk is if its L1 table is lost."""

    def __init__(self, work, cwd="/", sound=None, empty=None):
        self.work, self.cwd, self.sound, self.empty = str(work), str(cwd), sound, empty
        self.turns = itertools.cycle(VERBS)
        self.refused = self.read = 0

    def _expected(self, path, truth, result):
        theirs = _theirs(path, f"{self.work}/theirs.raw", self.cwd)
        if theirs is None and self.sound:
            # Beside the image, for the sake of relative names in it.
            stripped = path + ".stripped"
            shutil.copyfile(path, stripped)
            strip(stripped, self.sound)
            theirs = _theirs(stripped, f"{self.work}/theirs.raw", self.cwd)
            os.unlink(stripped)
        if theirs is None and any("L1 table" in w for w in result.warnings()):
            # A file cut off as early as that may have lost its backing file's name too.
            return [self.empty or Sparse(truth.size), Sparse(truth.size)]
        return [theirs or truth]

    def info(self, path):
        return _run("info", path, cwd=self.cwd)

    def other(self, path, verb):
        if verb == "map":
            _run("map", "-f", "qcow2", path, cwd=self.cwd)
        elif verb == "check map":
            result = _run("map", "-f", "qcow2", "--output=json", path, cwd=self.cwd)
            if result.code == 0:
                self._covers_the_disk(result.json())
        elif verb == "compare":
            result = _run("compare", "-f", "qcow2", "-F", "qcow2", path, path, cwd=self.cwd)
            assert result.code in (0, 2), result.describe()
        else:
            for what in (["header"], ["extensions"], ["l1"], ["l2", "0"], ["reftable"],
                         ["refblock", "0"], ["snapshots"], ["bitmaps"]):
                if long_run() or what[0] in ("header", next(PARTS)):
                    _run("dump", "-f", "qcow2", path, *what, cwd=self.cwd)

    @staticmethod
    def _covers_the_disk(entries):
        end = 0
        for entry in entries:
            assert entry["start"] == end, f"a gap or overlap at {end:#x}: {entry}"
            end += entry["length"]

    def convert(self, path, truth=None):
        """Returns the result; what it wrote has been judged and removed."""
        out = os.path.join(self.work, "judged.raw")
        try:
            result = _run("convert", "-f", "qcow2", "-O", "raw", path, out, cwd=self.cwd)
            if result.code == 0:
                self.read += 1
                is_one_of(self._expected(path, truth, result), out)
            else:
                self.refused += 1
                assert not os.path.exists(out), "a failed conversion left its target behind"
            return result
        finally:
            if os.path.exists(out):
                os.unlink(out)

    def all(self, path, truth=None):
        """Converting, and the other verbs in turn; every one of them in a long run."""
        for verb in VERBS if long_run() else [next(self.turns)]:
            if verb == "info":
                self.info(path)
            else:
                self.other(path, verb)
        return self.convert(path, truth)


PARTS = itertools.cycle(["extensions", "l1", "l2", "reftable", "refblock", "snapshots", "bitmaps"])
