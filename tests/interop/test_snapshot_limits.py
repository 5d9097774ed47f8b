# SPDX-License-Identifier: MIT
"""
As many snapshots as the format has room for, and one more: that is refused, as the real program
refuses it (which takes its time over so many), with nothing changed.
"""
import struct

import pytest

from lib.run import qemu_img, qemu_io, tool

MOST = 65536
TABLE_MOST = 1024 * 65536  # bytes
EXTRA = struct.pack(">QQQ", 0, 1 << 20, 0)


def record(ident, name, extra=EXTRA):
    """A snapshot with an empty L1 table."""
    data = struct.pack(">QIHHIIQII", 0, 0, len(ident), len(name), 1, 0, 0, 0, len(extra))
    data += extra + ident + name
    return data + bytes(-len(data) % 8)


def with_records(path, records):
    """A new image whose snapshot table is these, behind everything and counted."""
    qemu_img("create", "-q", "-f", "qcow2", path, "1M").succeeded()
    qemu_io(path, "write -P 5 0 64k")
    table = b"".join(records)
    with open(path, "r+b") as f:
        data = f.read()
        off = len(data) + -len(data) % 65536
        block = struct.unpack_from(">Q", data, struct.unpack_from(">Q", data, 48)[0])[0]
        f.seek(off)
        f.write(table + bytes(-len(table) % 65536))
        f.seek(block + off // 65536 * 2)
        f.write(struct.pack(">H", 1) * (-(-len(table) // 65536)))
        f.seek(60)
        f.write(struct.pack(">IQ", len(records), off))
    return path


def refused(path, said, name="one more"):
    before = path.read_bytes()
    result = tool("snapshot", "-c", name, path).ended_well()
    assert result.code == 1 and said in result.err, result.describe()
    assert path.read_bytes()[:len(before)] == before


@pytest.mark.slow
def test_as_many_as_there_may_be(work):
    path = with_records(work / "a.qcow2", [record(b"%d" % (n + 1), b"") for n in range(MOST - 1)])
    tool("snapshot", "-c", "the last", path).succeeded()
    refused(path, "more than 65536 snapshots")
    listed = tool("snapshot", "-l", "--output=json", path).json()
    assert len(listed) == MOST and listed[-1]["name"] == "the last"
    tool("snapshot", "-d", "the last", path).succeeded()
    qemu_io(path, "read -P 5 0 64k")
    qemu_img("check", "-q", path).succeeded()


@pytest.mark.slow
def test_as_long_as_their_table_may_be(work):
    long = [record(b"i" * 65000 + b"%d" % n, b"n" * 65535, EXTRA + bytes(1000)) for n in range(508)]
    left = TABLE_MOST - sum(map(len, long))
    while left > 80:
        size = min(left - 80 if left < 60000 else 50000, left) & ~7
        if size < 80:
            break
        long.append(record(b"%d" % len(long), b"m" * (size - 72)))
        left = TABLE_MOST - sum(map(len, long))
    path = with_records(work / "a.qcow2", long)
    refused(path, "more than the 67108864 allowed", "n" * 200)
    qemu_img("check", "-q", path).succeeded()
    theirs = qemu_img("snapshot", "-c", "n" * 200, path)
    assert theirs.code == 1 and "File too large" in theirs.err, theirs.describe()
    qemu_io(path, "read -P 5 0 64k")
