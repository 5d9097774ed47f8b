# SPDX-License-Identifier: MIT
"""
Convert on file systems that share blocks: the data of the copy are the source's own blocks, and
where that can't be, they are copied.
"""
import errno
import os
import subprocess

import pytest

from lib.reflink import MAKE, free_bytes, mounted, own_bytes, shared_bytes
from lib.run import command, qemu_img, tool
from lib.sparse import same_files
from lib.writing import is_clean

K, M = 1 << 10, 1 << 20
DATA = 9 * M  # of the disk, in long pieces
# Metadata and ends, which aren't shared.
TARGETS = {"raw": 8 * K, "qcow2": 8 * 64 * K, "qcow2 -o cluster_size=4k": 64 * K,
           "qcow2 -o cluster_size=256k": 8 * 256 * K, "qcow2 -o extended_l2=on": 8 * 64 * K}
SOME = ["raw", "qcow2"]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Both file systems, by name."""
    makers = {kind: mounted(kind, tmp_path_factory.mktemp(kind)) for kind in MAKE}
    yield {kind: next(m) for kind, m in makers.items()}
    for m in makers.values():
        m.close()


@pytest.fixture(params=sorted(MAKE))
def place(request, both):
    """An empty folder on one of them."""
    folder = both[request.param] / "t"
    folder.mkdir()
    yield folder
    command("rm", "-r", folder).succeeded()


def make_disk(path, rng, end=24 * M + 1536):
    """Data at odd places, zeros that are data, holes, and an end inside of a block."""
    with open(path, "wb") as f:
        for off, length in ((0, 4 * M), (6 * M + 12 * K, 4 * M), (15 * M, 256 * K),
                            (16 * M + 4 * K, 4 * K), (end - 768 * K, 768 * K)):
            f.seek(off)
            f.write(rng.randbytes(length))
        f.seek(20 * M)
        f.write(bytes(M))
        f.truncate(end)
    return path


def convert(*words, **how):
    return tool("convert", *words, **how).succeeded()


def same_disk(a, fmt_a, b, fmt_b):
    done = qemu_img("compare", "-f", fmt_a, "-F", fmt_b, a, b)
    assert done.out == "Images are identical.\n", done.describe()
    if fmt_b == "qcow2":
        is_clean(b)


def in_every_way(source, fmt, folder, *words, targets=TARGETS):
    """Yields what it is converted to, which was found to be sound, and what it needs of its own."""
    for target in targets:
        out = folder / "out"
        convert("-f", fmt, "-O", *target.split(), *words, source, out)
        same_disk(source, fmt, out, target.split()[0])
        yield TARGETS[target], out
        out.unlink()


def test_every_direction_shares_the_data(place, rng):
    disk = make_disk(place / "disk", rng)
    image = place / "disk.qcow2"
    before = free_bytes(place)
    convert("-f", "raw", "-O", "qcow2", disk, image)
    for source, fmt in ((disk, "raw"), (image, "qcow2")):
        for own, out in in_every_way(source, fmt, place):
            assert own_bytes(out) <= own and shared_bytes(out) >= DATA
    assert before - free_bytes(place) < 2 * M


def test_many_threads_make_the_same_file(place, rng):
    disk = make_disk(place / "disk", rng)
    for threads in "1", "4":
        convert("-f", "raw", "-O", "qcow2", "-m", threads, disk, place / threads)
    same_files(place / "1", place / "4")


@pytest.mark.parametrize("raw", ["", ",data_file_raw=on"])
def test_data_files_share_too(raw, place, rng):
    disk = make_disk(place / "disk", rng)
    image, data = place / "i", place / "d"
    convert("-f", "raw", "-O", "qcow2", "-o", f"data_file={data}{raw}", disk, image)
    same_disk(disk, "raw", image, "qcow2")
    assert own_bytes(data) <= 64 * K and shared_bytes(data) >= DATA
    convert("-O", "raw", image, place / "back")
    same_disk(disk, "raw", place / "back", "raw")
    assert own_bytes(place / "back") <= TARGETS["raw"]


@pytest.mark.parametrize("place", ["xfs"], indirect=True)
@pytest.mark.parametrize("words", [["--reflink=never"], ["-S", "4k"], ["--salvage"],
                                   ["-o", "preallocation=falloc"], ["-c", "-O", "qcow2"]])
def test_what_asks_for_a_copy_gets_one(words, place, rng):
    disk = make_disk(place / "disk", rng)
    convert("-f", "raw", *words, disk, place / "out")
    same_disk(disk, "raw", place / "out", "qcow2" if "-c" in words else "raw")
    assert shared_bytes(place / "out") == 0
    if "falloc" not in words[-1]:  # zeros that nobody has looked at are data
        assert own_bytes(place / "out") < DATA + 512 * K


def test_caches_kernel_copies_and_dd(place, rng):
    disk = make_disk(place / "disk", rng)
    ways = [["convert", "-f", "raw", "-t", "none", "-T", "none", disk],
            ["convert", "-f", "raw", "-t", "writethrough", disk],
            ["convert", "-f", "raw", "-C", disk],
            ["convert", "-f", "raw", "-r", "1G", disk],
            ["convert", "-f", "raw", "--reflink=always", disk],
            ["dd", "-f", "raw", f"if={disk}", "bs=4k"]]
    for way in ways:
        out = place / "out"
        tool(*way, f"of={out}" if way[0] == "dd" else out).succeeded()
        same_disk(disk, "raw", out, "raw")
        assert own_bytes(out) <= 8 * K, way
        out.unlink()
    tool("dd", "-f", "raw", f"if={disk}", f"of={place / 'out'}", "bs=512", "skip=3").succeeded()
    with open(disk, "rb") as a, open(place / "out", "rb") as b:
        assert a.read()[3 * 512:] == b.read()


def test_what_is_compressed_is_copied(place, rng):
    """And what is beside it is shared. Zeros inside of it are left out, as ever."""
    image = place / "i"
    qemu_img("create", "-q", "-f", "qcow2", image, "16M").succeeded()
    for off in range(0, 8 * M, 2 * M):
        tool("io", "-c", f"write -P 7 {off} 1M", "-c", f"write -P 8 {off + M} 4k", "-c",
             f"write -c -P 9 {off + M + 128 * K} 64k", image).succeeded()
    tool("io", "-c", "write -c -P 0 12M 64k", image).succeeded()
    for own, out in in_every_way(image, "qcow2", place):
        assert shared_bytes(out) >= 4 * M
        assert own_bytes(out) <= own + 4 * 64 * K


def test_a_chain(place, both, rng):
    disk = make_disk(place / "disk", rng)
    convert("-f", "raw", "-O", "qcow2", disk, place / "base")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", place / "top").succeeded()
    tool("io", "-c", "write -P 5 1M 2M", "-c", "write -P 6 8M 10k", "-c", "write -z 3M 64k",
         place / "top").succeeded()
    for own, out in in_every_way(place / "top", "qcow2", place, targets=SOME):
        assert own_bytes(out) <= own and shared_bytes(out) >= DATA - M
    convert("-O", "qcow2", "-B", "base", "-F", "qcow2", place / "top", place / "again")
    same_disk(place / "top", "qcow2", place / "again", "qcow2")
    assert shared_bytes(place / "again") >= 2 * M
    other = next(f for f in both.values() if f != place.parent) / "base"
    command("cp", place / "base", other).succeeded()
    tool("rebase", "-u", "-b", other, "-F", "qcow2", place / "top").succeeded()
    for _, out in in_every_way(place / "top", "qcow2", place, targets=SOME):
        assert shared_bytes(out) == 0
    tool("convert", "--reflink=always", place / "top", place / "x").refused("share blocks")
    other.unlink()


def test_a_commit_into_a_raw_file(place, rng):
    base, top = make_disk(place / "base", rng), place / "top"
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", top).succeeded()
    tool("io", "-c", "write -P 5 1M 2M", "-c", "write -P 6 8M 10k", "-c", "write -z 3M 100k", "-c",
         "write -c -P 7 12M 64k", "-c", "write -P 8 24M 1k", top).succeeded()
    convert("-O", "raw", "--reflink=never", top, place / "whole")
    own = own_bytes(base)
    tool("commit", "-d", top).succeeded()  # it keeps its data
    same_files(place / "whole", base)
    assert shared_bytes(base) >= 2 * M + 64 * K
    assert own_bytes(base) <= own - 2 * M
    is_clean(top)


def test_a_file_that_exists(place, rng):
    """Holes become holes, or zeros, in place of what was there."""
    disk = make_disk(place / "disk", rng)
    (place / "old").write_bytes(b"\xff" * 26 * M)
    convert("-n", "-f", "raw", "-O", "raw", disk, place / "old")
    old = (place / "old").read_bytes()
    assert old[:24 * M + 1536] == disk.read_bytes() and old[24 * M + 1536:].strip(b"\xff") == b""
    assert shared_bytes(place / "old") >= DATA
    qemu_img("create", "-q", "-f", "qcow2", place / "empty", "30M").succeeded()
    convert("-n", "-f", "raw", "-O", "qcow2", disk, place / "empty")
    assert shared_bytes(place / "empty") >= DATA
    is_clean(place / "empty")
    tool("convert", "-n", "-f", "raw", "-O", "qcow2", "--reflink=always", disk,
         place / "empty").refused("isn't empty")


@pytest.mark.parametrize("place", ["xfs"], indirect=True)
def test_small_clusters_are_copied(place, rng):
    disk = make_disk(place / "disk", rng)
    small = place / "small"
    convert("-f", "raw", "-O", "qcow2", "-o", "cluster_size=2k", disk, small)
    same_disk(disk, "raw", small, "qcow2")
    assert shared_bytes(small) == 0
    tool("convert", "--reflink=always", small, place / "x").refused("small", "4096", "share")
    assert not (place / "x").exists()


def test_another_file_system(both, rng, work):
    """Nothing can be shared: a copy, or with `always` a refusal that costs nothing."""
    disk = make_disk(both["xfs"] / "disk", rng)
    for _, out in in_every_way(disk, "raw", both["btrfs"], targets=SOME):
        assert shared_bytes(out) == 0
    out = both["btrfs"] / "out"
    for fmt in "raw", "qcow2":
        words = ["convert", "--reflink=always", "-f", "raw", "-O", fmt, disk, out]
        tool(*words).refused(str(disk), str(out), "share blocks", os.strerror(errno.EXDEV))
        assert not out.exists()
        out.write_bytes(b"precious")
        tool(*words, "--force").refused("share blocks")
        assert out.read_bytes() == b"precious"
        out.unlink()
    disk.unlink()


def test_a_file_that_must_not_share(both, rng):
    """btrfs: a file without checksums takes no blocks of one that has them."""
    folder = both["btrfs"] / "nocow"
    folder.mkdir()
    disk = make_disk(folder / "disk", rng)
    command("chattr", "+C", folder).succeeded()
    for _, out in in_every_way(disk, "raw", folder, targets=SOME):
        assert shared_bytes(out) == 0
    tool("convert", "--reflink=always", "-f", "raw", disk, folder / "out").refused("share blocks")
    command("rm", "-r", folder).succeeded()


def test_no_space_leaves_nothing_behind(place, rng):
    disk = make_disk(place / "disk", rng)
    fill = place / "fill"
    size = free_bytes(place)
    while size >= 4 * K:
        done = subprocess.run(["fallocate", "-o", str(fill.stat().st_size if fill.exists() else 0),
                               "-l", str(size), fill], capture_output=True)
        size = size if done.returncode == 0 else size // 2
    for words in (["-O", "qcow2", "-o", "preallocation=metadata,cluster_size=4k"],
                  ["-O", "qcow2", "-o", "cluster_size=2M"], ["--reflink=never"]):
        tool("convert", "-f", "raw", *words, disk, place / "out").refused("No space left")
        assert sorted(os.listdir(place)) == ["disk", "fill"]


@pytest.mark.parametrize("words,said", [
    (["--reflink=always", "-c", "-O", "qcow2"], "-c"), (["--reflink=always", "-S", "4k"], "-S"),
    (["--reflink=always", "--salvage"], "--salvage"), (["--reflink=never", "-C"], "-C"),
    (["--reflink=perhaps"], "perhaps")])
def test_what_doesnt_go_together(words, said, work):
    (work / "disk").write_bytes(bytes(4096))
    done = tool("convert", "-f", "raw", *words, "disk", "out", cwd=work)
    done.ended_well()
    assert done.code == 1 and said in done.err.splitlines()[0], done.describe()
    assert not (work / "out").exists()
