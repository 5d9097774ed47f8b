# SPDX-License-Identifier: MIT
"""
qcow2 rebase beside qemu-img rebase: the same image on the same two chains. Afterwards it reads as
it did, stands on the new chain, is clean, and is told of in the same words.
"""
import os
import shutil

import pytest

from lib.chains import KINDS, copies, facts, make_chain, raw_of
from lib.run import qemu_img, qemu_io, tool
from lib.seed import sample
from lib.writing import is_clean, same_bytes

MIB = 1 << 20
KIND_NAMES = sorted(KINDS)


def rebase_both(work, *words):
    theirs, ours = copies(work, "theirs", "ours")
    a = qemu_img("rebase", *words, cwd=theirs).succeeded()
    b = tool("rebase", *words, cwd=ours).succeeded()
    assert a.out == b.out and b.err == "", a.describe() + b.describe()
    return theirs, ours


def same_result(theirs, ours, before, name):
    same_bytes(before, raw_of(ours, name, "after"))
    # the real tool calls an image without backing file one with an empty format sometimes
    assert facts(theirs, name) == facts(ours, name)
    is_clean(name, cwd=ours)


def allocated(folder, name):
    e = qemu_img("map", "--output=json", name, cwd=folder).json()
    return sum(x["length"] for x in e if x["depth"] == 0 and x["present"] and not x["zero"])


@pytest.mark.parametrize("kind", sample("kinds to rebase", KIND_NAMES, 3))
def test_onto_another_chain(kind, work, rng):
    """A common base below both chains, and layers of different sizes."""
    def size():
        return rng.choice([MIB, 2 * MIB, MIB + 512, 3 * MIB])

    common = make_chain(work, rng, [rng.choice(["raw", "plain", "v2"])], [2 * MIB])[0]
    below = (common, facts(work, common)["format"])
    old = make_chain(work, rng, [rng.choice(KIND_NAMES), kind], [size(), size()], 1, below)
    new = make_chain(work, rng, [rng.choice(KIND_NAMES)] * rng.randrange(1, 3),
                     [size(), size()], 5, below)
    before = raw_of(work, old[-1], "before")
    theirs, ours = rebase_both(work, "-b", new[-1], "-F", "qcow2", old[-1])
    same_result(theirs, ours, before, old[-1])


@pytest.mark.parametrize("kind", sample("kinds to flatten", KIND_NAMES, 2))
def test_to_no_backing_file(kind, work, rng):
    make_chain(work, rng, ["raw", "plain", kind], [MIB, 2 * MIB, 3 * MIB])
    before = raw_of(work, "layer2", "before")
    theirs, ours = rebase_both(work, "-b", "", "layer2")
    same_result(theirs, ours, before, "layer2")
    assert "backing-filename" not in facts(ours, "layer2")


def test_to_a_layer_further_down_and_back(work, rng):
    make_chain(work, rng, ["raw", "plain", "4k-zstd"], [MIB, 2 * MIB, 2 * MIB])
    before = raw_of(work, "layer2", "before")
    theirs, ours = rebase_both(work, "-b", "layer0", "-F", "raw", "layer2")
    same_result(theirs, ours, before, "layer2")
    assert allocated(ours, "layer2") <= allocated(theirs, "layer2")
    tool("rebase", "-b", "layer1", "-F", "qcow2", "layer2", cwd=ours).succeeded()
    same_bytes(before, raw_of(ours, "layer2", "again"))


def test_the_name_alone(work, rng):
    make_chain(work, rng, ["plain", "small"], [MIB, MIB])
    before = raw_of(work, "layer1", "before")
    shutil.move(work / "layer0", work / "moved")
    theirs, ours = rebase_both(work, "-u", "-b", "moved", "-F", "qcow2", "layer1")
    same_result(theirs, ours, before, "layer1")
    # nothing but the header cluster has changed
    with open(work / "layer1", "rb") as a, open(os.path.join(ours, "layer1"), "rb") as b:
        assert a.read()[512:] == b.read()[512:]


def test_names_of_any_length_and_none_without_looking(work):
    for size, longest in (("4096", 1023), ("1024", 500), ("65536", 1023)):
        qemu_img("create", "-q", "-f", "qcow2", "-o", f"cluster_size={size}", "top", "1M",
                 cwd=work).succeeded()
        for length in (1, longest, 30, 470, longest, 2):
            name = "n" * length
            tool("rebase", "-u", "-b", name, "-F", "raw", "top", cwd=work).succeeded()
            info = qemu_img("info", "--output=json", "top", cwd=work).json()
            assert info["backing-filename"] == name and info["backing-filename-format"] == "raw"
        tool("rebase", "-u", "-b", "", "top", cwd=work).succeeded()
        assert "backing-filename" not in facts(work, "top")
        is_clean("top", cwd=work)


