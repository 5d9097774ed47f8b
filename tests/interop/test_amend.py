# SPDX-License-Identifier: MIT
"""
qcow2 amend beside qemu-img amend: the same changes of copies of one image. Afterwards both tools
say the same of it, it reads as before, is clean, and takes writes.
"""
import shutil

import pytest

from lib.run import command, qemu_img, qemu_io, tool
from lib.seed import seeded
from lib.writing import is_clean, same_bytes

WRITES = ["write -P 1 0 300k", "write -P 2 1M 64k", "write -z 64k 64k", "write -z -u 1M 200k",
          "write -c -P 3 2M 64k"]


def make(work, options="", backing=False):
    if backing:
        (work / "base.raw").write_bytes(b"b" * (3 << 20))
    words = ["-b", work / "base.raw", "-F", "raw"] if backing else []
    qemu_img("create", "-q", "-f", "qcow2", *(["-o", options] if options else []), *words,
             "a.qcow2", "4M", cwd=work).succeeded()
    write(work, "a.qcow2")


def write(work, name, commands=WRITES):
    r = qemu_io(name, *commands, cwd=work).succeeded()
    assert "failed" not in r.out, r.describe()


def facts(work, name):
    info = qemu_img("info", "--output=json", name, cwd=work).json()
    return {k: v for k, v in info.items() if k not in ("filename", "actual-size", "children")}


def raw(work, name, out, *words):
    qemu_img("convert", "-O", "raw", *words, name, out, cwd=work).succeeded()
    return work / out


def amend_both(work, *options):
    """Ours becomes a.qcow2, theirs b.qcow2; the same exit codes, and the same image."""
    shutil.copy(work / "a.qcow2", work / "b.qcow2")
    before = raw(work, "a.qcow2", "before")
    for o in options:
        theirs = qemu_img("amend", "-o", o, "b.qcow2", cwd=work)
        ours = tool("amend", "-o", o, "a.qcow2", cwd=work)
        assert ours.code == theirs.code, ours.describe() + theirs.describe()
    assert facts(work, "a.qcow2") == facts(work, "b.qcow2")
    if not any("size=" in o for o in options):
        same_bytes(before, raw(work, "a.qcow2", "after"))
    is_clean("a.qcow2", cwd=work)
    same_bytes(raw(work, "a.qcow2", "ours"), raw(work, "b.qcow2", "theirs"))


CHANGES = [
    ("", ["compat=0.10", "compat=1.1", "compat=v2"]),
    ("", ["refcount_bits=8", "refcount_bits=64", "refcount_bits=16", "compat=0.10"]),
    ("cluster_size=512", ["refcount_bits=64", "refcount_bits=4"]),
    ("cluster_size=4k,refcount_bits=1", ["compat=0.10,refcount_bits=16"]),
    ("compat=0.10", ["compat=1.1,refcount_bits=32,lazy_refcounts=on", "lazy_refcounts=off"]),
    ("", ["size=8M", "compat=0.10,size=9M"]),
    # what is refused
    ("", ["refcount_bits=3", "size=1000", "cluster_size=4k", "backing_file=x", "data_file=x",
          "data_file_raw=on", "compat=0.11", "preallocation=full"]),
    ("compat=0.10", ["lazy_refcounts=on", "refcount_bits=8"]),
    ("refcount_bits=8", ["compat=0.10"]),
    ("extended_l2=on", ["compat=0.10"]),
    ("compression_type=zstd", ["compat=0.10"]),
]


@pytest.mark.parametrize("options,changes", CHANGES)
def test_it_becomes_what_qemu_makes_of_it(work, options, changes):
    make(work, options)
    amend_both(work, *changes)


@pytest.mark.parametrize("options", ["", "cluster_size=4k"])
def test_zeros_over_a_backing_file_stay_zeros_in_version_2(work, options):
    make(work, options, backing=True)
    amend_both(work, "compat=0.10", "compat=1.1")
    write(work, "a.qcow2", ["read -P 0 64k 64k", "read -P 0 1M 200k", "write -P 9 64k 1k"])
    is_clean("a.qcow2", cwd=work)


def test_snapshots_read_as_before(work):
    make(work, backing=True)
    qemu_img("snapshot", "-c", "s", "a.qcow2", cwd=work).succeeded()
    write(work, "a.qcow2", ["write -P 4 100k 200k", "write -z 256k 64k", "write -z 2M 1M"])
    kept = raw(work, "a.qcow2", "kept", "-l", "s")
    amend_both(work, "compat=0.10", "compat=1.1", "refcount_bits=4")
    same_bytes(kept, raw(work, "a.qcow2", "again", "-l", "s"))
    r = tool("amend", "-o", "refcount_bits=1", "a.qcow2", cwd=work)
    assert r.code == 1 and "more than refcounts of 1 bits can hold" in r.err, r.describe()
    is_clean("a.qcow2", cwd=work)


def test_a_data_file_gets_another_name(work):
    qemu_img("create", "-q", "-f", "qcow2", "-o", "data_file=one,data_file_raw=on", "a.qcow2", "1M",
             cwd=work).succeeded()
    write(work, "a.qcow2", ["write -P 7 0 64k"])
    assert tool("amend", "-o", "compat=0.10", "a.qcow2", cwd=work).code == 1
    tool("amend", "-o", "data_file_raw=off,data_file=two", "a.qcow2", cwd=work).succeeded()
    (work / "one").rename(work / "two")
    data = qemu_img("info", "--output=json", "a.qcow2", cwd=work).json()["format-specific"]["data"]
    assert data["data-file"] == "two" and data["data-file-raw"] is False
    write(work, "a.qcow2", ["read -P 7 0 64k"])
    is_clean("a.qcow2", cwd=work)


