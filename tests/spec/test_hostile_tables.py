# SPDX-License-Identifier: MIT
"""
L1 and L2 tables that point anywhere: beyond the file, into the header, at each other. Each case is
a sentence or the right data; what is clearly no place for data is refused.
"""
import struct

import pytest

from lib import forged
from lib.hostile import Judge
from lib.qcow2img import COMPRESSED, COPIED, Image
from lib.seed import sample
from lib.sparse import Sparse
from lib.victims import victim

u64 = struct.Struct(">Q").pack


def judge_patches(image, patches, work):
    """Each patch is (name, [(offset, bytes)])."""
    judge, truth = Judge(work, sound=image.build().file.read(0, 112)), image.truth()
    path = forged.path_of(work, "image.qcow2")
    for name, writes in patches:
        built = image.build()
        for off, data in writes:
            built.patch(off, data)
        built.save(path)
        try:
            judge.all(path, truth)
        except AssertionError as e:
            raise AssertionError(f"{name}: {e}") from e
    return judge


def places(built, cs):
    """Host offsets that no table or cluster of a sane image would have."""
    size = built.file.size
    return {"0": 0, "the header": 0 | COPIED, "the L1 table": built.where["l1"],
            "the refcount table": built.where["reftable"], "misaligned": built.where["l1"] + 512,
            "by one bit": 1, "the last byte": size - 1, "the end": size, "past the end": size + cs,
            "past 2^40": 1 << 40, "past 2^55": 1 << 55, "2^56 - cs": (1 << 56) - cs,
            "2^56": 1 << 56, "all ones": (1 << 64) - 1, "reserved bits": 0x7f << 56,
            "low reserved bits": 0x1fe | built.where["l1"], "bit 63 alone": COPIED,
            "bit 62 alone": COMPRESSED}


@pytest.mark.parametrize("kind", ["standard", "subclusters", "version 2"])
def test_l1_entries_that_point_anywhere(kind, work, rng):
    image = make(kind, rng)
    built = image.build()
    first = built.where["l1"]
    patches = [(f"L1[0] = {name}", [(first, u64(value))])
               for name, value in places(built, image.cs).items()]
    judge = judge_patches(image, patches, work)
    assert judge.refused >= 3 and judge.read >= 2


def make(kind, rng):
    return {"standard": lambda: victim(rng), "version 2": lambda: victim(rng, version=2),
            "subclusters": lambda: victim(rng, cluster_bits=14, extended_l2=True)}[kind]()


@pytest.mark.parametrize("kind", ["standard", "subclusters", "version 2"])
def test_l2_entries_that_point_anywhere(kind, work, rng):
    image = make(kind, rng)
    built = image.build()
    patches = []
    for name, value in places(built, image.cs).items():
        index = rng.choice(sorted(built.l2_entry))
        patches.append((f"L2[{index}] = {name}", [(built.l2_entry[index], u64(value))]))
    first = next(iter(built.l2_entry.values()))
    own = first // image.cs * image.cs
    patches += [("data in its own L2 table", [(first, u64(own | COPIED))]),
                ("zero flag everywhere", [(off, u64(own | 1)) for off in built.l2_entry.values()])]
    judge = judge_patches(image, patches, work)
    assert judge.refused >= 3 and judge.read >= 3


def test_misaligned_offsets_are_refused(work, rng):
    image = victim(rng, extras=False)
    built = image.build()
    path = forged.path_of(work, "image.qcow2")
    for off, value in ((built.where["l1"], built.l2_entry[0] + 512),
                       (built.l2_entry[0], image.clusters[0].host + 512)):
        image.build().patch(off, u64(value | COPIED)).save(path)
        result = Judge(work).convert(path)
        result.refused(f"{value & ~0x1ff:x}")


def test_zero_flags_in_version_2_are_refused(work, rng):
    image = victim(rng, version=2, extras=False)
    built = image.build()
    path = built.patch(built.l2_entry[1], u64(1)).save(forged.path_of(work, "image.qcow2"))
    Judge(work).convert(path).refused("zero")


