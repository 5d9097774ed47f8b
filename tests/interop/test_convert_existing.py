# SPDX-License-Identifier: MIT
"""
convert -n: into an image that exists. An empty one is filled as it is, any other is changed in
place: with the same contents afterwards as the real qemu-img leaves in a twin of it.
"""
import shutil

import pytest

from lib.bitmaps import dirty
from lib.run import SANITIZER_ENV, TOOL, command, qemu_img, qemu_io, tool
from lib.seed import long_run, seeded

DISK = 8 << 20
MAKES = ["", "compat=0.10", "cluster_size=512", "cluster_size=2M", "extended_l2=on",
         "refcount_bits=1", "compression_type=zstd", "lazy_refcounts=on"]


@pytest.fixture
def source(work):
    with open(work / "source.raw", "wb") as f:
        f.truncate(DISK)
        f.seek(1 << 20)
        f.write(b"some data " * 100000)
    return "source.raw"


def settings(work, name):
    info = qemu_img("info", "--output=json", name, cwd=work).json()
    return info["cluster-size"], info["virtual-size"], info["format-specific"]


@pytest.mark.parametrize("options", MAKES)
@pytest.mark.parametrize("compress", [[], ["-c"]])
def test_an_empty_image_keeps_its_options_and_size(work, source, options, compress):
    make = ["-o", options] if options else []
    qemu_img("create", "-q", "-f", "qcow2", *make, "t", "16M", cwd=work).succeeded()
    before = settings(work, "t")
    tool("convert", "-n", *compress, "-f", "raw", "-O", "qcow2", source, "t", cwd=work).succeeded()
    assert settings(work, "t") == before
    qemu_img("check", "t", cwd=work).succeeded()
    qemu_img("compare", "-f", "raw", "-F", "qcow2", source, "t", cwd=work).succeeded()


def test_zeros_hide_the_backing_file_of_the_target(work, source):
    qemu_img("create", "-q", "-f", "raw", "base", str(DISK), cwd=work).succeeded()
    qemu_io("base", f"write -P 7 0 {DISK}", fmt="raw", cwd=work)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "t", cwd=work).succeeded()
    tool("convert", "-n", "-f", "raw", "-O", "qcow2", source, "t", cwd=work).succeeded()
    qemu_img("check", "t", cwd=work).succeeded()
    qemu_img("compare", "-f", "raw", "-F", "qcow2", source, "t", cwd=work).succeeded()


def too_small(work, source):
    before = (work / "t").read_bytes()
    tool("convert", "-n", "-f", "raw", "-O", "qcow2", source, "t", cwd=work).refused("too small")
    assert (work / "t").read_bytes() == before


def test_an_image_that_is_too_small_is_left_alone(work, source):
    qemu_img("create", "-q", "-f", "qcow2", "t", "4M", cwd=work).succeeded()
    too_small(work, source)
    qemu_io("t", "write 0 64k", cwd=work)
    too_small(work, source)


def test_a_failure_leaves_the_image_empty_and_whole(work, source):
    qemu_img("create", "-q", "-f", "qcow2", "t", "16M", cwd=work).succeeded()
    before = (work / "t").read_bytes()
    result = convert_with_small_files(work, source)
    assert result.code == 1 and "File too large" in result.err, result.describe()
    assert (work / "t").read_bytes() == before


def convert_with_small_files(work, source, sectors=1000):
    script = f'trap "" XFSZ; ulimit -f {sectors}; exec "$0" convert -n -f raw -O qcow2 "$1" t'
    return command("sh", "-c", script, TOOL, source, cwd=work, env=SANITIZER_ENV)


# ---- images that hold something ----

SIZE = "12M"


def base_file(work):
    if not (work / "base").exists():
        with open(work / "base", "wb") as f:
            f.write(b"\7" * (3 << 20))
            f.seek(4 << 20)
            f.write(b"\7" * (6 << 20))


def make(work, name, options, *writes, backing=False):
    if backing:
        base_file(work)
    qemu_img("create", "-q", "-f", "qcow2", *(["-o", options] if options else []),
             *(["-b", "base", "-F", "raw"] if backing else []), name, SIZE, cwd=work).succeeded()
    if writes:
        qemu_io(name, *writes, cwd=work)


def twins(work, target):
    """The same target twice: ours is t, the real one's is q. A data file goes by its image."""
    TARGETS[target](work, "t")
    if "data file" in target:
        TARGETS[target](work, "q")
    else:
        shutil.copy(work / "t", work / "q")


def full(work, name, options=""):
    make(work, name, options, "write -P 9 0 12M")


