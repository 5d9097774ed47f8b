# SPDX-License-Identifier: MIT
"""
What a check finds in sound and in damaged images, beside qemu-img's: the same numbers where
qemu-img is right, and what it should have said where it isn't.
"""
import pytest

from lib import forged
from lib.checking import Patcher, assert_clean, check, qemu_check
from lib.qcow2img import COPIED
from lib.run import qemu_img
from lib.victims import victim

KINDS = {"v3": {}, "v2": {"version": 2}, "512": {"cluster_bits": 9}, "64k": {"cluster_bits": 16},
         "subclusters": {"cluster_bits": 14, "extended_l2": True},
         "zstd": {"compression": "zstd"}, "data file": {"data_file": "data"},
         **{f"order {n}": {"refcount_order": n} for n in (0, 1, 2, 3, 5, 6)}}


def make(rng, work, kind="v3", **more):
    options = {**KINDS[kind], **more}
    if "data_file" in options:
        options["data_file"] = forged.path_of(work, "data")
    image = victim(rng, **options)
    built = image.build()
    if built.data_file:
        built.data_file.save(forged.path_of(work, "data"))
    return image, Patcher(image, built)


def both(work, patcher):
    path = patcher.built.save(forged.path_of(work, "image.qcow2"))
    return check(path), qemu_check(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_image_is_clean_and_has_the_same_numbers(kind, work, rng):
    ours, theirs = both(work, make(rng, work, kind)[1])
    assert ours.code == theirs.code == 0, ours.describe()
    assert ours.numbers() == theirs.numbers()
    assert ours.found() == {}


def append(p):
    """One more cluster at the end of the file, which nothing refers to."""
    off = -(-p.built.file.size // p.cs) * p.cs
    p.built.patch(off, b"x" * p.cs)
    return off


def leak(p):
    p.refcount(append(p), 1)


def too_high(p):
    p.refcount(p.built.where["l1"], 3)


def too_low(p):
    # Compressed clusters have a count of their own.
    off = next(i for i in range(p.built.file.size // p.cs) if p.refcount(i * p.cs) > 2) * p.cs
    p.refcount(off, 1)


def no_count(p):
    p.refcount(p.image.clusters[0].host, 0)


def lone(p):
    """A cluster with data that is in no snapshot."""
    return next(i for i in p.built.l2_entry if p.get(p.l2(i)) & COPIED and p.image.clusters[i].host)


def flag_compressed(p):
    packed = next(i for i in p.built.l2_entry if p.image.clusters[i].kind == "compressed")
    p.flip(p.l2(packed), COPIED)


# name: (damage, what we call it). The numbers are the same.
SAME = {
    "a leak": (leak, {"leak": 1}),
    "a count too high": (too_high, {"leak": 1}),
    "a count too low": (too_low, {"refcount-low": 1}),
    "no count": (no_count, {"refcount-zero": 1, "l2-copied": 1}),
    "L1 reserved bits": (lambda p: p.flip(p.l1(0), 1 << 60), {"l1-reserved": 1}),
    "L1 COPIED": (lambda p: p.flip(p.l1(0), COPIED), {"l1-copied": 1}),
    "L2 COPIED": (lambda p: p.flip(p.l2(lone(p)), COPIED), {"l2-copied": 1}),
    "L2 reserved bits": (lambda p: p.flip(p.l2(lone(p)), 1 << 57), {"l2-reserved": 1}),
    "compressed COPIED": (flag_compressed, {"compressed-copied": 1}),
}


@pytest.mark.parametrize("name", SAME)
def test_damage_that_both_see_alike(name, work, rng):
    damage, expected = SAME[name]
    image, patcher = make(rng, work, extras=False, refcount_order=4)
    damage(patcher)
    ours, theirs = both(work, patcher)
    assert ours.found() == expected, ours.describe()
    assert ours.numbers() == theirs.numbers(), theirs.describe()
    assert ours.code == theirs.code


def test_an_aged_image_of_theirs_is_clean(work, rng):
    path = forged.path_of(work, "image.qcow2")
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", path, "20M").succeeded()
    for n in range(3):
        qemu_img("snapshot", "-c", f"s{n}", path).succeeded()
        qemu_img("bitmap", "--add", path, f"b{n}").succeeded()
    ours, theirs = check(path), qemu_check(path)
    assert ours.code == theirs.code == 0
    assert ours.numbers() == theirs.numbers()


# ---- repair ----

def cut_off_reftable(p):
    p.word(p.reftable(0), 0)


def clear_reftable_size(p):
    p.built.patch(56, bytes(4))


def cut_file(p):
    """The refcount structure is the last thing in these files."""
    p.built.file.truncate(p.built.where["reftable"])


def two_owners(p):
    normal = [i for i in p.built.l2_entry if p.image.clusters[i].kind == "normal"]
    p.word(p.l2(normal[0]), p.get(p.l2(normal[1])))


# Everything that a repair mends as a whole.
MENDED = {
    **{name: damage for name, (damage, _) in SAME.items()},
    "no refcount block": cut_off_reftable,
    "reftable entry with reserved bits": lambda p: p.flip(p.reftable(0), 0x100),
    "unaligned reftable entry": lambda p: p.flip(p.reftable(0), 0x200),
    "refcount block past the end": lambda p: p.word(p.reftable(0), 1 << 40),
    "refcount block far past the end": lambda p: p.word(p.reftable(0), (1 << 64) - p.cs),
    "one refcount block twice": lambda p: p.word(p.reftable(1), p.get(p.reftable(0))),
    "refcount block in the L1 table": lambda p: p.word(p.reftable(0), p.built.where["l1"]),
    "no refcount table": clear_reftable_size,
    "refcount table in the header": lambda p: p.word(48, 0),
    "unaligned refcount table": lambda p: p.word(48, p.built.where["reftable"] + 512),
    "file cut off before its refcounts": cut_file,
    "everything free": lambda p: p.built.patch(p.built.where["refblock"], bytes(p.cs)),
    "all counts three": lambda p: p.built.patch(p.built.where["refblock"],
                                                b"\0\3" * (p.cs // 2)),
    "two owners": two_owners,
    "unaligned zero": lambda p: p.word(p.l2(3), p.get(p.l2(3)) + 512),
    "dirty": lambda p: p.flip(72, 1),
    "dirty and corrupt": lambda p: p.flip(72, 3),
}


@pytest.mark.parametrize("kind", ["v3", "64k", "subclusters"])
@pytest.mark.parametrize("name", MENDED)
def test_after_a_repair_both_find_the_image_clean(name, kind, work, rng):
    if name == "unaligned zero" and kind == "subclusters":
        kind = "v3"
    image, patcher = make(rng, work, kind, extras=rng.random() < 0.5, refcount_order=4)
    MENDED[name](patcher)
    path = patcher.built.save(forged.path_of(work, "image.qcow2"))
    before = check(path)
    repaired = check(path, "all")
    assert repaired.code == 0, repaired.describe()
    # Flags that were wrong by a wrong count alone need no repair; "two owners" makes two wrong.
    assert (repaired["corruptions-fixed"] > 0) == (before["corruptions"] > 0)
    assert_clean(path)
    with open(path, "rb") as f:
        header = f.read(80)
    assert header[79] & 3 == 0
    if name != "two owners":
        out = forged.path_of(work, "out.raw")
        qemu_img("convert", "-f", "qcow2", "-O", "raw", path, out).succeeded()
        image.truth().assert_same(out)


def test_a_repair_in_holes_does_not_make_the_file_longer(work, rng):
    image, patcher = make(rng, work, extras=False, refcount_order=4)
    cut_off_reftable(patcher)
    # The old structure is in the way until the new one is there: two clusters are needed.
    hole = append(patcher)
    append(patcher)
    append(patcher)
    path = patcher.built.save(forged.path_of(work, "image.qcow2"))
    size = patcher.built.file.size
    assert check(path, "all").code == 0
    assert_clean(path)
    with open(path, "rb") as f:
        f.seek(0, 2)
        assert f.tell() == size
        f.seek(48)
        assert hole <= int.from_bytes(f.read(8), "big") < size
    assert image.truth()


@pytest.mark.slow
def test_many_lost_blocks_are_rebuilt_in_time(work):
    """A million clusters, five hundred blocks: finding places mustn't start over for each."""
    path = forged.path_of(work, "image.qcow2")
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k,preallocation=metadata", path,
             "4G").succeeded()
    with open(path, "r+b") as f:
        f.seek(48)
        table = int.from_bytes(f.read(8), "big")
        f.seek(table)
        entries = f.read(4096)
        f.seek(table)
        f.write(b"".join(entries[i:i + 8] if i % 16 == 0 else bytes(8)
                         for i in range(0, len(entries), 8)))
    assert check(path, "all", timeout=45).code == 0
    assert_clean(path)


# ---- what qemu-img doesn't see, or gets wrong ----

def test_leaks_behind_the_end_of_the_file(work, rng):
    _, patcher = make(rng, work, extras=False, refcount_order=4)
    patcher.refcount(patcher.built.file.size + 5 * patcher.cs, 1)
    ours, theirs = both(work, patcher)
    assert (ours.code, theirs.code) == (3, 0)
    assert ours.found() == {"leak": 1}
    assert check(patcher.built.save(forged.path_of(work, "image.qcow2")), "leaks").code == 0


def test_the_zero_flag_in_version_2(work, rng):
    _, patcher = make(rng, work, "v2", extras=False)
    patcher.word(patcher.l2(0) + 8 * 30, 1)
    ours, theirs = both(work, patcher)
    assert (ours.code, theirs.code) == (2, 0)
    assert ours.found() == {"zero-in-v2": 1}


def test_wrong_places_in_a_data_file(work, rng):
    _, patcher = make(rng, work, "data file", extras=False)
    patcher.word(patcher.l2(1), patcher.get(patcher.l2(1)) + patcher.cs)
    ours, theirs = both(work, patcher)
    assert (ours.code, theirs.code) == (2, 0)
    assert ours.found() == {"data-file-offset": 1}


@pytest.mark.parametrize("mode", ["leaks", "all"])
def test_a_hidden_snapshot_is_not_freed(mode, work, rng):
    _, patcher = make(rng, work, refcount_order=4)
    patcher.flip(patcher.built.where["snapshots"], 0x200)
    path = patcher.built.save(forged.path_of(work, "image.qcow2"))
    first = check(path)
    assert first.found()["snapshot-l1"] == 1 and first["leaks"] > 0
    left = check(path, mode)
    assert left.code == 2 and left["leaks-fixed"] == 0
    # With the damage undone the image is as it was.
    with open(path, "r+b") as f:
        f.seek(patcher.built.where["snapshots"])
        word = int.from_bytes(f.read(8), "big")
        f.seek(patcher.built.where["snapshots"])
        f.write((word ^ 0x200).to_bytes(8, "big"))
    assert check(path, "all").code == 0
    assert_clean(path)


def test_compressed_data_with_a_stray_bitmap_is_not_freed(work, rng):
    image, patcher = make(rng, work, "subclusters", extras=False)
    patcher.word(patcher.l2(7) + 8, 5)
    path = patcher.built.save(forged.path_of(work, "image.qcow2"))
    assert check(path).found() == {"compressed-bitmap": 1}
    assert check(path, "all").code == 0
    assert_clean(path)
    out = forged.path_of(work, "out.raw")
    qemu_img("convert", "-f", "qcow2", "-O", "raw", path, out).succeeded()
    image.truth().assert_same(out)


def test_snapshots_get_the_extra_data_that_version_3_wants(work, rng):
    image, patcher = make(rng, work, extras=False, refcount_order=4)
    image.snapshot("1", "short one", b"")
    image.normal(5, forged.noise(rng, image.cs))
    image.snapshot("2", "long one", bytes(8) + image.size.to_bytes(8, "big") + b"\1" * 20)
    path = image.build().save(forged.path_of(work, "image.qcow2"))
    ours, theirs = check(path), qemu_check(path)
    assert ours.found() == {"snapshot-incomplete": 1}
    assert ours.numbers() == theirs.numbers()
    assert check(path, "all").code == 0
    assert_clean(path)
    listing = qemu_img("snapshot", "-l", path).succeeded().out
    assert "short one" in listing and "long one" in listing
    for ident in ("1", "2"):
        qemu_img("convert", "-l", f"snapshot.id={ident}", "-f", "qcow2", "-O", "raw", path,
                 forged.path_of(work, "out.raw")).succeeded()
