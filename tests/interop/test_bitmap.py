# SPDX-License-Identifier: MIT
"""
Dirty bitmaps, shared with the real tools: what we write while a bitmap is enabled is what qemu-nbd
exports as dirty, and what QEMU writes is in it too. After each step both programs list the same
bitmaps and qemu-img check finds nothing.
"""
import pytest

from lib.bitmaps import dirty, granules, listed
from lib.run import qemu_img, qemu_io, tool
from lib.seed import long_run, sample
from lib.writing import is_clean

KIB, MIB = 1 << 10, 1 << 20
MAKES = ["", "cluster_size=512", "cluster_size=2M", "extended_l2=on,cluster_size=64k",
         "refcount_bits=1", "lazy_refcounts=on", "data_file=data.raw"]


def create(path, size, options=""):
    options = options.replace("data.raw", str(path.parent / "data.raw"))
    qemu_img("create", "-q", "-f", "qcow2", *(["-o", options] if options else []), path, str(size),
             cwd=path.parent).succeeded()
    return path


def ours(path, *commands):
    words = [w for c in commands for w in ("-c", c)]
    tool("io", "-f", "qcow2", *words, path).succeeded()


@pytest.mark.parametrize("options", MAKES)
def test_what_we_write_is_dirty_to_them(work, options):
    path = create(work / "a.qcow2", 8 * MIB, options)
    qemu_img("bitmap", "--add", "-g", "4k", path, "fine").succeeded()
    tool("bitmap", "--add", "-g", "64k", path, "coarse").succeeded()
    qemu_img("bitmap", "--add", "--disable", path, "off").succeeded()
    wrote = [(5000, 3000), (MIB, 300 * KIB), (4 * MIB, 2 * MIB), (8 * MIB - 512, 512)]
    ours(path, "write 5000 3000", "write -z 1M 300k", "discard 4M 2M", f"write {8 * MIB - 512} 512")
    for name, granularity in (("fine", 4 * KIB), ("coarse", 64 * KIB)):
        assert dirty(path, name) == granules(wrote, granularity, 8 * MIB)
    assert dirty(path, "off") == []
    is_clean(path)


def test_compressed_writes_are_recorded(work):
    path = create(work / "a.qcow2", 8 * MIB)
    tool("bitmap", "--add", path, "b").succeeded()
    ours(path, "write -c 64k 128k", "write -c 1M 64k")
    assert dirty(path, "b") == [(64 * KIB, 128 * KIB), (MIB, 64 * KIB)]
    is_clean(path)


def test_what_they_wrote_stays_dirty_with_us(work):
    path = create(work / "a.qcow2", 8 * MIB)
    qemu_img("bitmap", "--add", path, "b").succeeded()
    qemu_io(path, "write 0 64k", "write 3M 1M")
    ours(path, "write 6M 64k")
    assert dirty(path, "b") == [(0, 64 * KIB), (3 * MIB, MIB), (6 * MIB, 64 * KIB)]
    qemu_io(path, "write 7M 64k")
    assert dirty(path, "b") == [(0, 64 * KIB), (3 * MIB, MIB), (6 * MIB, 64 * KIB),
                                (7 * MIB, 64 * KIB)]
    is_clean(path)


def test_opening_without_writing_changes_nothing(work):
    path = create(work / "a.qcow2", 8 * MIB)
    qemu_img("bitmap", "--add", path, "b").succeeded()
    before = path.read_bytes()
    ours(path, "read 0 64k", "flush")
    assert path.read_bytes() == before


@pytest.mark.parametrize("flags", [[], ["--disable"]])
def test_only_what_was_recording_suffers_from_a_crash(work, flags):
    path = create(work / "a.qcow2", 8 * MIB)
    qemu_img("bitmap", "--add", *flags, path, "b").succeeded()
    tool("io", "-f", "qcow2", "-c", "write 0 64k", "-c", "flush", "-c", "abort", path)
    assert listed(path) == [("b", 64 * KIB, [] if flags else ["auto", "in-use"])]
    is_clean(path)
    if flags:
        assert dirty(path, "b") == []
    else:
        assert tool("bitmap", "--clear", path, "b").code == 1
        ours(path, "write 1M 64k")
        assert listed(path) == [("b", 64 * KIB, ["auto", "in-use"])]
        tool("bitmap", "--remove", path, "b").succeeded()
        assert listed(path) == []
    is_clean(path)


@pytest.mark.parametrize("old,new", [(4 * MIB, 9 * MIB + 512), (9 * MIB, 5 * MIB + 1024),
                                     (64 * MIB, 64 * KIB), (64 * KIB, 64 * MIB)])
@pytest.mark.parametrize("options", ["", "cluster_size=512"])
def test_bitmaps_follow_the_size(work, old, new, options):
    path = create(work / "a.qcow2", old, options)
    for name, flags in (("on", []), ("off", ["--disable"])):
        qemu_img("bitmap", "--add", "-g", "512", path, name).succeeded()
    qemu_io(path, "write 0 1k", f"write {old - 1024} 1024")
    qemu_img("bitmap", "--disable", path, "off").succeeded()
    ours(path, f"truncate {new}")
    kept = [(0, 1024), (old - 1024, 1024)] if new > old else [(0, 1024)]
    assert dirty(path, "off") == granules(kept, 512, new)
    assert dirty(path, "on") == granules(kept + ([(old, new - old)] if new > old else []), 512, new)
    is_clean(path)
    qemu_io(path, f"write {new - 512} 512")
    is_clean(path)


