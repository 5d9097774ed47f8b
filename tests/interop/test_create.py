# SPDX-License-Identifier: MIT
"""
New images, byte for byte what qemu-img makes: each option alone, and a seeded matrix of all of
them together; the same refusals; the same length, and the same space on the host.
"""
import contextlib
import dataclasses
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from lib import run, seed, sparse

# Arguments of create; length and SHA-256 of the whole image. Made with qemu-img 7.2.
VECTORS = """
0
  196608 1f0e416c971c2d5effe7d6d021965e76f4424f2bfb5431ba6d62a95a977475bb
1M
  196616 0e7db0d4ad0a3b83d343a88d5991fc5024f7a9ec21c1d0e5f15261ebc3fd587e
1G
  196624 3b107e52f63fab104395d42dbb0d08b9ef9cb3f10b1e32fe083674dba258e7f8
10G
  196768 23a1edeac969b498874484637169fd08de4a7f18f438594fee7103236ba000db
1T
  212992 aff06a546faabbf67123b750dfd8d49e0406d576730050a229c094a45ed40ec3
8T
  327680 5a8ab3adec03ea20bb5de2ea3a525d78a98b153b670014ae23b62ed8a6f90496
-o compat=0.10 1G
  196624 a0bf5e822daabc85ba852c35754526545d80a440353e1ade4b0bbc7de43dd680
-o cluster_size=512 1G
  264704 594d00c2bc2ac9b2ca7f8e6753fea94e64b9c74b6123fcb86d1b6d8b1b961277
-o cluster_size=1k 1G
  68608 5b553baf560428de5b4db1b0a12a64fca5de3d8111eb4d528830ca0b957125a3
-o cluster_size=2k 1G
  22528 170605b0d49a4ebadde7f6250e84e407dda06a0a5cecf9513ae8987b47dadca9
-o cluster_size=4k 1G
  16384 f506678875a30e88c2a68e801dad3606c9f9595f9581df27e4a594bc91b2c3d2
-o cluster_size=8k 1G
  25600 4fd37d11f3520a474b5c0be6a7ea51df2bb40fd605b6be18131e35332793b4f2
-o cluster_size=16k 1G
  49408 be177f996c2c931c45e422bd47d0b4e4d5d39f9dc5f895108d7d41daab5a296a
-o cluster_size=32k 1G
  98368 dd75cc35beac61f9e09e5f633ebd35ac59408f0fe49a679c0c240708a7a02daf
-o cluster_size=128k 1G
  393224 74f7b24f4fc5f3062b068cb29fb86573f514df35a6422edf3194dab587232b68
-o cluster_size=256k 1G
  786440 ef0833bb6c8ae5eb75f3342ca479cff7511672b285561049e661bb16148d8a9d
-o cluster_size=512k 1G
  1572872 21d23aafee756b9a8ba868ddd91afdff3bc5b6209d5d3e5f0748b103fcd7a0c8
-o cluster_size=1M 1G
  3145736 fae68d7f399a246b56c3525180fe402118e25fbd84c330007aa776a6d8990a77
-o cluster_size=2M 1G
  6291464 ea52fa7f6a7da0b72f601378ee4d3dfabc1de6c87349e3e97f6e2162a4eea7c3
-o refcount_bits=1 1G
  196624 fd525f70d46d50edd59ecebbe8fb2061da7da55dbff1578e1525373faf0c1106
-o refcount_bits=2 1G
  196624 e0b52011f28ea8874fe00a0c52fe17f40ead7dbd5140e139b0a48770332f7abb
-o refcount_bits=4 1G
  196624 865bbb65d4fdd98a33a1c6d4bcb6ccffba1a9aa5cdbdeea8d4f13ed1b587c7f1
-o refcount_bits=8 1G
  196624 f0c387822ba7b8396eb88ffd613e9cdf3f3b7fe911bfd01ca82d4a2bb7fdaa8c
-o refcount_bits=32 1G
  196624 93f78117b9f25bfcf3271134e563517dbba103d479793b4c680f37dd93bc2ea1
-o refcount_bits=64 1G
  196624 dcb36f13f493f5ffc85b74239fb90e2a97c209c2c465984f29ca2872f9bfd748
-o lazy_refcounts=on 1G
  196624 2d3a04084b3ab4f8c8bbaae811afdbf67b402be66aa3e43a0e7c9ff58109a6c3
-o compression_type=zstd 1G
  196624 15e9c838b509c222a726aef07f884a5e411a835bff2c63bad0984c9072c5db29
-o extended_l2=on 1G
  196640 e7c140770471dae50e4f013ffc826fd977958afa032ccb55efb985fdccf3ca84
-o extended_l2=on,cluster_size=16k 1G
  49664 f8e01a21692febbca33ecf9776df2b33c4871336bad66705b197fb0fc944cb20
-o data_file=d.raw 1G
  196624 769f0c8c9f2a712abacbcae0a78ed7e52aa4bf35a8b095c1fa9841d02f484b83
-o data_file=d.raw,data_file_raw=on 1G
  393216 fff6b77d3eee5655ce9706aaf275e81f9b0f5b461e0b63a73cdf510e2732618f
-u -b base.img -F raw 1G
  196624 d3fcf0d54425fca212d11fd5d31701ecd1aed1e60ac83edcfb028ca184abf541
-u -b base.img -F raw -o compat=0.10 1G
  196624 7cf017e99630b6144c8dd9e348ea44a14bd4e1e3ba71358d2ca8838a89f853a1
-o preallocation=metadata 64M
  67436544 d736a1b6a0145f8e0132f938f70620f0cf698cb77ad441a5f5207f92ac1d24cc
-o preallocation=falloc 64M
  67436544 8f09f587403803f3fdbd027eebe6a3c5af34eb374d0e5e74cc8e2a5167640d45
-o preallocation=metadata,extended_l2=on 64M
  67436544 159cf05b605fa48edf2a89bba4f54e2a80813f0027a3b768f1482e1302d40612
-o preallocation=full,cluster_size=2M 64M
  77594624 bdb41d2753991a0da020fc8d1bf57fdae2f8c6831949d033392f97c4de9db5d4
"""