def test_what_is_copied_is_compressed_on_request(work, rng):
    for kind in ("plain", "subclusters"):
        make_chain(work, rng, ["plain", kind], [2 * MIB, 2 * MIB])
        before = raw_of(work, "layer1", "before")
        plain = shutil.copy(work / "layer1", work / "plain")
        tool("rebase", "-b", "", plain, cwd=work).succeeded()
        tool("rebase", "-c", "-b", "", "layer1", cwd=work).succeeded()
        same_bytes(before, raw_of(work, "layer1", "after"))
        is_clean("layer1", cwd=work)
        assert os.path.getsize(work / "layer1") < os.path.getsize(plain)


def test_what_both_chains_share_is_neither_read_nor_copied(work):
    """What the shared layer has can't be read: nobody notices, but the real program does."""
    qemu_img("create", "-q", "-f", "qcow2", "base", "8M", cwd=work).succeeded()
    qemu_io("base", *[f"write -c -P 5 {n}M 64k" for n in range(8)], cwd=work)
    for name in ("old", "new"):
        qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", name, cwd=work)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "old", "-F", "qcow2", "top", cwd=work)
    data = (work / "base").read_bytes()  # compressed clusters come behind header and tables
    (work / "base").write_bytes(data[:0x50000] + b"\xff" * (len(data) - 0x50000))
    assert "Input/output error" in tool("io", "-r", "-c", "read 3M 64k", "top", cwd=work).out
    shutil.copy(work / "top", work / "theirs")
    assert qemu_img("rebase", "-b", "new", "-F", "qcow2", "theirs", cwd=work).code != 0
    tool("rebase", "-b", "new", "-F", "qcow2", "top", cwd=work).succeeded()
    assert allocated(work, "top") == 0
    is_clean("top", cwd=work)


def test_zeros_that_the_old_chain_has_stay_zeros(work):
    for name, pattern in (("old", "-z"), ("new", "-P 1")):
        qemu_img("create", "-q", "-f", "qcow2", name, "4M", cwd=work).succeeded()
        qemu_io(name, f"write {pattern} 0 2M", cwd=work)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "old", "-F", "qcow2", "top", cwd=work)
    tool("rebase", "-b", "new", "-F", "qcow2", "top", cwd=work).succeeded()
    e = qemu_img("map", "--output=json", "top", cwd=work).json()
    assert (e[0]["length"], e[0]["zero"], e[0]["data"], e[0]["depth"]) == (2 * MIB, True, False, 0)
    assert os.path.getsize(work / "top") < MIB


def similar_disks(rng, block, size):
    """
    Two raw disks, and which blocks of them aren't the same: none of a stretch, all of it, some.
    Where they aren't, one byte may be all; no block is zero.
    """
    old = bytearray(rng.randbytes(size))
    for at in range(0, size, 512):
        old[at] = 1
    new, differ, at = bytearray(old), set(), 0
    while at < size:
        end = min(size, at + rng.choice([4, 40, 256, 300, 700, 1100]) * 1024)
        share = rng.choice([0, 0, 0.02, 0.5, 1])
        for i in range(-(-at // block), -(-end // block)):
            if rng.random() >= share:
                continue
            first, last = i * block, min((i + 1) * block, size)
            differ.add(i)
            if rng.random() < 0.5:
                new[rng.choice([first, last - 1, rng.randrange(first, last)])] ^= 0x40
            else:
                new[first:last] = rng.randbytes(last - first)
                new[first] = old[first] ^ 2
        at = end
    return old, new, differ


def blocks_of_its_own(folder, name, block):
    e = qemu_img("map", "--output=json", name, cwd=folder).json()
    return {i for x in e if x["depth"] == 0 and x["data"]
            for i in range(x["start"] // block, -(-(x["start"] + x["length"]) // block))}


@pytest.mark.parametrize("options,block,words", [
    ("cluster_size=64k", 65536, []),
    ("cluster_size=64k", 65536, ["-t", "none", "-T", "none"]),
    ("cluster_size=64k", 65536, ["-c"]),
    ("cluster_size=512", 512, []),
    ("cluster_size=2M", 2 * MIB, []),
    ("cluster_size=2M,extended_l2=on", 65536, [])])
def test_what_differs_and_nothing_else_is_copied(options, block, words, work, rng):
    size = 7 * MIB + rng.randrange(1, 200) * 512
    old, new, differ = similar_disks(rng, block, size)
    end = size - rng.choice([0, 512, MIB + 512])  # behind it are zeros
    differ |= set(range(end // block, -(-size // block))) if end < size else set()
    (work / "raw").write_bytes(old)
    (work / "new").write_bytes(new[:end])
    how = rng.choice([[], ["-c"], ["-c", "-o", "cluster_size=2M"]])
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *how, "raw", "old", cwd=work).succeeded()
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, "-b", "old", "-F", "qcow2", "top",
             cwd=work).succeeded()
    tool("rebase", *words, "-b", "new", "-F", "raw", "top", cwd=work).succeeded()
    assert blocks_of_its_own(work, "top", block) == differ
    is_clean("top", cwd=work)
    qemu_img("convert", "-O", "raw", "top", "after", cwd=work).succeeded()
    assert (work / "after").read_bytes() == old
