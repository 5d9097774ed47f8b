# SPDX-License-Identifier: MIT
"""
Images made by the real tools over their whole matrix of options are read by us as by them: the
same bytes, the same map, the same information, as JSON and as text.
"""
import os

import pytest

from lib import made
from lib.reading import same_info, same_map
from lib.run import qemu_img, tool
from lib.seed import covering, long_run, sample, seeded
from lib.sparse import same_files

CLUSTER_SIZES = [1 << bits for bits in range(9, 22)]
AXES = {
    "cluster_size": sorted({512, 65536, 2 << 20, *sample("cluster size", CLUSTER_SIZES, 2)}),
    "compat": ["0.10", "1.1"],
    "refcount_bits": sorted({1, 16, 64, *sample("width", [2, 4, 8, 32], 2)}),
    "compressed": ["no", "zlib", "zstd"],
    "backing": ["no", "raw shorter", "raw equal", "raw longer", "qcow2 shorter", "qcow2 equal",
                "qcow2 longer"],
    "extended_l2": ["off", "on"],
    "data_file": ["no", "yes", "raw"],
    "snapshots": [0, 1, 3],
    "preallocation": ["off", "metadata", "full"],
}


def allowed(row):
    if row["compat"] == "0.10":
        if (row["refcount_bits"], row["extended_l2"], row["data_file"]) != (16, "off", "no"):
            return False
        if row["compressed"] == "zstd":
            return False
    if row["extended_l2"] == "on" and row["cluster_size"] < 16384:
        return False
    if row["data_file"] != "no" and (row["snapshots"] or row["compressed"] != "no"):
        return False
    if row["data_file"] == "raw" and row["backing"] != "no":
        return False
    # Each snapshot is a reference more, and so is each compressed cluster in a host cluster.
    if row["snapshots"] >= 1 << row["refcount_bits"] - 1:
        return False
    if row["snapshots"] and row["compressed"] != "no" and row["refcount_bits"] < 8:
        return False
    # Nothing is left to be compressed, and a backing file would be hidden.
    if row["preallocation"] != "off":
        if row["compressed"] != "no" or row["backing"] != "no" and row["extended_l2"] == "off":
            return False
    return True


ROWS = covering("read matrix", AXES, allowed)


def row_name(row):
    return ",".join(str(v).replace(" ", "-") for v in row.values())


def backing_file(row, size, rng, work):
    if row["backing"] == "no":
        return {}
    kind, relation = row["backing"].split()
    size = {"shorter": size * 5 // 8, "equal": size, "longer": size * 11 // 8}[relation]
    size = max(512, size // 512 * 512)
    path = os.path.join(str(work), f"base.{kind}")
    if kind == "raw":
        made.raw_file(path, size, rng)
    else:
        cs = rng.choice([512, 4096, 65536])
        made.create(path, size, options={"cluster_size": cs})
        made.Scribbler(path, size, cs, rng, work).scribble(8, packed=3)
    return {"backing": os.path.basename(path), "backing_format": kind}


def make(row, rng, work):
    cs = row["cluster_size"]
    size = max(cs * rng.randrange(20, 30), 512 * rng.randrange(1500, 3000))
    size += 512 * rng.randrange(1, max(2, cs // 512))
    options = {k: row[k] for k in ("cluster_size", "compat", "refcount_bits", "extended_l2",
                                   "preallocation")}
    if row["compressed"] == "zstd":
        options["compression_type"] = "zstd"
    if row["data_file"] != "no":
        options["data_file"] = os.path.join(str(work), "data.raw")
        options["data_file_raw"] = "on" if row["data_file"] == "raw" else "off"
    path = made.create(work / "image.qcow2", size, options=options,
                       **backing_file(row, size, rng, work))
    scribbler = made.Scribbler(path, size, cs, rng, work)
    packed = 0 if row["compressed"] == "no" else 5
    for n in range(row["snapshots"]):
        scribbler.scribble(6, packed)
        made.snapshot(path, f"snap {n}")
    scribbler.scribble(12, packed)
    return path


def same_bytes(path, work, ours=(), theirs=None):
    outs = [str(work / "ours.raw"), str(work / "theirs.raw")]
    tool("convert", "-f", "qcow2", *ours, "-O", "raw", path, outs[0]).succeeded()
    qemu_img("convert", "-f", "qcow2", *(ours if theirs is None else theirs), "-O", "raw", path,
             outs[1]).succeeded()
    same_files(outs[1], outs[0])
    for out in outs:
        os.unlink(out)


@pytest.mark.parametrize("row", ROWS, ids=row_name)
def test_reads_what_qemu_wrote(row, work, rng):
    path = make(row, rng, work)
    same_bytes(path, work)
    same_map(path)
    same_info(path)
    for n in range(row["snapshots"]):
        ident = f"snapshot.id={n + 1}"
        word = rng.choice([f"snap {n}", str(n + 1), ident, f"snapshot.name=snap {n}"])
        same_bytes(path, work, ours=("-l", word), theirs=("-l", ident))


@pytest.mark.parametrize("row", sample("map windows", ROWS, 8), ids=row_name)
def test_maps_any_window(row, work, rng):
    path = make(row, rng, work)
    size = qemu_img("info", "--output=json", path).json()["virtual-size"]
    for _ in range(20 if long_run() else 4):
        start = rng.randrange(size)
        if rng.random() < 0.7:
            start = start // 512 * 512
        words = ["-s", str(start)] if rng.random() < 0.8 else []
        words += ["-l", str(rng.randrange(1, size))] if rng.random() < 0.8 else []
        same_map(path, *words)


def test_the_matrix_covers_every_value():
    for axis, values in AXES.items():
        assert {row[axis] for row in ROWS} == set(values)
    assert seeded("x").random() == seeded("x").random()
