# SPDX-License-Identifier: MIT
"""
Internal snapshots beside the real tool: the same writes and the same snapshot operations on two
images, one changed by qemu-img and one by us. After each step both disks and every snapshot of
both read the same, to both programs; both are clean; both list the same snapshots.
"""
import os
import random
import re
import shutil
import struct

import pytest

from lib import forged
from lib.qcow2img import Image
from lib.run import qemu_img, qemu_io, tool
from lib.seed import covering, long_run, sample
from lib.sparse import same_files
from lib.writing import is_clean, same_bytes

KIB, MIB = 1 << 10, 1 << 20
CLUSTER_SIZES = [1 << bits for bits in range(9, 22)]
AXES = {
    "cluster_size": sorted({512, 65536, 2 << 20, *sample("snapshot clusters", CLUSTER_SIZES, 3)}),
    "compat": ["0.10", "v3"],
    "refcount_bits": [4, 8, 16, 32, 64],
    "extended_l2": ["off", "on"],
    "compression_type": ["zlib", "zstd"],
    "lazy_refcounts": ["off", "on"],
    "backing": ["no", "raw", "qcow2"],
}


def allowed(row):
    if row["compat"] == "0.10" and (row["refcount_bits"], row["extended_l2"], row["lazy_refcounts"],
                                    row["compression_type"]) != (16, "off", "off", "zlib"):
        return False
    return row["extended_l2"] == "off" or row["cluster_size"] >= 16384


def rows():
    found = covering("snapshots", AXES, allowed)
    return sample("rows of snapshots", found, 7)


def row_name(row):
    return ",".join(str(v) for v in row.values())


def timeless(text):
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "DATE", text)


