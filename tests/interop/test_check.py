# SPDX-License-Identifier: MIT
"""
What a check finds in sound and in damaged images, beside qemu-img's: the same numbers where
qemu-img is right, and what it should have said where it isn't.
"""
import pytest

from lib import forged
from lib.checking import Patcher, check, qemu_check
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
    "compressed COPIED": (lambda p: p.flip(p.l2(7), COPIED), {"compressed-copied": 1}),
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
