# SPDX-License-Identifier: MIT
"""Compressed clusters, made in all the ways that the format allows; no library of ours is used."""
import struct
import subprocess
import zlib

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_BLOCK = 1 << 17


def deflate(data, level=6, window=12):
    """A raw deflate stream. Level 0 stores: the stream is longer than the data."""
    c = zlib.compressobj(level, zlib.DEFLATED, -window, 9)
    return c.compress(data) + c.flush()


def zstd(data, level=3):
    """What the zstd program makes: an ordinary frame with its content size and no checksum."""
    done = subprocess.run(["zstd", "-q", "-c", f"-{level}", "--no-check",
                           f"--stream-size={len(data)}"], input=data, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _zstd_header(size, known_size):
    # Single segment with a 4-byte content size, or a window of 8 MiB and no size.
    return ZSTD_MAGIC + (b"\xa0" + struct.pack("<I", size) if known_size else b"\x00\x68")


def _zstd_blocks(data):
    """(kind, size, stored bytes): runs of one byte as RLE blocks, all else as raw blocks."""
    for start in range(0, len(data), ZSTD_BLOCK):
        block = data[start:start + ZSTD_BLOCK]
        if block.count(block[0]) == len(block):
            yield 1, len(block), block[:1]
        else:
            yield 0, len(block), block


def zstd_by_hand(data, known_size=True):
    """A frame of raw and RLE blocks: valid, though it hardly compresses."""
    out = [_zstd_header(len(data), known_size)]
    blocks = list(_zstd_blocks(data)) or [(0, 0, b"")]
    for i, (kind, size, stored) in enumerate(blocks):
        last = i == len(blocks) - 1
        out += [struct.pack("<I", last | kind << 1 | size << 3)[:3], stored]
    return b"".join(out)


def zstd_bomb(size):
    """A few bytes that inflate to size: RLE blocks, 128 KiB from four bytes each."""
    return zstd_by_hand(b"\xbb" * size, known_size=False)


def deflate_bomb(size):
    return deflate(bytes(size), 9)