class Pair:
    """theirs.qcow2 and ours.qcow2 in a folder, from the same start."""

    def __init__(self, work, rng):
        self.work, self.rng = work, rng
        self.names, self.touched = [], set()

    def start(self, *words, size):
        self.size = size
        qemu_img("create", "-q", "-f", "qcow2", *words, "theirs.qcow2", str(size),
                 cwd=self.work).succeeded()
        shutil.copy(self.work / "theirs.qcow2", self.work / "ours.qcow2")

    def io(self, *commands):
        qemu_io("theirs.qcow2", *commands, cwd=self.work)
        self.io_ours(*commands)

    def snapshot(self, *words):
        theirs = qemu_img("snapshot", *words, "theirs.qcow2", cwd=self.work)
        ours = tool("snapshot", *words, "ours.qcow2", cwd=self.work).ended_well()
        assert ours.code == theirs.code, ours.describe() + theirs.describe()
        if theirs.code and "-c" in words:  # what it had counted before it failed stays counted
            qemu_img("check", "-q", "-r", "leaks", "theirs.qcow2", cwd=self.work).succeeded()
        return ours.code == 0

    def resize(self, size):
        self.size = size
        qemu_img("resize", "--shrink", "-f", "qcow2", "theirs.qcow2", str(size),
                 cwd=self.work).succeeded()
        self.io_ours(f"truncate {size}")

    def io_ours(self, *commands):
        script = [w for c in commands for w in ("-c", c)]
        result = tool("io", "-f", "qcow2", *script, "ours.qcow2", cwd=self.work).succeeded()
        assert "failed" not in result.out + result.err, result.describe()

    def write_something(self, cluster, fresh=True):
        """
        A few requests at random places, of the kinds that leave different clusters. fresh: what
        wasn't written here before isn't in use, so that it may be written compressed.
        """
        commands = []
        for _ in range(self.rng.randrange(2, 6)):
            n = max(1, self.size // cluster - 1)
            first = self.rng.randrange(n)
            at = first * cluster
            length = min(self.rng.randrange(1, 4) * cluster, self.size - at)
            pattern = self.rng.randrange(1, 255)
            command = self.rng.choice([
                f"write -P {pattern} {at + length // 2 // 512 * 512} 512",
                f"write -P {pattern} {at} {length}", f"write -P {pattern} {at} {length}",
                f"write -z {at} {length}", f"write -z -u {at} {length}", f"discard {at} {length}"])
            if fresh and first not in self.touched and self.rng.random() < .5:
                length = min(cluster, self.size - at)
                command = f"write -c -P {pattern} {at} {length}"
            self.touched.update(range(first, first + 4))
            commands.append(command)
        # Compressed ones first: behind one that it gave back qemu-io goes on writing compressed
        # data, though the cluster is somebody else's by then.
        commands.sort(key=lambda command: not command.startswith("write -c"))
        self.io(*commands)

    # ---- what must be the same ----

    def flat(self, program, path, snapshot=None):
        out = self.work / f"{program}-{path}.raw"
        words = ["-l", f"snapshot.id={snapshot}"] if snapshot else []
        run = qemu_img if program == "qemu" else tool
        run("convert", "-f", "qcow2", *words, "-O", "raw", path, out, cwd=self.work).succeeded()
        return out

    def read_the_same(self, snapshot=None, length=None):
        """length: of the snapshot's disk; each program shows something else behind it."""
        files = [self.flat(program, path, snapshot)
                 for program in ("qemu", "ours") for path in ("theirs.qcow2", "ours.qcow2")]
        for f in files if length else []:
            os.truncate(f, length)
        for other in files[1:]:
            same_bytes(files[0], other)
        for f in files:
            os.unlink(f)

    def reads_alike(self):
        """As read_the_same, of the disk as it is now: both programs, both images."""
        flat = self.flat("qemu", "theirs.qcow2")
        for run, fmt, name in ((qemu_img, "qcow2", "theirs.qcow2"), (tool, "qcow2", "theirs.qcow2"),
                               (tool, "raw", flat)):
            result = run("compare", "-f", fmt, "-F", "qcow2", name, "ours.qcow2", cwd=self.work)
            # it says so too if only their sizes are unlike
            assert result.succeeded().out == "Images are identical.\n", result.describe()
        flat.unlink()

    def equal(self):
        for path in ("theirs.qcow2", "ours.qcow2"):
            is_clean(path, cwd=self.work)
        lists = [run("snapshot", "-l", path, cwd=self.work).succeeded().out
                 for path in ("theirs.qcow2", "ours.qcow2") for run in (qemu_img, tool)]
        assert len(set(map(timeless, lists))) == 1, lists
        self.reads_alike()

    def equal_everywhere(self):
        self.equal()
        listed = qemu_img("info", "--output=json", "ours.qcow2", cwd=self.work).json()
        for s in listed.get("snapshots", []):
            self.read_the_same(s["id"])

    def swap(self):
        """Each goes on with what the other made."""
        (self.work / "ours.qcow2").rename(self.work / "x")
        (self.work / "theirs.qcow2").rename(self.work / "ours.qcow2")
        (self.work / "x").rename(self.work / "theirs.qcow2")

    def step(self, n):
        listed = self.names
        what = self.rng.choice(["-c", "-c", "-a", "-d"] if listed else ["-c"])
        if what == "-c" and len(listed) < 6:
            name = f"n{n}"
            self.snapshot("-c", name)
            listed.append(name)
        elif listed:
            name = self.rng.choice(listed)
            self.snapshot("-d" if what == "-d" else "-a", name)
            if what == "-d":
                listed.remove(name)


def backing(kind, work, rng, size):
    if kind == "no":
        return []
    with open(work / "base.raw", "wb") as f:
        f.write(rng.randbytes(size // 3 // 512 * 512 + 512))
    if kind == "raw":
        return ["-b", "base.raw", "-F", "raw"]
    qemu_img("convert", "-O", "qcow2", work / "base.raw", work / "base.qcow2").succeeded()
    return ["-b", "base.qcow2", "-F", "qcow2"]


@pytest.mark.parametrize("row", rows(), ids=row_name)
def test_the_same_steps_leave_the_same(row, work, rng):
    cluster = row["cluster_size"]
    size = min(max(24 * cluster, 192 * KIB), 40 * MIB) + 512 * rng.randrange(1, 3)
    words = backing(row["backing"], work, rng, min(size, MIB))
    for key in row:
        default = key == "compression_type" and row["compat"] == "0.10"
        if key != "backing" and not default:
            words += ["-o", f"{key}={row[key]}"]
    pair = Pair(work, rng)
    pair.start(*words, size=size)
    for n in range(12 if long_run() else 4):
        pair.write_something(cluster)
        pair.step(n)
        pair.write_something(cluster)
        pair.equal()
        if n % 2:
            pair.swap()
    pair.equal_everywhere()
    for name in pair.names:
        pair.snapshot("-d", name)
    pair.equal()


def ends_at(work, path):
    return qemu_img("info", "--output=json", path, cwd=work).json()["virtual-size"]


@pytest.mark.parametrize("over", ["no", "raw"])
def test_applying_changes_the_size_back(over, work, rng):
    pair = Pair(work, rng)
    pair.start(*backing(over, work, rng, MIB), "-o", "cluster_size=4k", size=MIB + 512)
    pair.write_something(4096)
    pair.snapshot("-c", "middle")
    for size, name in ((5 * MIB, "long"), (256 * KIB, "short"), (3 * MIB + 1024, "last")):
        pair.resize(size)
        pair.write_something(4096)
        pair.snapshot("-c", name)
        pair.equal()
    for name, size in (("short", 256 * KIB), ("long", 5 * MIB), ("middle", MIB + 512),
                       ("last", 3 * MIB + 1024), ("short", 256 * KIB), ("long", 5 * MIB)):
        assert pair.snapshot("-a", name)
        for path in ("theirs.qcow2", "ours.qcow2"):
            assert ends_at(work, path) == size
        pair.equal()
    # the real tool reads a snapshot with the disk's size, which is the largest now
    for n, length in enumerate((MIB + 512, 5 * MIB, 256 * KIB, 3 * MIB + 1024)):
        pair.read_the_same(str(n + 1), length)


def test_version_2_refuses_to_change_the_size(work, rng):
    pair = Pair(work, rng)
    pair.start("-o", "compat=0.10", size=MIB)
    pair.snapshot("-c", "one")
    for path in ("theirs.qcow2", "ours.qcow2"):
        with open(work / path, "r+b") as f:  # a disk of another size, by the header alone
            f.seek(24)
            f.write(struct.pack(">Q", 2 * MIB))
    assert not pair.snapshot("-a", "one")
    result = tool("snapshot", "-a", "one", "ours.qcow2", cwd=work)
    result.refused("Could not apply snapshot 'one'", "version 2")
    assert ends_at(work, "ours.qcow2") == 2 * MIB


def test_many_snapshots(work, rng):
    """Their table has four clusters: of short names, or of a quarter as many that are long."""
    pair = Pair(work, rng)
    pair.start("-o", "cluster_size=4k", size=MIB)
    count, word = (200, "number") if long_run() else (50, "number" * 36)
    for n in range(count):
        if n % 10 == 0:
            pair.io(f"write -P {n + 1} {n * 4096} 8k")
        pair.snapshot("-c", f"snapshot {word} {n}")
    pair.equal()
    for n in (0, 21, count // 2, count - 1):
        pair.read_the_same(str(n + 1))
    pair.snapshot("-a", f"snapshot {word} 45")
    pair.equal()
    for n in rng.sample(range(count), count * 3 // 10):
        pair.snapshot("-d", f"snapshot {word} {n}")
    pair.equal()


def test_widths_that_hold_no_snapshot_stay_as_they_are(work, rng):
    for bits, holds in ((1, 0), (2, 2), (4, 14)):
        pair = Pair(work, rng)
        pair.start("-o", f"refcount_bits={bits}", "-o", "cluster_size=1k", size=64 * KIB)
        pair.io("write -P 3 0 9k")
        for n in range(holds):
            assert pair.snapshot("-c", str(n))
        pair.equal()
        raw = pair.flat("ours", "ours.qcow2").rename(work / f"before-{bits}.raw")
        tool("snapshot", "-c", "more", "ours.qcow2", cwd=work).refused("references")
        is_clean("ours.qcow2", cwd=work)
        after = pair.flat("ours", "ours.qcow2")
        same_files(raw, after)
        after.unlink()


EXTRAS = {
    "none": b"", "4 bytes": bytes(4), "vm state": struct.pack(">Q", 1 << 33),
    "size": struct.pack(">QQ", 0, 3 * MIB), "unknown": struct.pack(">QQQ", 0, 3 * MIB, 7)
    + b"what nobody knows", "much": struct.pack(">QQQ", 5, 3 * MIB, 7) + bytes(range(256)) * 3,
}


def records(path):
    """[(fixed part without L1 place, extra data, id, name)] of the snapshot table, by hand."""
    with open(path, "rb") as f:
        data = f.read()
    count, off = struct.unpack_from(">IQ", data, 60)
    found = []
    for _ in range(count):
        off += -off % 8
        id_len, name_len = struct.unpack_from(">HH", data, off + 12)
        extra_len = struct.unpack_from(">I", data, off + 36)[0]
        at = off + 40
        parts = [data[off + 16:off + 36]]
        for length in (extra_len, id_len, name_len):
            parts.append(data[at:at + length])
            at += length
        found.append(tuple(parts))
        off = at
    return found


@pytest.mark.parametrize("what", EXTRAS, ids=lambda what: what.replace(" ", "-"))
@pytest.mark.parametrize("version", [2, 3])
def test_extra_data_is_kept(what, version, work):
    rng = random.Random(what)
    image = Image(3 * MIB, version=version, cluster_bits=12, rng=rng)
    forged.fill(rng, image, forged.spread(rng, image, 9))
    image.snapshot("1", "first", EXTRAS[what])
    forged.fill(rng, image, forged.spread(rng, image, 9))
    image.snapshot("7", "second")
    path = str(work / "a.qcow2")
    image.save(path)
    other = str(work / "b.qcow2")
    shutil.copy(path, other)
    if version == 2 or len(EXTRAS[what]) >= 16:  # else incomplete, until the table is written anew
        is_clean(path)
    before = records(path)[0]
    for words in (["-c", "new"], ["-a", "1"], ["-d", "second"], ["-c", "newer"], ["-d", "new"]):
        tool("snapshot", *words, path).succeeded()
        qemu_img("snapshot", *words, other).succeeded()
        is_clean(path)
        ours, theirs = records(path), records(other)
        assert ours[0] == theirs[0]
        assert [r[2:] for r in ours] == [r[2:] for r in theirs]
        assert len(ours[0][1]) >= len(before[1])
        assert ours[0][1].startswith(before[1]) and ours[0][2:] == before[2:]
    raw = str(work / "truth.raw")
    image.truth(0).save(raw)
    for run in (tool, qemu_img):
        out = work / "out.raw"
        run("convert", "-f", "qcow2", "-l", "first", "-O", "raw", path, out).succeeded()
        same_files(raw, out)


@pytest.mark.parametrize("extended,cluster_bits", [(False, 9), (False, 12), (True, 14)])
def test_forged_clusters_of_every_kind(extended, cluster_bits, work, rng):
    image = forged.mixture(rng, cluster_bits=cluster_bits, extended_l2=extended, packing="across")
    image.feature_names = cluster_bits > 9
    for ident, name in (("1", "first"), ("22", "second of them")):
        image.snapshot(ident, name)
        forged.fill(rng, image, forged.spread(rng, image, 6))
    image.save(str(work / "theirs.qcow2"))
    shutil.copy(work / "theirs.qcow2", work / "ours.qcow2")
    pair = Pair(work, rng)
    pair.size = image.size
    steps = (["-c", "x"], ["-a", "1"], ["-d", "first"], ["-a", "x"], ["-c", "y"], ["-a", "22"],
             ["-d", "x"], ["-d", "second of them"], ["-d", "y"])
    looked_at = sorted(rng.sample(range(len(steps) - 1), 8 if long_run() else 3))
    for n, words in enumerate(steps):
        assert pair.snapshot(*words)
        if n in looked_at:
            pair.equal()
        pair.write_something(image.cs, fresh=False)
        pair.equal_everywhere() if n in looked_at else pair.equal()
        pair.swap()
