# SPDX-License-Identifier: MIT
"""
`convert -B`: a target on a backing file reads as qemu-img's target does, whatever the source is and
whichever of the three is the longest.
"""
import os

import pytest

from lib import disks, made
from lib.run import qemu_img, tool
from lib.sparse import same_files
from lib.writing import convert, features, is_clean, we_read

MIB = 1 << 20
SIZES = {"shorter": 2 * MIB + 512 * 9, "equal": 4 * MIB, "longer": 5 * MIB + 512 * 77}


def make_base(work, rng, kind):
    path = str(work / f"base.{kind}")
    if kind == "raw":
        made.raw_file(path, 4 * MIB, rng, pieces=40)
    else:
        made.create(path, 4 * MIB, options={"cluster_size": 4096})
        made.Scribbler(path, 4 * MIB, 4096, rng, work).scribble(30, packed=9)
    return os.path.basename(path)


def make_source(work, rng, kind, size, base, base_kind):
    path = str(work / "source")
    if kind == "raw":
        disks.random_disk(path, size, rng)
        return path
    if kind == "overlay":
        made.create(path, size, backing=base, backing_format=base_kind)
    elif kind == "two layers":
        middle = made.create(work / "middle", size, backing=base, backing_format=base_kind)
        made.Scribbler(middle, size, 65536, rng, work).scribble(4)
        made.create(path, size, backing="middle", backing_format="qcow2")
    elif kind == "subclusters":
        made.create(path, size, backing=base, backing_format=base_kind,
                    options={"extended_l2": "on", "cluster_size": 16384})
    else:
        made.create(path, size)
    cs = 16384 if kind == "subclusters" else 65536
    made.Scribbler(path, size, cs, rng, work).scribble(8, packed=0 if kind == "alone" else 4)
    return path


@pytest.mark.parametrize("base_kind", ["raw", "qcow2"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["raw", "alone", "overlay", "subclusters"])
def test_on_a_backing_file(kind, size, base_kind, work, rng):
    base = make_base(work, rng, base_kind)
    source = make_source(work, rng, kind, SIZES[size], base, base_kind)
    words = rng.choice([[], ["-c"], ["-o", "extended_l2=on"], ["-o", "cluster_size=512"]])
    words = ["-O", "qcow2", "-B", base, "-F", base_kind, *words, source]
    ours, theirs = str(work / "ours.qcow2"), str(work / "theirs.qcow2")
    convert(*words, ours)
    qemu_img("convert", *words, theirs).succeeded()
    is_clean(ours)
    assert features(ours)[0] == features(theirs)[0]
    truth = str(work / "truth.raw")
    qemu_img("convert", "-O", "raw", theirs, truth).succeeded()
    we_read(ours, truth, work)
    out = str(work / "out.raw")
    qemu_img("convert", "-O", "raw", ours, out).succeeded()
    same_files(truth, out)


def test_on_another_backing_file_than_the_sources_direct_one(work, rng):
    """Only what the top layer has is copied, so the layer between is lost: as in qemu-img."""
    base = make_base(work, rng, "qcow2")
    source = make_source(work, rng, "two layers", 4 * MIB, base, "qcow2")
    words = ["-O", "qcow2", "-B", base, "-F", "qcow2", source]
    ours, theirs = str(work / "ours.qcow2"), str(work / "theirs.qcow2")
    convert(*words, ours)
    qemu_img("convert", *words, theirs).succeeded()
    for target in (ours, theirs):
        qemu_img("convert", "-O", "raw", target, target + ".raw").succeeded()
    same_files(theirs + ".raw", ours + ".raw")


def test_a_backing_file_needs_its_format_and_must_be_there(work, rng):
    source = str(work / "source")
    disks.random_disk(source, MIB, rng)
    base = make_base(work, rng, "raw")
    target = work / "target"
    for words in (["-B", base], ["-B", "nothing", "-F", "raw"], ["-B", base, "-F", "vmdk"],
                  ["-B", "source/x", "-F", "raw"]):
        result = tool("convert", "-f", "raw", "-O", "qcow2", *words, source, target).ended_well()
        assert result.code == 1 and result.err.startswith("qcow2: "), result.describe()
        assert not target.exists()
