# SPDX-License-Identifier: MIT
"""
Images made to keep a check busy or to make it take memory: tables that are pointed at a million
times, thousands of snapshots with the same tables, offsets and holes as large as a file can have.
"""
import os
import random
import struct

import pytest

from lib import forged, run
from lib.checking import check
from lib.qcow2img import COPIED, MAGIC
from lib.seed import long_run, sample, seeded
from lib.sparse import Sparse

TIME_LIMIT = 20
MEMORY = 160 << 20


def header(*, cluster_bits, size, l1, reftable, snapshots=(0, 0), order=4):
    """Each place is (entries or clusters, host offset)."""
    return MAGIC + struct.pack(
        ">IQIIQIIQQIIQQQQII", 3, 0, 0, cluster_bits, size, 0, l1[0], l1[1], reftable[1],
        reftable[0], snapshots[0], snapshots[1], 0, 0, 0, order, 104)


def words(*values):
    return struct.pack(f">{len(values)}Q", *values)


def judge(work, image, *, code=2):
    """The check, and the repair, end in time and take little memory."""
    leaks_first = long_run() or seeded(f"leaks of {image.size}").random() < 0.3
    repairs = [(), ("leaks",), ("all",)] if leaks_first else [(), ("all",)]
    path = forged.path_of(work, "image.qcow2")
    image.save(path)
    for repair in repairs:
        answer = check(path, *repair, timeout=TIME_LIMIT)
        limit = MEMORY * (3 if run.sanitized() else 1)
        assert answer.result.rss < limit, answer.describe()
        if not repair:
            assert answer.code == code, answer.describe()
            first = answer
    return first


def snapshot(l1_off, entries, n):
    record = struct.pack(">QIHHIIQIIQQ", l1_off, entries, 5, 1, 0, 0, 0, 0, 16, 0, 0)
    return record + b"%05d" % n + b"s" + bytes(2)


def test_four_million_l1_entries_for_one_table(work):
    cs, entries = 65536, 1 << 22
    image = Sparse()
    image.write(0, header(cluster_bits=16, size=1 << 40, l1=(entries, 4 * cs),
                          reftable=(1, cs)))
    image.write(cs, words(2 * cs))
    image.write(2 * cs, b"\0\1" * 600)
    image.write(3 * cs, words(*[(4 * cs + 512 * cs + i * cs) | COPIED for i in range(8192)]))
    for i in range(0, entries, 8192):
        image.write(4 * cs + i * 8, words(*[3 * cs] * 8192))
    image.truncate((4 + 512 + 8192) * cs)
    answer = judge(work, image)
    assert answer["allocated-clusters"] == 8192 << 22


def test_tens_of_thousands_of_snapshots_of_one_table(work):
    cs, n, entries = 65536, 65536, 1 << 20
    image = Sparse()
    table = 200 * cs
    image.write(0, header(cluster_bits=16, size=1 << 29, l1=(1, 3 * cs), reftable=(1, cs),
                          snapshots=(n, 4 * cs)))
    image.write(cs, words(2 * cs))
    image.write(4 * cs, b"".join(snapshot(table, entries, i) for i in range(n)))
    for i in range(0, entries, 8192):
        image.write(table + i * 8, words(*[190 * cs + (k % 4) * cs for k in range(i, i + 8192)]))
    image.write(190 * cs, words(*[180 * cs] * 8192))
    image.truncate(table + entries * 8)
    assert judge(work, image)["corruptions"] > 100


def overlapping_snapshots(n):
    cs, entries = 512, 1 << 22
    image = Sparse()
    tables = 10000 * cs
    image.write(0, header(cluster_bits=9, size=1 << 15, l1=(1, 3 * cs), reftable=(1, cs),
                          snapshots=(n, 4 * cs)))
    image.write(cs, words(2 * cs))
    image.write(4 * cs, b"".join(snapshot(tables + i * cs, entries - i, i) for i in range(n)))
    # The tables are the clusters of each other; between them there are holes.
    for i in range(0, n, 100):
        image.write(tables + i * cs, words(*[(tables + k * cs) for k in range(i, i + 64)]))
    image.truncate(tables + (n + 1) * cs + entries * 8)
    return image


def test_snapshots_whose_tables_overlap_in_every_way(work):
    judge(work, overlapping_snapshots(60000))


def test_tables_in_holes_that_touch_take_no_space_when_they_move(work):
    """Each L1 table is a hole of 32 MiB, and its last cluster is the first of the next."""
    cs, n, entries = 65536, 60, 1 << 22
    image = Sparse()
    image.write(0, header(cluster_bits=16, size=1 << 29, l1=(1, 3 * cs), reftable=(1, cs),
                          snapshots=(n, 4 * cs)))
    image.write(cs, words(2 * cs))
    image.write(4 * cs, b"".join(snapshot((16 + 511 * i) * cs, entries, i) for i in range(n)))
    image.truncate((16 + 512 * n) * cs)
    judge(work, image)
    path = forged.path_of(work, "image.qcow2")
    assert os.stat(path).st_blocks * 512 < 16 << 20