def test_growing_to_64_tib_takes_no_room(work):
    path = create(work / "a.qcow2", MIB)
    tool("bitmap", "--add", path, "b").succeeded()
    ours(path, f"truncate {64 << 40}")
    assert path.stat().st_size < 4 * MIB
    assert dirty(path, "b") == [(MIB, (64 << 40) - MIB)]
    is_clean(path)


def test_an_image_of_many_bitmaps(work):
    path = create(work / "a.qcow2", MIB, "cluster_size=4k")
    steps = [("--add", f"bitmap {n:03}") for n in range(12)]
    for flag, name in steps:
        tool("bitmap", flag, path, name).succeeded()
    qemu_img("bitmap", "--add", path, "x" * 1023).succeeded()
    ours(path, "write 0 4k")
    for n in range(0, 12, 3):
        tool("bitmap", "--remove", path, f"bitmap {n:03}").succeeded()
    assert [b[0] for b in listed(path)] == [f"bitmap {n:03}" for n in range(12) if n % 3] + [
        "x" * 1023]
    assert dirty(path, "bitmap 001") == [(0, 4096)]
    is_clean(path)


def test_a_backing_file_keeps_its_name(work):
    create(work / "base.qcow2", MIB)
    path = work / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", path,
             cwd=work).succeeded()
    for n in range(3):
        tool("bitmap", "--add", path, f"b{n}").succeeded()
        assert qemu_img("info", "--output=json", path).json()["backing-filename"] == "base.qcow2"
    for n in range(3):
        tool("bitmap", "--remove", path, f"b{n}").succeeded()
        assert qemu_img("info", "--output=json", path).json()["backing-filename"] == "base.qcow2"
        is_clean(path)


def test_a_snapshot_can_be_taken_but_not_gone_back_to(work):
    path = create(work / "a.qcow2", MIB)
    tool("bitmap", "--add", path, "b").succeeded()
    ours(path, "write 0 64k")
    tool("snapshot", "-c", "s", path).succeeded()
    for run in (tool, qemu_img):
        result = run("snapshot", "-a", "s", path)
        assert result.code == 1 and "bitmaps" in result.err, result.describe()
    ours(path, "write 512k 64k")
    tool("snapshot", "-d", "s", path).succeeded()
    assert dirty(path, "b") == [(0, 64 * KIB), (512 * KIB, 64 * KIB)]
    is_clean(path)


def test_bitmaps_that_a_writer_passed_by_are_dropped(work):
    path = create(work / "a.qcow2", MIB)
    qemu_img("bitmap", "--add", path, "b").succeeded()
    data = bytearray(path.read_bytes())
    data[95] &= 0xfe  # the autoclear bit
    path.write_bytes(data)
    ours(path, "write 0 64k")
    assert listed(path) == [] and not qemu_img("info", path).err
    tool("bitmap", "--add", path, "b").succeeded()
    assert listed(path) == [("b", 64 * KIB, ["auto"])]
    qemu_img("check", "-r", "leaks", path).succeeded()
    is_clean(path)


class Both:
    """Random steps by either program on one image; the model says what is dirty."""

    def __init__(self, path, size, rng):
        self.path, self.size, self.rng, self.bits = path, size, rng, {}

    def bitmap(self, *words):
        (tool if self.rng.random() < 0.5 else qemu_img)("bitmap", *words).succeeded()

    def write(self):
        off = self.rng.randrange(self.size // 512) * 512
        length = min(self.rng.choice([512, 4096, 70000 // 512 * 512, MIB]), self.size - off)
        command = self.rng.choice(["write", "write -z"]) + f" {off} {length}"
        if self.rng.random() < 0.6:
            ours(self.path, command)
        else:
            qemu_io(self.path, command)
        for b in self.bits.values():
            if b["on"]:
                b["wrote"].append((off, length))

    def step(self):
        kind = self.rng.choice(["write"] * 4 + ["add", "remove", "clear", "toggle", "merge"])
        names = list(self.bits)
        name = self.rng.choice(names) if names else None
        if kind == "write":
            self.write()
        elif not name or (kind == "add" and len(names) < 5):
            name, g = f"b{self.rng.randrange(10 ** 6)}", self.rng.choice([9, 12, 16, 20])
            self.bitmap("--add", "-g", str(1 << g), self.path, name)
            self.bits[name] = {"g": 1 << g, "on": True, "wrote": []}
        elif kind == "remove":
            self.bitmap("--remove", self.path, name)
            del self.bits[name]
        elif kind == "clear":
            self.bitmap("--clear", self.path, name)
            self.bits[name]["wrote"] = []
        elif kind == "toggle":
            b = self.bits[name]
            b["on"] = not b["on"]
            self.bitmap("--enable" if b["on"] else "--disable", self.path, name)
        else:
            source = self.bits[self.rng.choice(names)]
            found = [n for n, b in self.bits.items() if b is source][0]
            self.bitmap("--merge", found, self.path, name)
            self.bits[name]["wrote"] += granules(source["wrote"], source["g"], self.size)

    def judge(self):
        is_clean(self.path)
        assert listed(self.path) == [(n, b["g"], ["auto"] if b["on"] else [])
                                     for n, b in self.bits.items()]
        for name, b in self.bits.items():
            assert dirty(self.path, name) == granules(b["wrote"], b["g"], self.size), name


@pytest.mark.parametrize("options", MAKES if long_run() else sample("bitmap makes", MAKES, 2))
def test_both_programs_in_turn(work, rng, options):
    both = Both(create(work / "a.qcow2", 6 * MIB + 512, options), 6 * MIB + 512, rng)
    for n in range(60 if long_run() else 16):
        both.step()
        is_clean(both.path)
        if n % 8 == 7:
            both.judge()
