# SPDX-License-Identifier: MIT
"""
Headers cut off, every field of them at its limits, and extension areas that lie: a sentence or the
right data, never a crash, a hang or much memory.
"""
import struct

import pytest

from lib import forged
from lib.hostile import Judge
from lib.seed import long_run, sample
from lib.victims import victim

# offset, bytes, name, as the format's description lists them
FIELDS = [(0, 4, "magic"), (4, 4, "version"), (8, 8, "backing_file_offset"),
          (16, 4, "backing_file_size"), (20, 4, "cluster_bits"), (24, 8, "size"),
          (32, 4, "crypt_method"), (36, 4, "l1_size"), (40, 8, "l1_table_offset"),
          (48, 8, "refcount_table_offset"), (56, 4, "refcount_table_clusters"),
          (60, 4, "nb_snapshots"), (64, 8, "snapshots_offset"), (72, 8, "incompatible_features"),
          (80, 8, "compatible_features"), (88, 8, "autoclear_features"), (96, 4, "refcount_order"),
          (100, 4, "header_length"), (104, 1, "compression_type"), (105, 7, "padding")]


def with_backing(rng, work, **options):
    base = victim(rng, extras=False)
    base.save(forged.path_of(work, "base.qcow2"))
    return victim(rng, backing=base, backing_name="base.qcow2", backing_format="qcow2", **options)


def make(kind, rng, work):
    return {"version 3": lambda: victim(rng), "version 2": lambda: victim(rng, version=2),
            "overlay": lambda: with_backing(rng, work),
            "subclusters": lambda: victim(rng, cluster_bits=14, extended_l2=True),
            "zstd": lambda: victim(rng, compression="zstd")}[kind]()


def sweep(image, damages, work):
    """Each damage is a function that changes a fresh copy of the host file."""
    built, truth = image.build(), image.truth()
    path = forged.path_of(work, "image.qcow2")
    whole = built.file.read(0, built.file.size)
    judge = Judge(work, sound=whole[:112], empty=image.truth_if_empty())
    for name, damage in damages:
        data = damage(bytearray(whole))
        with open(path, "wb") as f:
            f.write(data)
        try:
            judge.all(path, truth)
        except AssertionError as e:
            raise AssertionError(f"{name}: {e}") from e
    return judge