def test_tables_that_are_each_other(work, rng):
    image = victim(rng)
    built = image.build()
    l1, l2 = built.where["l1"], built.l2_entry[0] // image.cs * image.cs
    header_l1 = struct.pack(">IQ", image.l1_size, 0)
    patches = [
        ("the header is the L1 table", [(36, header_l1)]),
        ("the header is L1 and L2", [(36, header_l1), (0, built.file.read(0, 4))]),
        ("L1 = L2", [(l1, u64(l1 | COPIED))]),
        ("L1 is an L2 table", [(40, u64(l2))]),
        ("L2 = the header", [(l1, u64(0 | COPIED))]),
        ("L2 = the refcount table", [(l1, u64(built.where["reftable"] | COPIED))]),
        ("all L2 tables are one", [(l1, u64(l2 | COPIED) * image.l1_size)]),
        ("refcount table = L1 table", [(48, u64(l1))]),
        ("snapshots = L1 table", [(64, u64(l1))]),
        ("everything at one place", [(36, struct.pack(">IQQ", image.l1_size, l2, l2))]),
    ]
    judge_patches(image, patches, work)


@pytest.mark.parametrize("kind", ["l1_size", "the file ends before", "512-byte clusters"])
def test_a_huge_l1_table_costs_no_memory(kind, work):
    """A file of some KiB can't make the reader hold 32 MiB; its disk has nothing on it."""
    bits = 9 if kind == "512-byte clusters" else 16
    image = Image(1 << 20, cluster_bits=bits, feature_names=False)
    built = image.build()
    size = (4194304 << bits + bits - 3) // 2 if kind == "l1_size" else 1 << 30
    path = forged.path_of(work, "image.qcow2")
    built.patch(24, u64(size)).patch(36, struct.pack(">I", 4194304))
    if kind == "the file ends before":
        built.patch(40, u64(1 << 40))
    built.save(path)
    judge = Judge(work)
    judge.info(path)
    for verb in ("map", "check map", "compare", "dump"):
        judge.other(path, verb)
    if size < 1 << 42:
        assert judge.convert(path, Sparse(size)).code == 0


def test_subcluster_bitmaps_that_contradict_themselves(work, rng):
    image = victim(rng, cluster_bits=14, extended_l2=True, extras=False)
    built = image.build()
    normal, packed = built.l2_entry[0] + 8, built.l2_entry[7] + 8
    nothing = built.l2_entry[2]
    bad = [("both bits of one subcluster", [(normal, u64(1 | 1 << 32))]),
           ("both bits of the last", [(normal, u64(1 << 31 | 1 << 63))]),
           ("all bits", [(normal, u64((1 << 64) - 1))]),
           ("data without a cluster", [(nothing, u64(0) + u64(1))]),
           ("data without a cluster, last", [(nothing, u64(0) + u64(1 << 31))])]
    assert judge_patches(image, bad, work).read == 0
    # A bitmap beside a compressed cluster is wrong, but says nothing that a reader needs.
    fine = [("bitmap of a compressed cluster", [(packed, u64((1 << 64) - 1))]),
            ("zero flag in the first word", [(built.l2_entry[0], u64(image.clusters[0].host | 1
                                                                     | COPIED))])]
    assert judge_patches(image, fine, work).refused == 0


def test_a_wrong_mapping_into_the_data_file_is_refused(work, rng):
    data = forged.path_of(work, "data.raw")
    image = victim(rng, extras=False, data_file=data)
    built = image.build()
    built.data_file.save(data)
    path = forged.path_of(work, "image.qcow2")
    for value in (image.cs * 7 | COPIED, COMPRESSED | image.cs, 1 << 50 | COPIED):
        fresh = image.build()
        fresh.patch(fresh.l2_entry[1], u64(value)).save(path)
        Judge(work).convert(path).refused()


def test_noise_in_any_table(work, rng):
    image = victim(rng)
    built = image.build()
    spots = [built.where["l1"] + 8 * i for i in range(2)] + list(built.l2_entry.values())
    patches = []
    for n in range(400):
        count = rng.randrange(1, 4)
        patches.append((f"noise {n}", [(rng.choice(spots) + rng.randrange(8), rng.randbytes(1))
                                       for _ in range(count)]))
    judge_patches(image, sample("noise", patches, 30), work)
