# SPDX-License-Identifier: MIT
"""
What `qcow2 convert -O qcow2` writes, with every option and from every kind of source: the real
tool reads the same bytes and finds nothing to complain about, and the options are as asked.
"""
import os

import pytest

from lib import disks, forged, made
from lib.qcow2img import Image
from lib.run import qemu_img
from lib.seed import covering, sample
from lib.writing import (convert, features, is_clean, qemu_reads, same_bytes, seven_zip_extracts,
                         we_read)

KIB, MIB = 1 << 10, 1 << 20
CLUSTER_SIZES = [1 << bits for bits in range(9, 22)]
AXES = {
    "cluster_size": sorted({512, 65536, 2 << 20, *sample("cluster size", CLUSTER_SIZES, 3)}),
    "compat": ["0.10", "v3"],
    "refcount_bits": sorted({1, 16, 64, *sample("width", [2, 4, 8, 32], 1)}),
    "compress": ["no", "zlib", "zstd"],
    "extended_l2": ["off", "on"],
    "lazy_refcounts": ["off", "on"],
    "data_file": ["no", "yes", "raw"],
    "sparse": ["", "0", "64k"],
    "threads": ["", "1", "5"],
    "disordered": [False, True],
    "source": ["raw", "qcow2", "compressed", "subclusters", "chain", "snapshot"],
}


def allowed(row):
    if row["compat"] == "0.10":
        if (row["refcount_bits"], row["extended_l2"], row["data_file"]) != (16, "off", "no"):
            return False
        if row["lazy_refcounts"] == "on" or row["compress"] == "zstd":
            return False
    if row["extended_l2"] == "on" and row["cluster_size"] < 16384:
        return False
    return row["data_file"] == "no" or row["compress"] == "no"


# Half of the options are drawn for each row of the other half: the whole product is too big.
LOOKS = ("cluster_size", "compat", "refcount_bits", "compress", "extended_l2", "data_file")
WAYS = ("lazy_refcounts", "sparse", "threads", "disordered", "source")


def rows():
    plain = {"lazy_refcounts": "off"}
    looks = covering("looks", {k: AXES[k] for k in LOOKS}, lambda r: allowed({**plain, **r}))
    ways = covering("ways", {k: AXES[k] for k in WAYS})
    n = max(len(looks), len(ways))
    for i in range(n):
        row = {**looks[i % len(looks)], **ways[i % len(ways)]}
        if row["compat"] == "0.10":
            row["lazy_refcounts"] = "off"
        assert allowed(row)
        yield row


def row_name(row):
    return ",".join(str(v) for v in row.values())


def make_source(kind, work, rng):
    """(words for convert, file) of one source, and a raw file with what it reads as."""
    raw = str(work / "truth.raw")
    size = 3 * MIB + 512 * rng.randrange(5000)
    if kind == "raw":
        disks.random_disk(raw, size, rng)
        return ["-f", "raw"], raw, raw
    path, words = str(work / "source.qcow2"), []
    image = forged.mixture(rng, cluster_bits=rng.choice([12, 14, 16]), size=size,
                           extended_l2=False, packing="across")
    if kind == "subclusters":
        image = forged.mixture(rng, cluster_bits=14, size=size, extended_l2=True)
    elif kind == "chain":
        base = image
        base.save(str(work / "base.qcow2"))
        image = Image(size + MIB, backing=base, backing_format="qcow2")
        forged.fill(rng, image, forged.spread(rng, image, 9))
    elif kind == "compressed":
        for i in range(size >> image.cluster_bits):
            image.compressed(i, forged.squeezable(rng, image.cs))
    truth = image.truth()
    if kind == "snapshot":
        image.snapshot("1", "then")
        forged.fill(rng, image, forged.spread(rng, image, 9))
        words = ["-l", "then"]
    image.save(path)
    truth.save(raw)
    return words, path, raw


def options_of(row, work):
    options = {k: row[k] for k in ("cluster_size", "compat", "refcount_bits", "extended_l2",
                                   "lazy_refcounts")}
    if row["compress"] != "no" and row["compat"] != "0.10":
        options["compression_type"] = row["compress"]
    if row["data_file"] != "no":
        options["data_file"] = str(work / "data.raw")
        options["data_file_raw"] = "on" if row["data_file"] == "raw" else "off"
    words = [w for k, v in options.items() for w in ("-o", f"{k}={v}")]
    words += ["-c"] if row["compress"] != "no" else []
    words += ["-S", row["sparse"]] if row["sparse"] else []
    words += ["-m", row["threads"]] if row["threads"] else []
    return words + (["-W"] if row["disordered"] else [])


def has_the_options(path, row):
    _, found = features(path)
    assert found["cluster-size"] == row["cluster_size"]
    assert found["compat"] == ("0.10" if row["compat"] == "0.10" else "1.1")
    assert found["refcount-bits"] == row["refcount_bits"]
    if row["compat"] != "0.10":
        assert found["extended-l2"] == (row["extended_l2"] == "on")
        assert found["lazy-refcounts"] == (row["lazy_refcounts"] == "on")
        wanted = row["compress"] if row["compress"] != "no" else "zlib"
        assert found["compression-type"] == wanted
    assert bool(found.get("data-file-raw")) == (row["data_file"] == "raw")
    assert not found.get("corrupt")


