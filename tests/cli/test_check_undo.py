# SPDX-License-Identifier: MIT
"""A repair saves what it overwrites, and can be taken back byte for byte."""
import os
import subprocess

import pytest

from lib import forged
from lib.checking import Patcher
from lib.qcow2img import COPIED
from lib.run import qemu_img, tool
from lib.victims import victim


def leaks(p):
    for _ in range(3):
        off = -(-p.built.file.size // p.cs) * p.cs
        p.built.patch(off, b"x" * p.cs)
        p.refcount(off, 1)


def no_block(p):
    """The refcounts are written anew: the file grows."""
    p.word(p.reftable(0), 0)


def flags(p):
    p.flip(p.l1(0), COPIED)
    p.flip(72, 1)


DAMAGES = {"leaks": leaks, "no block": no_block, "flags": flags}


def make(work, rng, damage):
    image = victim(rng, refcount_order=4)
    p = Patcher(image, image.build())
    damage(p)
    p.built.save(forged.path_of(work, "image.qcow2"))
    return (work / "image.qcow2").read_bytes()


@pytest.mark.parametrize("name", DAMAGES)
def test_a_repair_can_be_taken_back(name, work, rng):
    before = make(work, rng, DAMAGES[name])
    repaired = tool("check", "-r", "all", "--keep-undo", "image.qcow2", cwd=work).succeeded()
    assert "--undo-apply brings it back" in repaired.err
    assert (work / "image.qcow2").read_bytes() != before
    qemu_img("check", "image.qcow2", cwd=work).succeeded()
    tool("check", "--undo-apply", "image.qcow2.undo", cwd=work).succeeded()
    assert (work / "image.qcow2").read_bytes() == before
    assert os.listdir(work) == ["image.qcow2"]


def test_nothing_stays_beside_a_repaired_image(work, rng):
    make(work, rng, leaks)
    result = tool("check", "-r", "all", "image.qcow2", cwd=work).succeeded()
    assert "undo" not in result.err + result.out
    assert os.listdir(work) == ["image.qcow2"]
    # Nor is one made where there is nothing to repair.
    tool("check", "-r", "all", "--keep-undo", "image.qcow2", cwd=work).succeeded()
    assert os.listdir(work) == ["image.qcow2"]


def test_it_stays_where_something_is_left(work, rng):
    before = make(work, rng, lambda p: (leaks(p), p.word(p.reftable(0), 0),
                                        p.word(p.built.where["snapshots"], 512)))
    result = tool("check", "-r", "all", "image.qcow2", cwd=work).succeeded(2)
    assert "image.qcow2.undo" in result.err
    tool("check", "--undo-apply", "image.qcow2.undo", "image.qcow2", cwd=work).succeeded()
    assert (work / "image.qcow2").read_bytes() == before


def test_a_name_of_ones_own_and_none(work, rng):
    before = make(work, rng, leaks)
    tool("check", "-r", "leaks", "--undo", "other", "--keep-undo", "-q", "image.qcow2",
         cwd=work).succeeded()
    assert sorted(os.listdir(work)) == ["image.qcow2", "other"]
    tool("check", "--undo-apply", "other", cwd=work).succeeded(1)
    tool("check", "--undo-apply", "other", "--keep-undo", "image.qcow2", cwd=work).succeeded()
    assert (work / "image.qcow2").read_bytes() == before
    assert sorted(os.listdir(work)) == ["image.qcow2", "other"]
    os.remove(work / "other")
    tool("check", "-r", "all", "--no-undo", "image.qcow2", cwd=work).succeeded()
    assert os.listdir(work) == ["image.qcow2"]


def test_one_that_is_there_is_not_overwritten(work, rng):
    before = make(work, rng, leaks)
    (work / "image.qcow2.undo").write_bytes(b"mine")
    result = tool("check", "-r", "all", "image.qcow2", cwd=work).succeeded(1)
    assert "is there already" in result.err
    assert (work / "image.qcow2.undo").read_bytes() == b"mine"
    assert (work / "image.qcow2").read_bytes() == before


def test_it_is_the_undo_of_one_image_in_one_state(work, rng):
    make(work, rng, leaks)
    tool("check", "-r", "all", "--keep-undo", "image.qcow2", cwd=work).succeeded()
    other = victim(rng, refcount_order=4).build()
    other.save(forged.path_of(work, "other.qcow2"))
    tool("check", "--undo-apply", "image.qcow2.undo", "other.qcow2", cwd=work).refused(
        "is of another image")
    qemu_img("snapshot", "-c", "new", "image.qcow2", cwd=work).succeeded()
    tool("check", "--undo-apply", "image.qcow2.undo", cwd=work).refused(
        "changed since")
    tool("check", "--undo-apply", "image.qcow2", "image.qcow2", cwd=work).refused(
        "no undo file")
    qemu_img("check", "image.qcow2", cwd=work).succeeded()


def test_an_image_in_use_is_not_brought_back(work, rng):
    make(work, rng, leaks)
    tool("check", "-r", "all", "--keep-undo", "image.qcow2", cwd=work).succeeded()
    holder = subprocess.Popen(["qemu-io", "-f", "qcow2", "image.qcow2"], cwd=work, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.read(1)
        tool("check", "--undo-apply", "image.qcow2.undo", cwd=work).refused("in use")
    finally:
        holder.stdin.close()
        holder.wait(timeout=20)


@pytest.mark.parametrize("words", [
    ["--undo-apply", "x.undo", "-r", "all"], ["--undo", "a", "--no-undo", "x"],
    ["--undo-apply", "x"], ["--undo-apply", "x.undo", "a", "b"]])
def test_wrong_usage(words, work):
    assert "Try 'qcow2 check --help'" in tool("check", *words, cwd=work).succeeded(1).err
