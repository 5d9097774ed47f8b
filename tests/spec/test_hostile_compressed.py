# SPDX-License-Identifier: MIT
"""Compressed clusters that aren't what they say: refused, and never at the price of memory."""
import struct

import pytest

from lib import codecs, forged
from lib.hostile import Judge
from lib.qcow2img import COMPRESSED, Image

MIB = 1 << 20
u64 = struct.Struct(">Q").pack


def image_with(stream, rng, bits=16, compression="zlib"):
    """One compressed cluster with this stream between two good ones."""
    image = Image(8 << bits, cluster_bits=bits, compression=compression, packing="fresh",
                  feature_names=False)
    good = forged.squeezable(rng, image.cs)
    image.compressed(0, good)
    image.compressed(1, b"never seen", stream[:2 * image.cs - 512])
    image.normal(2, good)
    return image


def zstd_frame(descriptor, window=b"", size=b"", blocks=b"\x01\0\0"):
    return codecs.ZSTD_MAGIC + bytes([descriptor]) + window + size + blocks


BAD_DEFLATE = {
    "garbage": b"\xff" * 600,
    "zeros": bytes(600),
    "a stored block without its bytes": b"\x01\xff\xff\x00\x00",
    "a wrong complement": b"\x01\x05\x00\x00\x00hello",
    "an unknown block type": b"\x07" * 20,
    "a distance before the start": b"\x4b\x04\x82\x00",
    "too little": codecs.deflate(b"x" * 100),
    "one byte too little": codecs.deflate(b"y" * (65536 - 1)),
    "nothing": codecs.deflate(b""),
    "a zlib wrapper": b"\x78\x9c" + codecs.deflate(b"z" * 65536),
    "a tree that is over full": b"\xed\xfd" + b"\x55" * 60,
    "an empty block without an end": b"\x00\x00\x00\xff\xff" * 100,
}
BAD_ZSTD = {
    "garbage": b"\xff" * 600,
    "zeros": bytes(600),
    "no blocks": codecs.ZSTD_MAGIC,
    "too little": codecs.zstd(b"x" * 100),
    "one byte too little": codecs.zstd(b"y" * 65535),
    "one byte too much": codecs.zstd(b"y" * 65537),
    "too far": codecs.zstd(b"y" * MIB),
    "a bomb": codecs.zstd_bomb(64 * MIB),
    "a bomb with its size told": codecs.zstd_by_hand(b"\xbb" * 64 * MIB),
    "an absurd content size": zstd_frame(0xe0, size=b"\xff" * 8, blocks=b"\x02\x00\x40A" * 10),
    "a window of terabytes": zstd_frame(0x00, window=b"\xff", blocks=b"\x02\x00\x40A" * 10),
    "a window of 2 GiB": zstd_frame(0x00, window=b"\xa8", blocks=b"\x02\x00\x40A" * 10),
    "a dictionary": zstd_frame(0x23, size=b"\x01\x02\x03\x04\xff"),
    "a reserved bit": zstd_frame(0x28, size=b"\xff"),
    "a reserved block type": zstd_frame(0x20, size=b"\xff", blocks=b"\x07\x00\x00"),
    "skippable frames only": b"\x50\x2a\x4d\x18\x00\x00\x00\x00" * 64,
    "a skippable frame of 4 GiB": b"\x50\x2a\x4d\x18\xff\xff\xff\xff" + bytes(99),
    "empty frames": codecs.zstd(b"") * 50,
    "a deflate stream": codecs.deflate(b"x" * 65536),
}


def refused_and_the_rest_is_readable(image, work, verb_words=()):
    path = image.save(forged.path_of(work, "image.qcow2"))
    judge = Judge(work)
    judge.convert(path).refused("compressed")
    judge.info(path)
    judge.other(path, "check map")
    judge.other(path, "compare")


@pytest.mark.parametrize("name", BAD_DEFLATE)
def test_bad_deflate_streams(name, work, rng):
    refused_and_the_rest_is_readable(image_with(BAD_DEFLATE[name], rng), work)


@pytest.mark.parametrize("name", BAD_ZSTD)
def test_bad_zstd_streams(name, work, rng):
    refused_and_the_rest_is_readable(image_with(BAD_ZSTD[name], rng, compression="zstd"), work)


@pytest.mark.parametrize("bits", [9, 16, 21])
def test_a_deflate_bomb_gives_one_cluster(bits, work, rng):
    """What a stream holds beyond its cluster is ignored, as by others."""
    bomb = codecs.deflate_bomb(64 * MIB)[:2 * (1 << bits) - 512]
    image = image_with(bomb, rng, bits)
    image.clusters[1].data = bytes(image.cs)
    path = image.save(forged.path_of(work, "image.qcow2"))
    assert Judge(work).convert(path, image.truth()).code == 0


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_streams_cut_and_broken_anywhere(compression, work, rng):
    pack = codecs.deflate if compression == "zlib" else codecs.zstd
    judge = Judge(work)
    path = forged.path_of(work, "image.qcow2")
    for n in range(25):
        data = forged.squeezable(rng, 4096)
        stream = bytearray(pack(data))
        if n % 2:
            stream = stream[:rng.randrange(len(stream))] or b"\0"
        for _ in range(n % 3):
            stream[rng.randrange(len(stream))] ^= 1 << rng.randrange(8)
        image = image_with(bytes(stream), rng, 12, compression)
        image.save(path)
        judge.convert(path)
    assert judge.refused


@pytest.mark.parametrize("bits", [9, 12, 16, 21])
def test_descriptors_that_point_anywhere(bits, work, rng):
    image = Image(8 << bits, cluster_bits=bits, packing="fresh", feature_names=False)
    image.compressed(0, forged.squeezable(rng, image.cs))
    image.compressed(1, forged.squeezable(rng, image.cs))
    image.normal(2, forged.noise(rng, image.cs))
    built = image.build()
    shift = 70 - bits
    most = (1 << bits - 8) - 1
    size, good = built.file.size, image.clusters[1].host
    wild = [(0, 0), (0, most), (size - 1, 0), (size, most), (size + 100, 1), ((1 << shift) - 1, 0),
            ((1 << shift) - 512, most), (1 << min(shift, 56) - 1, 1), (built.where["l1"], 0),
            (built.l2_entry[0], most), (good + 1, most), (good - 1, most), (good + 511, 0)]
    judge = Judge(work)
    path = forged.path_of(work, "image.qcow2")
    for off, sectors in wild:
        entry = COMPRESSED | sectors << shift | off
        image.build().patch(built.l2_entry[1], u64(entry)).save(path)
        judge.convert(path)
        judge.info(path)
        judge.other(path, "check map")
    assert judge.refused >= 5
    # More sectors than the stream has are no fault, even beyond the end of the file.
    image.build().patch(built.l2_entry[1], u64(COMPRESSED | most << shift | good)).save(path)
    assert judge.convert(path, image.truth()).code == 0


def test_copied_and_compressed_at_once(work, rng):
    """Bit 63 has no meaning here; the data are all there."""
    image = Image(4 << 16, packing="fresh")
    image.compressed(0, forged.squeezable(rng, image.cs))
    built = image.build()
    old = built.file.read(built.l2_entry[0], 8)
    path = built.patch(built.l2_entry[0], bytes([old[0] | 0x80]) + old[1:]).save(
        forged.path_of(work, "image.qcow2"))
    Judge(work).convert(path, image.truth())