@pytest.mark.parametrize("row", list(rows()), ids=row_name)
def test_convert_with_every_option(row, work, rng):
    words, source, raw = make_source(row["source"], work, rng)
    target = str(work / "target.qcow2")
    convert(*words, "-O", "qcow2", *options_of(row, work), source, target)
    is_clean(target)
    has_the_options(target, row)
    qemu_reads(target, raw, work)
    we_read(target, raw, work)
    if row["data_file"] == "raw":
        # Whole clusters may be there, but what is behind the disk's end must be zeros.
        content = (work / "data.raw").read_bytes()
        size = os.path.getsize(raw)
        with open(raw, "rb") as f:
            assert content[:size] == f.read() and not any(content[size:])
    if row["extended_l2"] == "off" and row["compress"] != "zstd" and row["data_file"] == "no":
        seven_zip_extracts(target, raw, work)


@pytest.mark.parametrize("source", ["raw", "compressed", "chain"])
@pytest.mark.parametrize("cluster_size", [16384, 2 << 20])
def test_subclusters_of_a_raw_data_file(cluster_size, source, work, rng):
    words, path, raw = make_source(source, work, rng)
    target = str(work / "target.qcow2")
    convert(*words, "-O", "qcow2", "-o", f"cluster_size={cluster_size},extended_l2=on",
            "-o", f"data_file={work / 'data.raw'},data_file_raw=on", path, target)
    is_clean(target)
    qemu_reads(target, raw, work)
    we_read(target, raw, work)


@pytest.mark.parametrize("preallocation", ["off", "metadata", "falloc", "full"])
@pytest.mark.parametrize("cluster_size", [512, 65536, 2 << 20])
def test_convert_into_preallocated_images(cluster_size, preallocation, work, rng):
    raw, target = str(work / "a.raw"), str(work / "b.qcow2")
    disks.random_disk(raw, 5 * MIB + 512, rng)
    convert("-f", "raw", "-O", "qcow2", "-o", f"preallocation={preallocation}",
            "-o", f"cluster_size={cluster_size}", raw, target)
    is_clean(target)
    qemu_reads(target, raw, work)
    if preallocation in ("falloc", "full"):
        assert os.stat(target).st_blocks * 512 >= 5 * MIB


@pytest.mark.parametrize("compress", [[], ["-c"], ["-c", "-o", "compression_type=zstd"]])
@pytest.mark.parametrize("cluster_size", [512, 4096, 65536, 2 << 20])
def test_the_result_does_not_depend_on_threads(cluster_size, compress, work, rng):
    raw = str(work / "a.raw")
    disks.random_disk(raw, max(2 * MIB, 9 * cluster_size), rng, pieces=40)
    targets = []
    for words in (["-m", "1"], ["-m", "8"], ["-m", "8"], ["-m", "3", "-W"], []):
        targets.append(str(work / f"target{len(targets)}.qcow2"))
        convert("-f", "raw", "-O", "qcow2", "-o", f"cluster_size={cluster_size}", *compress,
                *words, raw, targets[-1])
    for target in targets[1:]:
        same_bytes(targets[0], target)
    is_clean(targets[0])
    qemu_reads(targets[0], raw, work)


def test_several_sources_are_joined(work, rng):
    raws, sources = [], []
    for n, size in enumerate((512, MIB + 512, 65536, 3 * MIB)):
        raws.append(str(work / f"{n}.raw"))
        disks.random_disk(raws[-1], size, rng)
        sources.append(made.create(work / f"{n}.qcow2", size))
        qemu_img("convert", "-n", "-f", "raw", "-O", "qcow2", raws[-1], sources[-1]).succeeded()
    joined = str(work / "joined.raw")
    with open(joined, "wb") as out:
        for raw in raws:
            out.write(open(raw, "rb").read())
    for n, (fmt, words) in enumerate((("raw", []), ("qcow2", ["-c"]))):
        target = str(work / f"target{n}.qcow2")
        convert("-f", fmt, "-O", "qcow2", *words, *(raws if fmt == "raw" else sources), target)
        is_clean(target)
        qemu_reads(target, joined, work)
    convert("-f", "qcow2", "-O", "raw", *sources, work / "target.raw")
    same_bytes(joined, work / "target.raw")


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 65535, 65536, 65537])
def test_sizes_at_the_borders(size, work):
    raw, target = str(work / "a.raw"), str(work / "b.qcow2")
    with open(raw, "wb") as f:
        f.write(b"\x5a" * size)
    for words in ([], ["-c"]):
        convert("--force", "-f", "raw", "-O", "qcow2", *words, raw, target)
        is_clean(target)
        assert features(target)[0] == -(-size // 512) * 512
        out = str(work / "out.raw")
        qemu_img("convert", "-O", "raw", target, out).succeeded()
        with open(out, "rb") as f:
            assert f.read() == b"\x5a" * size + bytes(-size % 512)
