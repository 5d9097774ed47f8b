# SPDX-License-Identifier: MIT
"""qcow2 convert -c of what is compressed already: it is taken over as it is, or made anew."""
import os
import struct

import pytest

from lib import codecs, forged
from lib.checking import assert_clean
from lib.qcow2img import COMPRESSED, Image
from lib.reading import converts_to, qemu_converts_to
from lib.run import qemu_img, tool

MIB = 1 << 20


def entries(path):
    """L2 entries of the active tables: guest cluster -> (where it stands, entry)."""
    with open(path, "rb") as f:
        header = f.read(112)
        bits, = struct.unpack_from(">I", header, 20)
        l1_size, l1_off = struct.unpack_from(">IQ", header, 36)
        extended = struct.unpack_from(">Q", header, 72)[0] & 16 if header[7] == 3 else 0
        step = 16 if extended else 8
        per_table = (1 << bits) // step
        f.seek(l1_off)
        tables = struct.unpack(f">{l1_size}Q", f.read(8 * l1_size))
        found = {}
        for n, table in enumerate(tables):
            off = table & 0x00fffffffffffe00
            f.seek(off)
            raw = f.read(1 << bits) if off else b""
            for i in range(0, len(raw), step):
                found[n * per_table + i // step] = off + i, struct.unpack_from(">Q", raw, i)[0]
    return bits, found


def packed(path):
    """Guest cluster -> the bytes that its descriptor names, to the end of the last sector."""
    bits, found = entries(path)
    split = 62 - (bits - 8)
    with open(path, "rb") as f:
        out = {}
        for index, (_, entry) in found.items():
            if not entry & COMPRESSED:
                continue
            off = entry & (1 << split) - 1
            sectors = (entry >> split & (1 << bits - 8) - 1) + 1
            f.seek(off)
            out[index] = f.read(off // 512 * 512 + sectors * 512 - off)
    return out


def is_long(covered, cs):
    return max(1024, cs // 64) < len(covered) <= cs


def recompress(source, target, *words):
    return tool("convert", "-O", "qcow2", "-c", *words, source, target).succeeded()


def like(image):
    words = [f"cluster_size={image.cs}"]
    if image.compression == "zstd":
        words.append("compression_type=zstd")
    return ["-o", ",".join(words)]


@pytest.mark.parametrize("cluster_bits", [13, 16, 21])
@pytest.mark.parametrize("compression", ["zlib", "zstd"])
@pytest.mark.parametrize("extended_l2", [False, True])
def test_streams_are_taken_as_they_are(cluster_bits, compression, extended_l2, work, rng):
    if extended_l2 and cluster_bits < 14:
        cluster_bits = 14
    image = forged.mixture(rng, cluster_bits=cluster_bits, compression=compression,
                           extended_l2=extended_l2)
    source = image.save(forged.path_of(work, "source"))
    target = forged.path_of(work, "target")
    recompress(source, target, *like(image))
    assert_clean(target)
    converts_to(image.truth(), target, work)
    qemu_converts_to(image.truth(), target, work)
    before, after = packed(source), packed(target)
    whole = image.size // image.cs
    taken = [i for i, covered in before.items() if is_long(covered, image.cs) and i < whole]
    assert taken or cluster_bits < 16
    for i in taken:
        assert after[i][:len(before[i])] == before[i], i


def test_the_result_is_the_same_for_any_number_of_threads(work, rng):
    source = forged.path_of(work, "source")
    image = forged.mixture(rng, cluster_bits=14, count=2000, size=64 * MIB)
    image.save(source)
    made = []
    for n in (1, 2, 7):
        target = forged.path_of(work, f"target-{n}")
        recompress(source, target, "-m", str(n), *like(image))
        with open(target, "rb") as f:
            made.append(f.read())
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize("refcount_bits", [1, 2, 8])
def test_host_clusters_are_shared_as_far_as_they_can_be_counted(refcount_bits, work, rng):
    image = forged.mixture(rng, cluster_bits=16, compression="zlib")
    source = image.save(forged.path_of(work, "source"))
    target = forged.path_of(work, "target")
    recompress(source, target, "-o", f"refcount_bits={refcount_bits}")
    assert_clean(target)
    converts_to(image.truth(), target, work)


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_no_generation_is_larger_than_the_first(compression, work, rng):
    """Though in the first one no cluster stands before that which follows it on the disk."""
    options = ["-o", f"compression_type={compression}"]
    name = forged.path_of(work, "g")
    tool("create", "-q", *options, name, "8M").succeeded()
    writes = []
    for i in range(128):
        with open(forged.path_of(work, f"bytes-{i}"), "wb") as f:
            f.write(forged.squeezable(rng, 32768) + forged.noise(rng, 32768))
        at = i * 37 % 128 * 65536
        writes += ["-c", f"write -q -c -s {f.name} {at} 64k"]
    tool("io", *writes, name).succeeded()
    first = name
    sizes = []
    for n in range(6):
        recompress(name, f"{name}{n}", *options)
        name = f"{name}{n}"
        sizes.append(os.path.getsize(name))
    assert sizes == [sizes[0]] * 6
    assert qemu_img("compare", first, name).code == 0


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_what_was_written_in_order_takes_as_much_room_as_before(compression, work, rng):
    with open(forged.path_of(work, "disk"), "wb") as f:
        for _ in range(200):
            f.write(forged.squeezable(rng, 32768) + forged.noise(rng, 32768))
    words = ["-O", "qcow2", "-c", "-o", f"compression_type={compression}"]
    tool("convert", "-f", "raw", *words, "disk", "source", cwd=work).succeeded()
    tool("convert", *words, "source", "target", cwd=work).succeeded()
    sizes = [os.path.getsize(forged.path_of(work, name)) for name in ("source", "target")]
    assert sizes[1] - sizes[0] in range(-512, 513)


def with_one_inside_another(rng, order):
    """Cluster a's stream holds all of cluster b's, as an image could that means no good."""
    image = Image(4 * MIB, packing="fresh", feature_names=False)
    b = forged.squeezable(rng, image.cs)
    inner = codecs.deflate(b)
    first = forged.noise(rng, 700) + inner + forged.noise(rng, 3000)
    rest = forged.squeezable(rng, image.cs - len(first))
    stored = b"\0" + struct.pack("<HH", len(first), len(first) ^ 0xffff) + first
    image.compressed(order.index("a"), first + rest, stored + codecs.deflate(rest))
    image.compressed(order.index("b"), b, inner)
    return image, len(inner), 5 + 700


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_streams_that_overlap_read_as_they_did(order, work, rng):
    image, inner_len, inside = with_one_inside_another(rng, order)
    source = image.save(forged.path_of(work, "source"))
    bits, found = entries(source)
    split = 62 - (bits - 8)
    off = (found[order.index("a")][1] & (1 << split) - 1) + inside
    sectors = (off + inner_len - 1) // 512 - off // 512
    with open(source, "r+b") as f:
        f.seek(found[order.index("b")][0])
        f.write(struct.pack(">Q", COMPRESSED | sectors << split | off))
    converts_to(image.truth(), source, work)
    target = forged.path_of(work, "target")
    recompress(source, target)
    assert_clean(target)
    converts_to(image.truth(), target, work)
    qemu_converts_to(image.truth(), target, work)


def test_damage_inside_is_met_by_who_looks_inside(work, rng):
    image = Image(8 << 16, feature_names=False)
    good = forged.squeezable(rng, image.cs)
    image.compressed(0, good)
    image.compressed(1, b"never seen", b"\xff" * 3000)
    source = image.save(forged.path_of(work, "source"))
    target = forged.path_of(work, "target")
    recompress(source, target)
    assert_clean(target)
    assert packed(target)[1][:3000] == b"\xff" * 3000
    tool("convert", "-O", "raw", target, f"{target}.raw").refused("compressed cluster")
    tool("convert", "-O", "qcow2", "-c", "--level", "1", source, f"{target}1").refused(
        "compressed cluster")
    assert not os.path.exists(f"{target}1")
    salvaged = tool("convert", "-O", "qcow2", "-c", "--salvage", source, f"{target}2").succeeded()
    assert "65536 bytes at or behind 0x10000" in salvaged.err
    assert tool("compare", "-f", "qcow2", f"{target}2", f"{target}2").code == 0


def test_zeros_that_were_compressed_take_no_room(work):
    image = Image(8 << 16)
    for i in range(8):
        image.compressed(i, b"\0")
    source = image.save(forged.path_of(work, "source"))
    target = forged.path_of(work, "target")
    recompress(source, target)
    assert packed(source).keys() == set(range(8)) and not packed(target)
    converts_to(image.truth(), target, work)


def test_only_the_same_type_and_size_is_taken(work, rng):
    image = forged.mixture(rng, cluster_bits=16, compression="zlib")
    source = image.save(forged.path_of(work, "source"))
    for n, words in enumerate([["-o", "compression_type=zstd"], ["-o", "cluster_size=32k"],
                               ["-o", "cluster_size=2M"], ["--level", "9"]]):
        target = forged.path_of(work, f"target-{n}")
        recompress(source, target, *words)
        assert_clean(target)
        converts_to(image.truth(), target, work)
        theirs, ours = packed(source), packed(target)
        assert not [i for i in theirs if i in ours and len(theirs[i]) > 1024 and
                    ours[i][:600] == theirs[i][:600]]


def test_a_chain_becomes_one_image(work, rng):
    base = Image(2 * MIB, feature_names=False)
    small = Image(2 * MIB, cluster_bits=12, feature_names=False, backing=base, backing_name="base",
                  backing_format="qcow2")
    top = Image(2 * MIB, feature_names=False, backing=small, backing_name="small",
                backing_format="qcow2")
    for i in range(32):
        base.compressed(i, forged.squeezable(rng, base.cs))
    for i in range(0, 16, 3):
        small.compressed(i, forged.squeezable(rng, small.cs))
    for i in range(5, 30, 4):
        top.compressed(i, forged.squeezable(rng, top.cs))
    top.normal(31, forged.noise(rng, top.cs))
    top.zero(30)
    for layer, name in ((base, "base"), (small, "small"), (top, "top")):
        layer.save(forged.path_of(work, name))
    tool("convert", "-O", "qcow2", "-c", "top", "target", cwd=work).succeeded()
    assert_clean(forged.path_of(work, "target"))
    converts_to(top.truth(), forged.path_of(work, "target"), work)
    mine = packed(forged.path_of(work, "target"))
    for layer, i in (("base", 3), ("top", 5)):
        theirs = packed(forged.path_of(work, layer))[i]
        assert len(theirs) > 1024 and mine[i][:len(theirs)] == theirs


def test_sources_behind_each_other_and_odd_ends(work, rng):
    for name, size in (("a", MIB - 512), ("b", MIB + 1024), ("c", 3 * 65536)):
        with open(forged.path_of(work, f"{name}.raw"), "wb") as f:
            f.write(forged.squeezable(rng, size))
        tool("convert", "-f", "raw", "-O", "qcow2", "-c", f"{name}.raw", name,
             cwd=work).succeeded()
    tool("convert", "-O", "qcow2", "-c", "a", "b", "c", "target", cwd=work).succeeded()
    qemu_img("convert", "-O", "raw", "a", "b", "c", "expected", cwd=work).succeeded()
    assert qemu_img("compare", "-f", "qcow2", "-F", "raw", "target", "expected",
                    cwd=work).code == 0
    assert_clean(forged.path_of(work, "target"))


def test_a_snapshot_is_taken_as_it_is(work, rng):
    image = Image(2 * MIB, rng=rng)
    for i in range(20):
        image.compressed(i, forged.squeezable(rng, image.cs))
    image.snapshot("1", "then")
    then = image.truth(0)
    for i in range(10):
        image.normal(i, forged.noise(rng, image.cs))
    source = image.save(forged.path_of(work, "source"))
    target = forged.path_of(work, "target")
    recompress(source, target, "-l", "then")
    assert_clean(target)
    converts_to(then, target, work)
    assert len(packed(target)) == 20


@pytest.mark.parametrize("words,sentence", [
    (["--level", "3"], "--level goes with -c"),
    (["-O", "qcow2", "-c", "--level", "13"],
     "compression levels of deflate go from 1 to 12, not 13"),
    (["-O", "qcow2", "-c", "-o", "compression_type=zstd", "--level", "23"],
     "compression levels of zstd go from 1 to 22, not 23")])
def test_levels_that_there_arent(words, sentence, work):
    tool("create", "-q", "source", "1M", cwd=work).succeeded()
    with open(forged.path_of(work, "target"), "wb") as f:
        f.write(b"mine")
    result = tool("convert", *words, "--force", "source", "target", cwd=work).ended_well()
    assert result.code == 1 and sentence in result.err, result.describe()
    with open(forged.path_of(work, "target"), "rb") as f:
        assert f.read() == b"mine"


def test_a_rebase_takes_a_level_too(work):
    tool("create", "-q", "base", "1M", cwd=work).succeeded()
    tool("io", "-c", "write -q -P 5 0 64k", "base", cwd=work).succeeded()
    tool("create", "-q", "-b", "base", "-F", "qcow2", "top", cwd=work).succeeded()
    for words, sentence in ((["--level", "3"], "--level goes with -c"),
                            (["-c", "--level", "13"], "go from 1 to 12, not 13")):
        result = tool("rebase", "-b", "", *words, "top", cwd=work).ended_well()
        assert result.code == 1 and sentence in result.err, result.describe()
    tool("rebase", "-b", "", "-c", "--level", "12", "top", cwd=work).succeeded()
    assert qemu_img("compare", "base", "top", cwd=work).code == 0