def patches(work, name, options="", backing=False):
    """Something of every kind, and ends that no source ends at."""
    make(work, name, options, "write -P 1 1000k 300k", "write -c -P 2 2M 64k",
         "write -c -P 3 2112k 64k", "write -P 4 7M 1536", "write -z 5M 1M", "write -P 5 11M 1M",
         "write -P 6 8380416 9k", backing=backing)


def with_snapshot(work, name):
    patches(work, name)
    qemu_img("snapshot", "-c", "s", name, cwd=work).succeeded()
    qemu_io(name, "write -P 8 1M 1M", "discard 7M 1M", cwd=work)


def with_only_a_snapshot(work, name):
    make(work, name, "")
    qemu_img("snapshot", "-c", "s", name, cwd=work).succeeded()


def with_data_file(work, name, raw="off"):
    patches_of = ["write -P 9 0 3M", "write -z 1M 128k"]
    make(work, name, f"data_file={name}.data,data_file_raw={raw}", *patches_of)


TARGETS = {
    "full": full,
    "patches": patches,
    "small clusters": lambda w, n: patches(w, n, "compat=0.10,cluster_size=65536"),
    "512": lambda w, n: make(w, n, "cluster_size=512", "write -P 9 100k 900k", "write -P 8 8M 2M"),
    "2M": lambda w, n: patches_plain(w, n, "cluster_size=2M"),
    "subclusters": lambda w, n: patches(w, n, "extended_l2=on"),
    "refcounts of one bit": lambda w, n: full(w, n, "refcount_bits=1"),
    "zstd": lambda w, n: patches(w, n, "compression_type=zstd"),
    "lazy refcounts": lambda w, n: patches(w, n, "lazy_refcounts=on"),
    "preallocated": lambda w, n: make(w, n, "preallocation=metadata"),
    "backing": lambda w, n: patches(w, n, backing=True),
    "backing, subclusters": lambda w, n: patches(w, n, "extended_l2=on", backing=True),
    "backing, version 2": lambda w, n: patches(w, n, "compat=0.10", backing=True),
    "empty, backing": lambda w, n: make(w, n, "", backing=True),
    "snapshot": with_snapshot,
    "only a snapshot": with_only_a_snapshot,
    "data file": with_data_file,
    "raw data file": lambda w, n: with_data_file(w, n, "on"),
}


def patches_plain(work, name, options):
    make(work, name, options, "write -P 1 1000k 300k", "write -P 5 11M 1M", "write -z 5M 1M")


SOURCES = [DISK, DISK + 512, DISK - 12 * 4096 - 1536]


def each_with_a_size(names):
    """Every target with every source, or each with another one."""
    if long_run():
        return [(name, size) for name in names for size in SOURCES]
    return [(name, SOURCES[i % len(SOURCES)]) for i, name in enumerate(names)]


def make_source(work, size):
    with open(work / "source.raw", "wb") as f:
        f.truncate(size)
        f.seek(1 << 20)
        f.write(b"some data " * 100000)
        f.seek(size - 700)
        f.write(b"at the end")
    return "source.raw"


def same(work):
    """Ours is t, the real one's is q."""
    qemu_img("compare", "-f", "qcow2", "-F", "qcow2", "t", "q", cwd=work).succeeded()
    for name in "t", "q":
        qemu_img("check", "-f", "qcow2", name, cwd=work).succeeded()
    for snapshot in qemu_img("info", "--output=json", "t", cwd=work).json().get("snapshots", []):
        for name in "t", "q":
            qemu_img("convert", "-O", "raw", "-l", snapshot["name"], name, name + ".snap",
                     cwd=work).succeeded()
        assert (work / "t.snap").read_bytes() == (work / "q.snap").read_bytes()
    assert settings(work, "t")[:2] == settings(work, "q")[:2]


def both_convert(work, *arguments):
    tool("convert", "-n", *arguments, "t", cwd=work).succeeded()
    qemu_img("convert", "-n", *arguments, "q", cwd=work).succeeded()


@pytest.mark.parametrize("target,size", each_with_a_size(TARGETS))
def test_an_image_that_holds_something_is_overwritten(work, target, size):
    source = make_source(work, size)
    twins(work, target)
    both_convert(work, "-f", "raw", "-O", "qcow2", source)
    same(work)
    if "raw data file" in target:
        assert (work / "t.data").read_bytes() == (work / "q.data").read_bytes()


FLAGS = [["-S", "0"], ["-S", "1M"], ["-W", "-m", "8"], ["-t", "none"], ["-t", "writethrough"],
         ["-r", "100M"]]


FLAGGED = ["patches", "backing", "snapshot", "raw data file"]


