# SPDX-License-Identifier: MIT
"""
qcow2 commit beside qemu-img commit: the same chain twice, one committed by each. Every file that is
still of use reads the same afterwards, both are clean, and `info` tells the same of them.
"""
import os

import pytest

from lib.chains import KIB, KINDS, copies, facts, make_chain, raw_of
from lib.run import qemu_img, qemu_io, tool
from lib.seed import sample
from lib.writing import is_clean, same_bytes

MIB = 1 << 20
TOPS = sorted(KINDS)
BASES = ["raw", *TOPS]


def commit_both(work, *words, code=0):
    theirs, ours = copies(work, "theirs", "ours")
    a = qemu_img("commit", *words, cwd=theirs)
    b = tool("commit", *words, cwd=ours).ended_well()
    assert a.code == b.code == code, a.describe() + b.describe()
    assert a.out == b.out, a.describe() + b.describe()
    return theirs, ours


def same_chain(theirs, ours, before, *names):
    """The last is the top, which reads as before."""
    for name in names:
        fmt = "raw" if facts(ours, name)["format"] == "raw" else "qcow2"
        same_bytes(raw_of(theirs, name, "a.out", fmt), raw_of(ours, name, "b.out", fmt))
        assert facts(theirs, name) == facts(ours, name)
        if fmt == "qcow2":
            is_clean(name, cwd=ours)
    same_bytes(before, os.path.join(ours, "b.out"))


def pairs():
    every = [(top, base) for top in TOPS for base in BASES]
    # each kind of top and each kind of base at least once in a few runs
    return sample("kinds to commit", every, 5)


@pytest.mark.parametrize("top,base", pairs())
def test_into_the_backing_file(top, base, work, rng):
    size = rng.choice([3 * MIB, MIB + 512, 2 * MIB + 5 * KIB])
    base_size = rng.choice([size, MIB // 2 + 512, 5 * MIB])
    names = make_chain(work, rng, [base, top], [base_size, size])
    before = raw_of(work, "layer1", "before")
    theirs, ours = commit_both(work, "layer1")
    same_chain(theirs, ours, before, *names)
    # it is empty, and as short as theirs
    left = qemu_img("map", "--output=json", "layer1", cwd=ours).json()
    assert all(e["depth"] > 0 or not e["present"] for e in left), left
    length = [os.path.getsize(os.path.join(folder, "layer1")) for folder in (theirs, ours)]
    # but for the table in a version 2 image, which ends where its last entry does
    assert length[1] < length[0] + 512, length


@pytest.mark.parametrize("base", [0, 1])
def test_into_a_layer_further_down(base, work, rng):
    # version 2 can't grow over a longer file, as the real tool says too
    kinds = [rng.choice(BASES), *(rng.choice([k for k in TOPS if k != "v2"]) for _ in range(3))]
    sizes = [rng.choice([MIB, 2 * MIB, 3 * MIB + 512]) for _ in kinds]
    make_chain(work, rng, kinds, sizes)
    before = raw_of(work, "layer3", "before")
    target = f"layer{base}"
    theirs, ours = commit_both(work, "-b", target, "layer3")
    # the layers in between are of no use any more: they must only be as they were
    for name in ("layer2", "layer3"):
        same_bytes(os.path.join(work, name), os.path.join(ours, name))
    same_chain(theirs, ours, before, target, "layer3")


def test_the_image_is_kept_on_request(work, rng):
    make_chain(work, rng, ["plain", "4k-zstd"], [MIB, 2 * MIB])
    before = raw_of(work, "layer1", "before")
    theirs, ours = commit_both(work, "-d", "-q", "layer1")
    same_bytes(os.path.join(work, "layer1"), os.path.join(ours, "layer1"))
    same_chain(theirs, ours, before, "layer0", "layer1")


@pytest.mark.parametrize("kind", sample("kinds with snapshots", ["plain", "v2", "lazy", "small",
                                                                "subclusters"], 3))
def test_snapshots_of_both_survive(kind, work, rng):
    names = make_chain(work, rng, [kind, kind], [MIB, MIB])
    for name in names:
        qemu_img("snapshot", "-c", "old", name, cwd=work).succeeded()
        qemu_io(name, f"write -P 9 {rng.randrange(900) * KIB} 40k", cwd=work)
    olds = [raw_of(work, name, name + ".before") for name in names]
    for name in names:
        qemu_img("convert", "-l", "old", "-O", "raw", name, name + ".old", cwd=work).succeeded()
    theirs, ours = commit_both(work, "layer1")
    same_chain(theirs, ours, olds[1], *names)
    qemu_img("convert", "-l", "old", "-O", "raw", "layer0", "old", cwd=ours).succeeded()
    same_bytes(os.path.join(work, "layer0.old"), os.path.join(ours, "old"))


def test_zeros_of_the_image_hide_what_the_base_has(work):
    qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "base", "1M", cwd=work)
    qemu_io("base", "write -P 1 0 1M", cwd=work)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top", "1M", cwd=work)
    qemu_io("top", "write -z 64k 128k", "write -z 512k 4k", cwd=work)
    before = raw_of(work, "top", "before")
    tool("commit", "top", cwd=work).succeeded()
    same_bytes(before, raw_of(work, "base", "after"))


def test_zeros_over_zeros_leave_the_base_as_it_is(work):
    """Both maps say it: nothing is read or written, and tables that aren't there stay away."""
    qemu_img("create", "-q", "-f", "qcow2", "base", "4G", cwd=work).succeeded()
    qemu_io("base", "write -P 1 0 64k", "write -z 3G 1M", cwd=work)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top", cwd=work)
    qemu_io("top", "write -z 1G 1G", "write -z 3G 1M", cwd=work)
    before = (work / "base").read_bytes()
    tool("commit", "top", cwd=work).succeeded()
    assert (work / "base").read_bytes() == before


def test_a_layer_in_between_that_is_shorter(work):
    """Behind its end the disk is zero, whatever the base has there."""
    for name, size, below in (("a", "4M", ()), ("b", "1M", ("-b", "a", "-F", "qcow2")),
                              ("c", "4M", ("-b", "b", "-F", "qcow2"))):
        qemu_img("create", "-q", "-f", "qcow2", *below, name, size, cwd=work).succeeded()
    qemu_io("a", "write -P 1 0 4M", cwd=work)
    qemu_io("c", "write -P 3 3M 64k", cwd=work)
    before = raw_of(work, "c", "before")
    tool("commit", "-b", "a", "c", cwd=work).succeeded()
    same_bytes(before, raw_of(work, "a", "after"))