MODES = ["off", "metadata", "falloc", "full"]
CLUSTER_BITS = range(9, 22)
K, M, G, T = 1 << 10, 1 << 20, 1 << 30, 1 << 40


def vectors():
    lines = VECTORS.strip().splitlines()
    return [(args, *rest.split()) for args, rest in zip(lines[::2], lines[1::2])]


def words(options):
    """{'cluster_size': 512} as -o cluster_size=512"""
    text = ",".join(f"{k}={v}" for k, v in options.items())
    return ["-o", text] if text else []


def refused(result, *expected):
    """Like Result.refused, but wrong usage adds a line that names the help."""
    lines = [line for line in result.err.splitlines() if not line.startswith("Try '")]
    return dataclasses.replace(result, err="\n".join(lines)).refused(*expected)


class Pair:
    """Folders of the two tools; both are called in their own, so that names in images are equal."""

    def __init__(self, work):
        self.ours, self.theirs = work / "ours", work / "theirs"
        self.ours.mkdir()
        self.theirs.mkdir()

    def create(self, *args):
        """Both, with the same arguments; the results."""
        return (run.tool("create", "-q", *args, cwd=self.ours),
                run.qemu_img("create", "-q", *args, cwd=self.theirs))

    def same(self, name, blocks=True):
        ours, theirs = self.ours / name, self.theirs / name
        sparse.same_files(theirs, ours)
        if blocks:
            mine, other = ours.stat().st_blocks, theirs.stat().st_blocks
            # the file system's own trees of extents count, and depend on where it found room
            assert abs(mine - other) <= 16 + other // 1000, f"space of {name}: {mine}, {other}"

    def both_make(self, *args, names=("disk",)):
        ours, theirs = self.create(*args)
        theirs.succeeded()
        ours.succeeded()
        for name in names:
            self.same(name)

    def both_refuse(self, *args):
        ours, theirs = self.create(*args)
        theirs.succeeded(code=1)
        refused(ours)
        assert not os.listdir(self.ours), "something was left"

    def clear(self):
        for folder in (self.ours, self.theirs):
            for path in folder.iterdir():
                path.unlink()