def test_unknown_extensions_survive(work):
    make(work, "", backing=True)
    b = bytearray((work / "a.qcow2").read_bytes())
    end = b.index(b"\x68\x03\xf8\x57")  # before the feature names, which are written anew
    rest = bytes(b[end:4096])
    b[end:4096] = (b"\x12\x34\x56\x78\0\0\0\x08keptkept" + rest)[:4096 - end]
    b[8:16] = (int.from_bytes(b[8:16], "big") + 16).to_bytes(8, "big")
    (work / "a.qcow2").write_bytes(b)
    amend_both(work, "compat=0.10", "compat=1.1,lazy_refcounts=on")
    assert b"keptkept" in (work / "a.qcow2").read_bytes()[:4096]


def test_help_needs_no_image_and_a_disk_of_no_size_is_refused(work):
    r = tool("amend", "-o", "help").succeeded()
    assert "lazy_refcounts=<bool (on/off)> - " in r.out and "cluster_size" not in r.out
    make(work)
    before = (work / "a.qcow2").read_bytes()
    tool("amend", "--shrink", "-o", "size=0", "a.qcow2", cwd=work).refused("must be positive")
    assert (work / "a.qcow2").read_bytes() == before


def test_bitmaps_are_dropped_only_if_that_is_asked_for(work):
    make(work)
    for name in ("one", "two"):
        qemu_img("bitmap", "--add", "a.qcow2", name, cwd=work).succeeded()
    write(work, "a.qcow2", ["write -P 6 3M 100k"])
    before = (work / "a.qcow2").read_bytes()
    tool("amend", "-o", "compat=0.10", "a.qcow2", cwd=work).refused(
        "dropping those of the image (2) wasn't asked for")
    r = tool("amend", "--dry-run", "--force", "-o", "compat=0.10", "a.qcow2", cwd=work).succeeded()
    assert "2 bitmaps would be lost: version 2 can't have them.\n" in r.out, r.describe()
    assert (work / "a.qcow2").read_bytes() == before
    disk = raw(work, "a.qcow2", "before")
    tool("amend", "--force", "-o", "compat=0.10", "a.qcow2", cwd=work).succeeded()
    same_bytes(disk, raw(work, "a.qcow2", "after"))
    is_clean("a.qcow2", cwd=work)
    assert "bitmaps" not in str(facts(work, "a.qcow2"))


def test_bitmaps_that_are_out_of_date_are_no_loss(work):
    make(work)
    qemu_img("bitmap", "--add", "a.qcow2", "one", cwd=work).succeeded()
    b = bytearray((work / "a.qcow2").read_bytes())
    b[88:96] = bytes(8)  # the autoclear bits: some program has written without knowing bitmaps
    (work / "a.qcow2").write_bytes(b)
    tool("amend", "-o", "compat=0.10", "a.qcow2", cwd=work).succeeded()
    r = qemu_img("info", "a.qcow2", cwd=work).succeeded()
    assert r.err == "" and "compat: 0.10" in r.out, r.describe()


def test_a_smaller_size_has_to_be_asked_for(work):
    make(work)
    before = (work / "a.qcow2").read_bytes()
    r = tool("amend", "-o", "size=1M", "a.qcow2", cwd=work)
    assert r.code == 1 and "making it smaller wasn't asked for" in r.err, r.describe()
    r = tool("amend", "--dry-run", "--shrink", "-o", "compat=0.10", "a.qcow2", cwd=work).succeeded()
    assert r.out == ("64 KiB of zeros would be written: version 2 can't say that they are.\n"
                     "256 KiB that are known to be zeros would become unallocated.\n"), r.describe()
    assert (work / "a.qcow2").read_bytes() == before
    tool("amend", "--shrink", "-o", "size=1M", "a.qcow2", cwd=work).succeeded()
    assert facts(work, "a.qcow2")["virtual-size"] == 1 << 20


def step(rng, work, name, i):
    what = rng.choice(["amend", "amend", "write", "snapshot"])
    if what == "amend":
        o = rng.choice(["compat=0.10", "compat=1.1", "refcount_bits=16", "refcount_bits=32",
                        "refcount_bits=8", "lazy_refcounts=on", "lazy_refcounts=off"])
        # qemu-img calls a cluster of zeros that a snapshot has too its own when they become data
        run = tool if o == "compat=0.10" or rng.random() < .6 else qemu_img
        return run("amend", "-o", o, name, cwd=work).ended_well()
    if what == "snapshot":
        return tool("snapshot", "-c", f"s{i}", name, cwd=work).ended_well()
    kind = rng.choice(["-P 5", "-z", "-z -u", "-c -P 6"])
    off, n = rng.randrange(60) * 64, rng.randrange(1, 4) * 64
    n = 64 if "-c" in kind else min(n, 4096 - off)
    # qemu-io doesn't compress what is there already
    return command("qemu-io", "-f", "qcow2", "-c", f"write {kind} {off}k {n}k", name,
                   cwd=work).ended_well()


def test_changes_in_any_order_by_both_tools(work):
    rng = seeded("amend")
    make(work, "", backing=True)
    for i in range(12):
        before = raw(work, "a.qcow2", "before")
        r = step(rng, work, "a.qcow2", i)
        if "amend" in r.argv:
            same_bytes(before, raw(work, "a.qcow2", "after"))
        check = qemu_img("check", "a.qcow2", cwd=work)
        assert check.code == 0, f"step {i}\n" + r.describe() + check.describe()