@pytest.mark.parametrize("kind", ["version 3", "version 2", "overlay"])
def test_files_cut_off_in_the_header(kind, work, rng):
    image = make(kind, rng, work)
    end = image.build().where["name"] + len(image.backing_name or "")
    # Every byte of the header proper (or around its fields), and some behind it.
    borders = {off + d for off, size, _ in FIELDS for d in (-1, 0, size // 2)} - {-1}
    lengths = {*sample(f"cut {kind}", range(113), 25), 112}
    if kind == "version 3":
        lengths |= borders
    lengths = [*sorted(lengths), *sample(f"behind {kind}", range(113, end + 9), 20)]
    judge = sweep(image, [(f"cut to {n} bytes", lambda b, n=n: b[:n]) for n in lengths], work)
    assert judge.refused >= 10


def test_files_cut_off_at_the_borders_of_their_structures(work, rng):
    image = make("version 3", rng, work)
    where = image.build().where
    ends = sorted({max(0, off + d) for off in where.values() for d in (-1, 0, 1, 8, 511, 4095)})
    judge = sweep(image, [(f"cut to {n:#x} bytes", lambda b, n=n: b[:n]) for n in ends], work)
    # QEMU reads what is missing as zeros: not all of these may be refused.
    assert judge.read


def limits(size, old):
    """The values that every field gets in every run: the last one is misaligned."""
    most = (1 << 8 * size) - 1
    return sorted({0, 1, most, most - 1, old + 1 & most} - {old})


def more_values(size, old):
    most = (1 << 8 * size) - 1
    found = {old - 1, old + 8, old ^ 1 << 8 * size - 1, most >> 1, (most >> 1) + 1}
    if size >= 4:
        found |= {old + 511, old + 512, old * 2, 1 << 21, 4194304, 4194305, 65536, 65537}
    if size == 8:
        found |= {1 << 56, (1 << 63) - 4096, 1 << 40}
    return sorted({v for v in found if 0 <= v <= most} - {old, *limits(size, old)})


def set_field(off, size, value):
    def damage(data):
        data[off:off + size] = value.to_bytes(size, "big")
        return data
    return damage


@pytest.mark.parametrize("kind", ["version 3", "version 2", "overlay", "subclusters", "zstd"])
def test_every_header_field_at_its_limits(kind, work, rng):
    image = make(kind, rng, work)
    header = image.build().file.read(0, 112)
    always, sometimes = [], []
    for off, size, name in FIELDS:
        if off < image.header_length:
            old = int.from_bytes(header[off:off + size], "big")
            for some, where in ((limits, always), (more_values, sometimes)):
                where += [(f"{name} = {value:#x}", set_field(off, size, value))
                          for value in some(size, old)]
    if kind == "version 3":
        damages = always + sample("more values", sometimes, 25)
    else:
        damages = sample(kind, always + sometimes, 20)
    judge = sweep(image, damages, work)
    assert judge.refused >= 5 and judge.read >= 2


def put(off, *parts):
    data = b"".join(parts)
    return lambda whole: whole[:off] + data + whole[off + len(data):]


def frame(kind, length):
    return struct.pack(">II", kind, length)


FORMAT, NAMES, BITMAPS, LUKS, DATA = (0xe2792aca, 0x6803f857, 0x23852875, 0x0537be77, 0x44415441)
LENGTHS = [0, 1, 7, 8, 15, 16, 17, 23, 24, 25, 47, 48, 49, 1024, 4096 - 112 - 8, 4096 - 112 - 7,
           4096, 1 << 20, 0x7fffffff, 0x80000000, 0xfffffff0, 0xfffffff8, 0xffffffff]


@pytest.mark.parametrize("filler", [b"\0", b"\xff", b"A"], ids=["zeros", "ones", "letters"])
def test_extensions_of_any_length(filler, work, rng):
    damages = []
    for kind in (0, 1, FORMAT, NAMES, BITMAPS, LUKS, DATA, 0xffffffff):
        for length in LENGTHS:
            body = filler * min(length, 4096 - 120)
            damages.append((f"extension {kind:#x} of {length} bytes",
                            put(112, frame(kind, length), body)))
    sweep(make("version 3", rng, work), sample(f"lengths {filler}", damages, 20), work)


def test_extension_areas_that_lie(work, rng):
    chain = b"".join(frame(n + 2, 0) for n in range(490))
    damages = [
        ("hundreds of empty extensions", put(112, chain, frame(0, 0))),
        ("frames up to the last byte", put(112, b"".join(frame(5, 0) for _ in range(498)))),
        ("a frame that is cut by the end", put(4096 - 4, b"\0\0\0\1")),
        ("the same extension twice", put(112, frame(FORMAT, 3), b"raw\0\0\0\0\0",
                                         frame(FORMAT, 5), b"qcow2\0\0\0", frame(0, 0))),
        ("an unprintable format", put(112, frame(FORMAT, 8), b"\0\n\x1b[31m", frame(0, 0))),
        ("a feature name without an end", put(72, struct.pack(">Q", 1 << 20), bytes(32),
                                              frame(NAMES, 48), b"\0\x14" + b"\xff" * 46,
                                              frame(0, 0))),
        ("a data file name without the bit", put(112, frame(DATA, 8), b"data.raw", frame(0, 0))),
        ("the data file bit without a name", put(72, struct.pack(">Q", 4))),
        ("raw data without the data file bit", put(88, struct.pack(">Q", 2))),
        ("bitmaps without an extension", put(112, frame(0, 0))),
    ]
    sweep(make("version 3", rng, work), damages, work)
    if long_run():
        noisy = []
        for n in range(400):
            off = rng.randrange(112, 4096)
            noisy.append((f"noise {n}", put(off, rng.randbytes(rng.randrange(1, 40))[:4096 - off])))
        sweep(make("version 3", rng, work), noisy, work)


def test_backing_names_in_impossible_places(work, rng):
    name = struct.Struct(">QI").pack
    damages = [(f"name of {size} bytes at {off:#x}", put(8, name(off, size)))
               for off in (0, 1, 8, 104, 112, 4095, 4096, 4097, 1 << 32, (1 << 64) - 1)
               for size in (0, 1, 10, 1023, 1024, 4096, 0xffffffff)]
    sweep(make("overlay", rng, work), sample("names", damages, 40), work)