def test_data_in_tables_that_are_holes_take_no_space_when_they_move(work):
    """Every cluster of a thousand L1 tables of 32 MiB is said to be data, too."""
    cs, n, entries = 1 << 21, 1000, 1 << 22
    image = Sparse()
    image.write(0, header(cluster_bits=21, size=1 << 39, l1=(1, 3 * cs), reftable=(1, cs),
                          snapshots=(n, 4 * cs)))
    image.write(cs, words(2 * cs))
    image.write(3 * cs, words(5 * cs | COPIED))
    image.write(4 * cs, b"".join(snapshot((16 + 16 * i) * cs, entries, i) for i in range(n)))
    image.write(5 * cs, words(*[(16 + i) * cs | COPIED for i in range(16 * n)]))
    image.truncate((16 + 16 * n) * cs)
    judge(work, image)
    path = forged.path_of(work, "image.qcow2")
    assert os.stat(path).st_blocks * 512 < 64 << 20


def cut_off(work, *, order, missing_table):
    """A file of 64 clusters: in its L2 table there are that table itself, and cluster 64."""
    cs = 512
    image = Sparse()
    image.write(0, header(cluster_bits=9, size=1 << 15, l1=(1, 3 * cs), reftable=(1, cs),
                          snapshots=(1, 5 * cs), order=order))
    image.write(cs, words(2 * cs))
    image.write(2 * cs, struct.pack(">6Q" if order == 6 else ">6H", 1, 1, 1, 1, 2, 1))
    image.write(3 * cs, words(4 * cs))
    image.write(4 * cs, words(4 * cs, 64 * cs))
    image.write(5 * cs, snapshot(1 << 30 if missing_table else 0, int(missing_table), 0))
    image.truncate(64 * cs)
    path = forged.path_of(work, "image.qcow2")
    image.save(path)
    return path


@pytest.mark.parametrize("order, missing_table", [(6, True), (6, False), (4, True)])
def test_nothing_moves_behind_the_end_of_a_file_cut_off(order, missing_table, work):
    """With 64 bits a count there has no place, nor would it get one; 16 bits leave room enough."""
    path = cut_off(work, order=order, missing_table=missing_table)
    found = check(path).found()
    assert found == {"l2-shared": 1, "data-past-end": 1} | (
        {"table-past-end": 1} if missing_table else {})
    answer = check(path, "all")
    assert answer.code == 2 and check(path).found() == found, answer.describe()


def test_nothing_moves_to_where_something_is_missing(work):
    path = cut_off(work, order=4, missing_table=False)
    answer = check(path, "all")
    assert answer.code == 0, answer.describe()
    with open(path, "rb") as f:
        f.seek(4 * 512)
        moved, missing = struct.unpack(">2Q", f.read(16))
        assert (moved & ~COPIED) // 512 > 64 and missing & ~COPIED in (0, 1, 64 * 512)
        f.seek(64 * 512)
        assert not any(f.read(512))


def test_a_file_of_an_exbibyte_of_holes(work):
    """As large as the file system lets it be; tables far apart, L1 and snapshots in holes."""
    cs, size = 512, 1 << 43
    image = Sparse()
    far = [size // 64 * i // cs * cs for i in range(1, 64)]
    image.write(0, header(cluster_bits=9, size=64 * 32768, l1=(1 << 22, far[0]), reftable=(
        16384, far[1])))
    image.write(far[0], words(*far[2:]))
    image.write(far[1] + 8000 * 512, words(far[2], far[3], far[3], far[4]))
    for off in far[2:]:
        image.write(off, words(*far[::2], *far[1::2]))
    image.truncate(size)
    judge(work, image)


@pytest.mark.parametrize("order", [0, *sample("widths", [4, 6], 1)])
def test_refcount_tables_that_point_at_one_block(order, work):
    cs = 1 << 21
    image = Sparse()
    image.write(0, header(cluster_bits=21, size=1 << 30, l1=(1, 3 * cs), reftable=(4, cs * 8),
                          order=order))
    image.write(8 * cs, words(*[2 * cs] * (1 << 20)))
    image.write(2 * cs, b"\xff" * cs)
    image.truncate(12 * cs)
    assert judge(work, image).found()["refblock-shared"] == 1 << 20


def test_a_full_sparse_table_of_scattered_clusters(work):
    """Each entry points far from every other: memory follows the entries, not the offsets."""
    cs, tables = 65536, 128
    rng = random.Random(5)
    image = Sparse()
    size = 1 << 43
    image.write(0, header(cluster_bits=16, size=tables << 29, l1=(tables, 3 * cs),
                          reftable=(1, cs)))
    image.write(cs, words(2 * cs))
    image.write(3 * cs, words(*[(16 + i) * cs | COPIED for i in range(tables)]))
    for i in range(tables):
        image.write((16 + i) * cs, words(*[rng.randrange(1 << 27) * cs for _ in range(8192)]))
    image.truncate(size)
    judge(work, image)
