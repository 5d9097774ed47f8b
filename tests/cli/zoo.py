# SPDX-License-Identifier: MIT
"""
Images made by the real programs, of every kind that info and map tell apart. Each maker takes an
empty folder, fills it and returns the name of the image to look at.
"""
import contextlib
import struct
import subprocess
from pathlib import Path

from lib.run import qemu_img, qemu_io

SECRET = ("--object", "secret,id=s0,data=abc")


def io(work, name, *commands):
    qemu_io(Path(work, name), *commands, cwd=work)


def create(work, name, *words):
    qemu_img("create", "-q", "-f", "qcow2", *words[:-1], name, words[-1], cwd=work).succeeded()
    return name


@contextlib.contextmanager
def held_by_qemu_io(path):
    """While the block runs another program has the image open for writing."""
    with subprocess.Popen(["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as p:
        try:
            assert p.stdout.read(8) == b"qemu-io>"
            yield
        finally:
            p.stdin.close()
            p.stdout.close()


def patch(work, name, off, data):
    with open(Path(work, name), "r+b") as f:
        f.seek(off)
        f.write(data)


def fresh(work):
    return create(work, "disk.qcow2", "64M")


def version_2(work):
    return create(work, "disk.qcow2", "-o", "compat=0.10", "64M")


def unusual(work):
    return create(work, "disk.qcow2", "-o", "lazy_refcounts=on,extended_l2=on,cluster_size=128k,"
                  "compression_type=zstd,refcount_bits=64", "1.3T")


def snapshots(work):
    name = create(work, "disk.qcow2", "64M")
    io(work, name, "write -P 1 0 1M")
    for tag in ("one", "two with a name that is longer than its column", "t\u00e9\u2603\U0001f600",
                "0123456789012345", ""):
        qemu_img("snapshot", "-c", tag, name, cwd=work).succeeded()
        io(work, name, "write -P 2 512k 1M")
    return name


def odd_snapshots(work):
    """Records as other programs wrote them: no or more extra data, big clocks and sizes."""
    name = create(work, "disk.qcow2", "1M")
    qemu_img("snapshot", "-c", "x", name, cwd=work).succeeded()
    with open(Path(work, name), "r+b") as f:
        data = bytearray(f.read())
    off = struct.unpack_from(">Q", data, 64)[0]
    l1 = struct.unpack_from(">QI", data, off)

    def record(ident, tag, extra, clock, state=4):
        fixed = struct.pack(">QIHHIIQII", *l1, len(ident), len(tag), 86400 * 365, 5, clock, state,
                            len(extra)) + extra + ident + tag
        return fixed + bytes(-len(fixed) % 8)

    records = [
        record(b"1", b"no extra", b"", 0),
        record(b"22222222", b"16 of extra", struct.pack(">QQ", 1536000, 1 << 20), 1),
        record(b"333333333", b"24", struct.pack(">QQQ", 5 << 40, 1 << 20, 987654321012), 10**9),
        record(b"4444444444", b"more", struct.pack(">QQQ", 0, 1 << 20, 2**64 - 1) + b"unknown!",
               123456 * 3600 * 10**9 + 59 * 60 * 10**9 + 7 * 10**9 + 999999999),
        record(b"5", b"most", struct.pack(">QQQ", 2**63 - 1, 1 << 20, 2**63), 2**64 - 1),
        record(b"6", b"beyond", struct.pack(">QQQ", 2**64 - 1, 1 << 20, 0), 7),
    ]
    patch(work, name, off, b"".join(records))
    patch(work, name, 60, struct.pack(">I", len(records)))
    return name


def bitmaps(work):
    name = create(work, "disk.qcow2", "64M")
    qemu_img("bitmap", "--add", name, "first", cwd=work).succeeded()
    qemu_img("bitmap", "--add", "--disable", "-g", "1M", name, "s\u00e9cond", cwd=work).succeeded()
    return name


def bitmaps_in_use(work):
    name = bitmaps(work)
    data = Path(work, name).read_bytes()
    where = data.index(b"first") - 24
    patch(work, name, where + 12, struct.pack(">I", 3))
    return name


def data_file(work):
    return create(work, "disk.qcow2", "-o", "data_file=data.raw", "64M")


def raw_data_file(work):
    name = create(work, "disk.qcow2", "-o", "data_file=data.raw,data_file_raw=on", "64M")
    io(work, name, "write -P 1 64k 64k", "write -z 256k 64k")
    return name


def dirty_and_corrupt(work):
    name = create(work, "disk.qcow2", "64M")
    patch(work, name, 72, struct.pack(">Q", 3))
    return name


def aes(work):
    create(work, "base.qcow2", "10M")
    name = create(work, "disk.qcow2", *SECRET, "-b", "base.qcow2", "-F", "qcow2", "-o",
                  "encrypt.format=aes,encrypt.key-secret=s0", "10M")
    patch(work, name, 72, struct.pack(">Q", 1))
    return name


def chain(work):
    """Relative and absolute names, a folder between, layers of unlike size; raw at the bottom."""
    Path(work, "sub").mkdir()
    with open(Path(work, "base.raw"), "wb") as f:
        f.truncate(3 << 20)
        f.seek(1 << 20)
        f.write(b"x" * 65536)
    create(work, "sub/one.qcow2", "-b", "../base.raw", "-F", "raw", "2M")
    create(work, "two.qcow2", "-b", "sub/one.qcow2", "-F", "qcow2", "4M")
    io(work, "two.qcow2", "write -P 3 1088k 64k", "write -z 3M 64k")
    name = create(work, "three.qcow2", "-b", str(Path(work, "two.qcow2")), "-F", "qcow2", "4M")
    io(work, name, "write -P 4 0 64k", "write -z 1152k 192k")
    return name


def chain_without_format(work):
    create(work, "base.qcow2", "1M")
    name = create(work, "disk.qcow2", "-b", "base.qcow2", "-F", "qcow2", "1M")
    data = Path(work, name).read_bytes()
    patch(work, name, data.index(b"\xe2\x79\x2a\xca"), b"\x12\x34\x56\x78")
    return name


def prefixed_backing(work):
    create(work, "base.qcow2", "1M")
    return create(work, "disk.qcow2", "-u", "-b", "file:base.qcow2", "-F", "qcow2", "1M")


def raw(work):
    with open(Path(work, "disk.raw"), "wb") as f:
        f.seek(192 << 10)
        f.write(b"x" * (128 << 10))
        f.truncate(1023487)
    return "disk.raw"


def raw_of_one_byte(work):
    Path(work, "disk.raw").write_bytes(b"x")
    return "disk.raw"


def empty(work):
    Path(work, "disk.raw").touch()
    return "disk.raw"


def strange_name(work):
    create(work, "disk.qcow2", "1M")
    name = 'a "b"\\ \u00e9\U0001f600,c.qcow2'
    Path(work, "disk.qcow2").rename(Path(work, name))
    return name


def all_states(work):
    """Every kind of cluster, neighbours that join and neighbours that don't."""
    name = create(work, "disk.qcow2", "2M")
    io(work, name, "write -P 1 256k 192k", "write -z 512k 128k", "write -P 2 640k 64k",
            "discard 640k 64k", "write -P 3 768k 64k", "write -z 768k 64k", "write -P 4 1M 64k",
            "write -P 5 1216k 64k", "write -P 6 1152k 64k", "write -P 7 1280k 64k")
    return name


def compressed(work):
    name = create(work, "disk.qcow2", "2M")
    io(work, name, "write -P 9 64k 64k", "write -c -P 1 256k 64k",
            "write -c -P 2 320k 64k", "write -P 3 384k 64k", "write -c -P 4 640k 64k")
    return name


def subclusters(work):
    name = create(work, "disk.qcow2", "-o", "extended_l2=on,cluster_size=64k", "2M")
    io(work, name, "write -P 1 2k 6k", "write -z 16k 4k", "write -P 2 66k 30k",
            "write -z 96k 32k", "discard 4k 2k", "write -P 3 256k 128k")
    return name


READABLE = [fresh, version_2, unusual, snapshots, odd_snapshots, bitmaps, bitmaps_in_use, data_file,
            raw_data_file, dirty_and_corrupt, chain, chain_without_format, prefixed_backing, raw,
            raw_of_one_byte, empty, strange_name, all_states, compressed, subclusters]
ALL = READABLE + [aes]