@pytest.fixture
def pair(work):
    """In memory if there is room: qemu-img waits for the disk after each table."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > 2 * G:
        with tempfile.TemporaryDirectory(prefix="qcow2-test-", dir=memory) as folder:
            yield Pair(Path(folder))
    else:
        yield Pair(work)


@pytest.mark.parametrize("args,length,digest", vectors(), ids=[v[0] for v in vectors()])
def test_known_images(work, args, length, digest):
    options, size = args.split()[:-1], args.split()[-1]
    run.tool("create", "-q", "-f", "qcow2", *options, "disk", size, cwd=work).succeeded()
    content = (work / "disk").read_bytes()
    assert len(content) == int(length)
    assert hashlib.sha256(content).hexdigest() == digest


# ---- a matrix of everything ----

def max_size(options):
    bits = int(options["cluster_size"]).bit_length() - 1
    return min(1 << (2 * bits + (18 if options["extended_l2"] == "on" else 19)), 1 << 62)


def random_size(rng, options):
    """Any magnitude, within what both tools make in a moment."""
    cluster = options["cluster_size"]
    # qemu-img takes long for the refcounts of a large L1 table in tiny clusters
    limit = max_size(options) if cluster > K else max_size(options) >> 4
    if options["preallocation"] == "off" and options.get("data_file_raw") != "on":
        edges = [0, 1, 511, 512, 513, cluster, cluster * cluster // 8, cluster * cluster // 8 + 1,
                 limit - 1, limit]
        magnitude = limit.bit_length() - 1
    else:
        edges = [0, 1, 513, cluster - 1, cluster, cluster + 1, 65 * cluster]
        magnitude = cluster.bit_length() + (17 if seed.long_run() else 13)
        if options["preallocation"] in ("falloc", "full"):
            magnitude = min(magnitude, 26)
    if rng.random() < 0.2:
        return rng.choice(edges)
    return min(int(2 ** rng.uniform(0, magnitude)), limit)


def random_options(rng):
    version = rng.choice(["v2", "v3", "v3", "v3"])
    v3 = version == "v3"
    bits = rng.choice([9, 9, *CLUSTER_BITS])
    options = {
        "compat": version,
        "cluster_size": 1 << bits,
        "refcount_bits": rng.choice([1, 2, 4, 8, 16, 32, 64]) if v3 else 16,
        "extended_l2": "on" if v3 and bits >= 14 and rng.random() < 0.4 else "off",
        "preallocation": rng.choice(MODES),
        "compression_type": "zstd" if v3 and rng.random() < 0.3 else "zlib",
        "lazy_refcounts": "on" if v3 and rng.random() < 0.3 else "off",
    }
    if v3 and rng.random() < 0.25:
        options["data_file"] = rng.choice(["d.raw", "d" * 100])
        options["data_file_raw"] = rng.choice(["on", "off"])
    hides = options["preallocation"] != "off" and options["extended_l2"] == "off"
    if options.get("data_file_raw") != "on" and not hides and rng.random() < 0.3:
        options["backing_file"] = "b" * rng.choice([1, 7, 8, 9, 100, 376, 377, 1023])
        options["backing_fmt"] = rng.choice(["raw", "qcow2", "vmdk"])
    return options


def really_preallocates(options, size):
    """
    Where we differ: with a data file and a size that doesn't end with a (sub)cluster, qemu-img
    leaves the data file of falloc and full a hole.
    """
    unit = options["cluster_size"] // (32 if options["extended_l2"] == "on" else 1)
    return "data_file" in options and options["preallocation"] in ("falloc", "full") and size % unit


@pytest.mark.parametrize("group", range(40 if seed.long_run() else 5))
def test_any_options(pair, rng, group):
    made = 0
    for _ in range(40):
        options = random_options(rng)
        size = random_size(rng, options)
        ours, theirs = pair.create("-f", "qcow2", "-u", *words(options), "disk", size)
        assert theirs.ended_well().code in (0, 1)
        assert ours.ended_well().code == theirs.code, ours.describe() + theirs.describe()
        if theirs.code == 0:
            made += 1
            pair.same("disk")
            if "data_file" in options:
                pair.same(options["data_file"], not really_preallocates(options, size))
        else:
            refused(ours)
            assert not os.listdir(pair.ours), ours.describe()
        pair.clear()
    assert made > 20


@pytest.mark.parametrize("bits,prealloc", [(9, 1), (9, 64), (10, 64), (11, 32)])
@pytest.mark.parametrize("mode", ["metadata", "falloc"])
def test_growing_refcount_tables(pair, rng, bits, prealloc, mode):
    """Sizes at which the table has moved several times, or is large from the start."""
    size = (1 << bits) * rng.randrange(60_000, 200_000)
    pair.both_make("-f", "qcow2", "-o",
                   f"cluster_size={1 << bits},refcount_bits={prealloc},preallocation={mode}",
                   "disk", size)


# ---- sizes ----

@pytest.mark.parametrize("extended", ["off", "on"])
@pytest.mark.parametrize("bits", sorted({9, 14, 16, 21, *seed.sample("largest", CLUSTER_BITS, 3)}))
def test_the_largest_disk_of_each_cluster_size(pair, bits, extended):
    if extended == "on" and bits < 14:
        pair.both_refuse("-f", "qcow2", "-o", f"cluster_size={1 << bits},extended_l2=on", "disk", M)
        return
    options = {"cluster_size": 1 << bits, "extended_l2": extended}
    if bits == 9:
        options["refcount_bits"] = 1  # qemu-img takes minutes for wider ones
    size = max_size(options)
    pair.both_make("-f", "qcow2", *words(options), "disk", size)
    pair.clear()
    if size < 1 << 61:
        pair.both_refuse("-f", "qcow2", *words(options), "disk", size + 1)


@pytest.mark.parametrize("refcount_bits", [1, 64])
def test_64_tebibytes(pair, refcount_bits):
    pair.both_make("-f", "qcow2", "-o", f"refcount_bits={refcount_bits}", "disk", "64T")


def test_a_terabyte_of_preallocated_metadata(pair):
    pair.both_make("-f", "qcow2", "-o", "preallocation=metadata", "disk", "1T")


# ---- refusals ----

BAD = [
    ["-o", "cluster_size=3k"], ["-o", "cluster_size=256"], ["-o", "cluster_size=4M"],
    ["-o", "refcount_bits=3"], ["-o", "refcount_bits=128"],
    ["-o", "compat=v2,lazy_refcounts=on"], ["-o", "compat=0.10,refcount_bits=8"],
    ["-o", "compat=v2,extended_l2=on"], ["-o", "compat=v2,compression_type=zstd"],
    ["-o", "compat=v2,data_file=d.raw"], ["-o", "compat=v4"], ["-o", "compat=1.2"],
    ["-o", "extended_l2=on,cluster_size=8k"],
    ["-o", "compression_type=lzma"], ["-o", "preallocation=some"], ["-o", "lazy_refcounts=maybe"],
    ["-o", "no_such_option=1"],
    ["-o", "data_file_raw=on"], ["-o", "data_file="], ["-o", "data_file=disk"],
    ["-o", "data_file=d.raw,data_file_raw=on", "-u", "-b", "base", "-F", "raw"],
    ["-o", "preallocation=metadata", "-u", "-b", "base", "-F", "raw"],
    ["-o", "preallocation=full", "-u", "-b", "base", "-F", "raw"],
    ["-F", "raw"], ["-u", "-b", "base"], ["-u", "-b", "base", "-F", "nothing"],
    ["-u", "-b", "", "-F", "raw"], ["-u", "-b", "disk", "-F", "raw"],
    ["-b", "absent", "-F", "raw"], ["-b", "absent", "-F", "qcow2"],
    ["-b", "./disk", "-F", "raw"],
    ["-u", "-b", "b" * 1024, "-F", "raw"],
    ["-u", "-o", "cluster_size=512", "-b", "b" * 377, "-F", "raw"],
    ["-o", "cluster_size=512,data_file=" + "d/" * 220],
]


@pytest.mark.parametrize("options", BAD, ids=[" ".join(b)[:60] for b in BAD])
def test_bad_options_are_refused_by_both(pair, options):
    pair.both_refuse("-f", "qcow2", *options, "disk", "1M")


@pytest.mark.parametrize("args", [["disk"], ["-u", "-b", "base", "-F", "raw", "disk"],
                                  ["disk", "3P"], ["disk", "8E"], ["nowhere/disk", "1M"]])
def test_bad_sizes_and_places_are_refused_by_both(pair, args):
    pair.both_refuse("-f", "qcow2", *args)


@pytest.mark.parametrize("args", [["-o", "preallocation=metadata"], ["-o", "cluster_size=64k"],
                                  ["-o", "compat=v3"], ["-b", "base", "-F", "raw"]])
def test_a_raw_image_has_few_options(pair, args):
    pair.both_refuse("-f", "raw", *args, "disk", "1M")


def test_a_directory_is_no_place_for_an_image(work):
    run.tool("create", "-q", "-f", "qcow2", work, "1M").refused("directory")


# ---- backing files ----

@pytest.fixture
def base(pair):
    for folder in (pair.ours, pair.theirs):
        (folder / "sub").mkdir()
        run.qemu_img("create", "-q", "-f", "qcow2", "sub/base.qcow2", "5000000",
                     cwd=folder).succeeded()
        (folder / "base.raw").write_bytes(b"x" * 1000)
    return pair


def test_the_size_comes_from_the_backing_file(base):
    base.both_make("-f", "qcow2", "-b", "sub/base.qcow2", "-F", "qcow2", "disk")
    assert run.qemu_img("info", "--output=json", base.ours / "disk").json()["virtual-size"] \
        == 5000192
    base.both_make("-f", "qcow2", "-b", "base.raw", "-F", "raw", "disk2", names=["disk2"])
    base.both_make("-f", "qcow2", "-b", "base.raw", "-F", "raw", "disk3", "1M", names=["disk3"])


def test_a_backing_name_is_relative_to_the_image(base):
    base.both_make("-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "sub/disk",
                   names=["sub/disk"])
    ours, theirs = base.create("-f", "qcow2", "-b", "sub/base.qcow2", "-F", "qcow2", "sub/other")
    assert theirs.code == 1
    ours.refused("sub/sub/base.qcow2")
    assert not (base.ours / "sub/other").exists()


def test_the_chain_below_must_open(base):
    for folder in (base.ours, base.theirs):
        run.qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "gone", "-F", "raw", "mid", "1M",
                     cwd=folder).succeeded()
    ours, theirs = base.create("-f", "qcow2", "-b", "mid", "-F", "qcow2", "disk")
    assert theirs.code == 1
    ours.refused("gone")
    assert not (base.ours / "disk").exists()


def test_a_wrong_backing_format_is_refused(base):
    ours, theirs = base.create("-f", "qcow2", "-b", "base.raw", "-F", "qcow2", "disk")
    assert theirs.code == 1
    ours.refused("qcow2")
    assert not (base.ours / "disk").exists()


def test_neither_the_image_nor_its_data_file_may_be_the_backing_file(base):
    content = (base.ours / "base.raw").read_bytes()
    for args in (["-b", "sub/../base.raw", "-F", "raw", "base.raw"],
                 ["-b", "base.raw", "-F", "raw", "-o", "data_file=sub/../base.raw", "disk"]):
        run.tool("create", "-q", "--force", "-f", "qcow2", *args, "1M",
                 cwd=base.ours).refused("same file")
        assert (base.ours / "base.raw").read_bytes() == content
        assert not (base.ours / "disk").exists()


# ---- files that are there already ----

def test_a_file_with_contents_needs_force(work):
    (work / "disk").write_bytes(b"letters")
    (work / "data").write_bytes(b"more letters")
    create = ["create", "-q", "-f", "qcow2", "-o", "data_file=data"]
    run.tool(*create, "disk", "1M", cwd=work).refused("disk", "--force")
    (work / "disk").unlink()
    run.tool(*create, "disk", "1M", cwd=work).refused("data", "--force")
    assert (work / "data").read_bytes() == b"more letters"
    assert not (work / "disk").exists()
    run.tool(*create, "--force", "disk", "1M", cwd=work).succeeded()
    assert (work / "data").read_bytes() == bytes(M)


@contextlib.contextmanager
def in_use(path):
    """A real program that has the image open for writing."""
    with subprocess.Popen(["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as p:
        p.stdin.write("length\n")
        p.stdin.flush()
        assert "1 MiB" in p.stdout.readline()
        yield
        p.stdin.close()


def test_an_image_in_use_is_left_alone(work):
    run.qemu_img("create", "-q", "-f", "qcow2", "disk", "1M", cwd=work).succeeded()
    before = (work / "disk").read_bytes()
    with in_use(work / "disk"):
        run.tool("create", "-q", "--force", "-f", "qcow2", "disk", "2M", cwd=work).refused("in use")
        run.tool("create", "-q", "--force", "-f", "qcow2", "-o", "data_file=disk", "new", "2M",
                 cwd=work).refused("in use")
    assert (work / "disk").read_bytes() == before
    assert not (work / "new").exists()


# ---- raw ----

@pytest.mark.parametrize("mode", ["off", "falloc", "full"])
@pytest.mark.parametrize("size", [0, 1, 512, 4096, 5000, 10 * M + 1])
def test_raw_images(pair, mode, size):
    pair.both_make("-f", "raw", "-o", f"preallocation={mode}", "disk", size)