def targets_with_flags():
    """Every flag with every target, or with two of them."""
    if long_run():
        return [(target, flags) for target in FLAGGED for flags in FLAGS]
    turned = seeded("flagged").randrange(len(FLAGGED))
    return [(FLAGGED[(i + i // len(FLAGS) + turned) % len(FLAGGED)], flags)
            for i, flags in enumerate(FLAGS * 2)]


def as_words(value):
    return value if isinstance(value, str) else " ".join(value)


@pytest.mark.parametrize("target,flags", targets_with_flags(), ids=as_words)
def test_flags_of_a_copy_into_an_image(work, target, flags):
    source = make_source(work, SOURCES[1])
    twins(work, target)
    both_convert(work, *flags, "-f", "raw", "-O", "qcow2", source)
    same(work)


def test_zeros_are_left_out_where_the_target_is_said_to_have_them(work):
    source = make_source(work, SOURCES[1])
    for name in "t", "q":
        make(work, name, "", "write -P 0 900k 3M", "write -z 5M 1M")
    both_convert(work, "--target-is-zero", "-f", "raw", "-O", "qcow2", source)
    same(work)
    ours, theirs = ([(e["start"], e["length"], e["zero"], e["data"])
                     for e in qemu_img("map", "--output=json", name, cwd=work).json()]
                    for name in ("t", "q"))
    assert ours == theirs


@pytest.mark.parametrize("target,size",
                         each_with_a_size([t for t in reversed(TARGETS) if "data file" not in t]))
def test_compressed_data_over_anything(work, target, size):
    """qemu-img can't: not over what is allocated, and not up to the middle of a cluster."""
    source = make_source(work, size)
    twins(work, target)
    tool("convert", "-n", "-c", "-f", "raw", "-O", "qcow2", source, "t", cwd=work).succeeded()
    qemu_img("convert", "-n", "-f", "raw", "-O", "qcow2", source, "q", cwd=work).succeeded()
    same(work)
    compressed = [e for e in qemu_img("map", "--output=json", "t", cwd=work).json()
                  if e["data"] and "offset" not in e]
    assert compressed


def test_a_data_file_takes_no_compressed_data(work, source):
    with_data_file(work, "t")
    before = (work / "t").read_bytes(), (work / "t.data").read_bytes()
    result = tool("convert", "-n", "-c", "-f", "raw", "-O", "qcow2", source, "t", cwd=work)
    result.refused("external data file")
    assert ((work / "t").read_bytes(), (work / "t.data").read_bytes()) == before


@pytest.mark.parametrize("target", ["backing", "empty, backing", "backing, subclusters"])
def test_the_top_layer_alone(work, target):
    base_file(work)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "top", "9M",
             cwd=work).succeeded()
    qemu_io("top", "write -P 0x33 1M 100k", "write -z 2M 128k", "write -P 0x44 8M 1M", cwd=work)
    twins(work, target)
    both_convert(work, "-B", "base", "-F", "raw", "-f", "qcow2", "-O", "qcow2", "top")
    same(work)


def test_the_top_layer_is_not_put_on_nothing(work):
    base_file(work)
    make(work, "top", "", "write 1M 64k", backing=True)
    full(work, "t")
    before = (work / "t").read_bytes()
    tool("convert", "-n", "-B", "base", "-F", "raw", "-O", "qcow2", "top", "t",
         cwd=work).refused("no backing file")
    assert (work / "t").read_bytes() == before


def test_several_sources_one_behind_the_other(work, source):
    with open(work / "more.raw", "wb") as f:
        f.write(b"more" * (512 * 3 // 4))
    for name in "t", "q":
        patches(work, name)
    both_convert(work, "-f", "raw", "-O", "qcow2", "more.raw", source, "more.raw")
    same(work)


def scattered(work, name, rng, options):
    """Clusters that lie in no order, so that what is freed comes in many pieces, and commits do."""
    at = list(range(0, 12 << 20, 2560))
    rng.shuffle(at)
    make(work, name, options)
    qemu_io(name, *(f"write -P {1 + i % 200} {off} 512" for i, off in enumerate(at)), cwd=work)


@pytest.mark.parametrize("flags", [[], ["-c"]], ids=str)
def test_the_bytes_do_not_depend_on_the_threads(work, rng, flags):
    with open(work / "source.raw", "wb") as f:
        f.truncate(11 << 20)
        for mib in 0, 5, 6, 10:
            f.seek(mib << 20)
            f.write(rng.randbytes(300000) + b"text" * 100000)
    scattered(work, "t1", rng, "cluster_size=512,lazy_refcounts=on")
    if flags:
        qemu_img("snapshot", "-c", "s", "t1", cwd=work).succeeded()
    for threads in "2", "7":
        shutil.copy(work / "t1", work / f"t{threads}")
    for threads in "1", "2", "7":
        tool("convert", "-n", *flags, "-m", threads, "-f", "raw", "-O", "qcow2", "source.raw",
             f"t{threads}", cwd=work).succeeded()
        assert (work / f"t{threads}").read_bytes() == (work / "t1").read_bytes()
    qemu_img("check", "t1", cwd=work).succeeded()
    with open(work / "read.raw", "wb") as f:
        f.truncate(12 << 20)
    tool("convert", "-n", "-f", "qcow2", "-O", "raw", "t1", "read.raw", cwd=work).succeeded()
    read = (work / "read.raw").read_bytes()
    assert read[:11 << 20] == (work / "source.raw").read_bytes()
    assert any(read[11 << 20:])


def test_long_runs_of_zeros_are_written_in_order(work):
    """Over an image with tables all over, so that an order of luck would show in the file."""
    with open(work / "source.raw", "wb") as f:
        f.truncate(40 << 30)
        for gib in 2, 5, 12, 21, 30:
            f.seek((gib << 30) + (600 << 20))
            f.write(b"island" * 10000)
    qemu_img("create", "-q", "-f", "qcow2", "t1", "41G", cwd=work).succeeded()
    qemu_io("t1", *(f"write -P 1 {i * 2100}M 64k" for i in range(20)), cwd=work)
    shutil.copy(work / "t1", work / "q")
    shutil.copy(work / "t1", work / "t5")
    for threads in "1", "5":
        tool("convert", "-n", "-m", threads, "-f", "raw", "-O", "qcow2", "source.raw",
             f"t{threads}", cwd=work).succeeded()
    assert (work / "t1").read_bytes() == (work / "t5").read_bytes()
    qemu_img("convert", "-n", "-f", "raw", "-O", "qcow2", "source.raw", "q", cwd=work).succeeded()
    (work / "t5").rename(work / "t")
    same(work)


# ---- what is refused, and what is told ----

def test_a_source_is_not_written_into(work):
    patches(work, "t", backing=True)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "t", "-F", "qcow2", "above", cwd=work).succeeded()
    for source in "t", "above":
        before = (work / "t").read_bytes()
        for flags in [], ["-U"]:
            tool("convert", "-n", *flags, "-f", "qcow2", "-O", "qcow2", source, "t",
                 cwd=work).refused('"t"')
        assert (work / "t").read_bytes() == before


def test_a_source_is_not_written_into_as_a_data_file(work):
    with_data_file(work, "t", "on")
    before = (work / "t.data").read_bytes()
    for flags in [], ["-U"]:
        tool("convert", "-n", *flags, "-f", "raw", "-O", "qcow2", "t.data", "t",
             cwd=work).refused("read from")
    assert (work / "t.data").read_bytes() == before
    qemu_img("check", "t", cwd=work).succeeded()


def test_a_backing_file_may_be_copied_into_what_is_above_it(work):
    for name in "t", "q":
        patches(work, name, backing=True)
    both_convert(work, "-f", "raw", "-O", "qcow2", "base")
    same(work)


def test_bitmaps_record_what_is_converted(work, source):
    for name in "t", "q":
        full(work, name)
        qemu_img("bitmap", "--add", name, "b", cwd=work).succeeded()
    result = tool("convert", "-n", "-f", "raw", "-O", "qcow2", source, "t", cwd=work).succeeded()
    assert not result.err, result.describe()
    qemu_img("convert", "-n", "-f", "raw", "-O", "qcow2", source, "q", cwd=work).succeeded()
    assert dirty(work / "t", "b") == dirty(work / "q", "b")
    same(work)


def test_a_missing_backing_file_is_refused(work, source):
    patches(work, "t", backing=True)
    (work / "base").unlink()
    before = (work / "t").read_bytes()
    tool("convert", "-n", "-f", "raw", "-O", "qcow2", source, "t", cwd=work).refused("base")
    assert (work / "t").read_bytes() == before


def test_a_corrupt_image_is_refused(work, source):
    patches(work, "t")
    data = bytearray((work / "t").read_bytes())
    data[79] |= 2
    (work / "t").write_bytes(data)
    tool("convert", "-n", "-f", "raw", "-O", "qcow2", source, "t", cwd=work).refused("corrupt")
    assert (work / "t").read_bytes() == data


def test_a_failure_leaves_a_sound_image_partly_overwritten(work, source):
    make(work, "t", "", "write -P 9 11M 256k", "write -P 8 0 512k")
    qemu_img("snapshot", "-c", "s", "t", cwd=work).succeeded()
    result = convert_with_small_files(work, source, 4000)
    assert result.code == 1 and "File too large" in result.err, result.describe()
    result.ended_well()
    qemu_img("check", "t", cwd=work).succeeded()
    qemu_io("t", "read -P 9 11M 256k", "read -P 0 0 1M", cwd=work)
    qemu_img("snapshot", "-a", "s", "t", cwd=work).succeeded()
    qemu_io("t", "read -P 9 11M 256k", "read -P 8 0 512k", cwd=work)
