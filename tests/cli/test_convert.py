# SPDX-License-Identifier: MIT
"""qcow2 convert as a command: what goes together, what is refused, how it ends."""
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from lib.run import SANITIZER_ENV, TOOL, qemu_img, tool  # noqa: E402
from test_streams import on_terminal  # noqa: E402

ENV = {**os.environ, **SANITIZER_ENV, "LC_ALL": "C"}


@pytest.fixture
def source(work):
    """Two internal snapshots, `one` and `2` (whose id is 2), and other contents now."""
    zoo.create(work, "base.qcow2", "4M")
    zoo.create(work, "src.qcow2", "4M")
    for pattern, name in ((1, "one"), (2, "2"), (3, None)):
        zoo.io(work, "src.qcow2", f"write -P {pattern} 64k 1M")
        if name:
            qemu_img("snapshot", "-c", name, "src.qcow2", cwd=work).succeeded()
    return "src.qcow2"


def pattern(work, name):
    """The byte at 64k, read by the real program."""
    qemu_img("convert", "-O", "raw", name, "pattern.raw", cwd=work).succeeded()
    with open(Path(work, "pattern.raw"), "rb") as f:
        f.seek(65536)
        return f.read(1)[0]


def wrong(result, *said):
    result.ended_well()
    assert result.code == 1 and result.out == "", result.describe()
    first, second = result.err.splitlines()
    assert first.startswith("qcow2: ") and all(s in first for s in said), result.describe()
    assert second == "Try 'qcow2 convert --help' for more information"


def test_raw_is_the_target_when_no_format_is_said(source, work):
    result = tool("convert", source, "x", cwd=work).succeeded()
    assert (result.out, result.err) == ("", "")
    assert Path(work, "x").stat().st_size == 4 << 20
    assert qemu_img("compare", "-F", "raw", source, "x", cwd=work).code == 0


@pytest.mark.parametrize("words", [
    ["-O", "qcow2"], ["-O", "qcow2", "-c"], ["-O", "qcow2", "-c", "-o", "compression_type=zstd"],
    ["-O", "qcow2", "-o", "compat=0.10", "-o", "cluster_size=4k"], ["-f", "qcow2", "-W", "-m", "3"],
    ["-O", "qcow2", "-S", "0"], ["-S", "64k"], ["-C"], ["--salvage"], ["-r", "100M"], ["-U"],
    ["-t", "none", "-T", "none"], ["-t", "writeback", "-T", "writeback"],
    ["-t", "writethrough", "-T", "unsafe"], ["-t", "directsync", "-T", "directsync"],
    ["-O", "qcow2", "-o", "preallocation=metadata,lazy_refcounts=on"]])
def test_options_that_work(words, source, work):
    result = tool("convert", *words, source, "x", cwd=work).succeeded()
    assert (result.out, result.err) == ("", "")
    assert qemu_img("compare", source, "x", cwd=work).code == 0


@pytest.mark.parametrize("which,expected", [
    ("one", 1), ("1", 1), ("2", 2), ("snapshot.id=1", 1), ("snapshot.name=one", 1),
    ("snapshot.id=2,snapshot.name=2", 2), ("snapshot.name=2,snapshot.id=2", 2)])
def test_snapshots_by_id_and_name(which, expected, source, work):
    tool("convert", "-l", which, source, "x", cwd=work).succeeded()
    assert Path(work, "x").read_bytes()[65536] == expected
    qemu_img("convert", "-O", "raw", "-l", which, source, "y", cwd=work).succeeded()
    assert Path(work, "x").read_bytes() == Path(work, "y").read_bytes()


@pytest.mark.parametrize("which", ["three", "snapshot.id=one", "snapshot.name=1",
                                   "snapshot.id=1,snapshot.name=2", "snapshot.frob=1",
                                   "snapshot.id", ""])
def test_snapshots_that_arent_there(which, source, work):
    tool("convert", "-l", which, source, "x", cwd=work).refused(which)
    assert qemu_img("convert", "-O", "raw", "-l", which, source, "x", cwd=work).code == 1
    assert not Path(work, "x").exists()


def test_sources_are_joined(source, work):
    tool("convert", "-O", "qcow2", source, "base.qcow2", source, "x", cwd=work).succeeded()
    qemu_img("convert", "-O", "raw", source, "base.qcow2", source, "y", cwd=work).succeeded()
    assert qemu_img("compare", "x", "y", cwd=work).succeeded().out == "Images are identical.\n"


@pytest.mark.parametrize("option", ["-B", "-b", "--backing"])
def test_the_top_layer_on_another_backing_file(option, source, work):
    zoo.create(work, "top.qcow2", "-b", source, "-F", "qcow2", "4M")
    zoo.io(work, "top.qcow2", "write -P 7 2M 64k")
    tool("convert", "-O", "qcow2", option, source, "-F", "qcow2", "top.qcow2", "x",
         cwd=work).succeeded()
    info = qemu_img("info", "--output=json", "x", cwd=work).json()
    assert (info["backing-filename"], info["backing-filename-format"]) == (source, "qcow2")
    entries = qemu_img("map", "--output=json", "x", cwd=work).json()
    own = [(e["start"], e["length"]) for e in entries if e["depth"] == 0]
    assert own == [(2 << 20, 65536)]
    assert qemu_img("compare", "top.qcow2", "x", cwd=work).code == 0


def test_an_existing_target_needs_force(source, work):
    Path(work, "x").write_bytes(b"precious")
    tool("convert", source, "x", cwd=work).refused('"x"', "--force")
    assert Path(work, "x").read_bytes() == b"precious"
    tool("convert", "--force", "-O", "qcow2", source, "x", cwd=work).succeeded()
    assert pattern(work, "x") == 3
    Path(work, "empty").touch()
    tool("convert", source, "empty", cwd=work).succeeded()


def test_an_existing_raw_target_is_written_into(source, work):
    with open(Path(work, "x"), "wb") as f:
        f.write(b"\xff" * (5 << 20))
    inode = Path(work, "x").stat().st_ino
    tool("convert", "-n", "-O", "raw", source, "x", cwd=work).succeeded()
    assert Path(work, "x").stat().st_ino == inode
    data = Path(work, "x").read_bytes()
    assert data[65536] == 3 and data[0] == 0 and data[5 << 20:] == b""
    assert data[4 << 20:] == b"\xff" * (1 << 20)
    with open(Path(work, "x"), "wb") as f:
        f.truncate(4 << 20)
    tool("convert", "-n", "--target-is-zero", source, "x", cwd=work).succeeded()
    assert pattern(work, source) == Path(work, "x").read_bytes()[65536]


def test_an_image_isnt_overwritten_as_raw_by_mistake(source, work):
    zoo.create(work, "x", "-o", "preallocation=full", "4M")
    before = Path(work, "x").read_bytes()
    wrong(tool("convert", "-n", source, "x", cwd=work), '"x"', "-O qcow2", "-O raw")
    assert Path(work, "x").read_bytes() == before


@pytest.mark.parametrize("words", [["-O", "qcow2"], ["--force"], ["--force", "-U"], ["-n", "-U"],
                                   ["-n", "-O", "raw", "-U"]])
def test_a_source_is_never_the_target(words, source, work):
    zoo.create(work, "top.qcow2", "-b", source, "-F", "qcow2", "4M")
    os.symlink(source, Path(work, "link"))
    before = Path(work, source).read_bytes()
    for src, target in ((source, source), (source, "link"), ("top.qcow2", source)):
        result = tool("convert", *words, src, target, cwd=work).ended_well()
        assert result.code == 1, result.describe()
    assert Path(work, source).read_bytes() == before
    tool("convert", "--force", "-U", "top.qcow2", source, cwd=work).refused("same file")


@pytest.mark.parametrize("words,said", [
    ([], "expecting a source and a target"), (["src.qcow2"], "expecting a source and a target"),
    (["-n", "-O", "qcow2", "-o", "compat=v3", "src.qcow2", "x"], "-o has no effect"),
    (["--target-is-zero", "src.qcow2", "x"], "-n"),
    (["-n", "--target-is-zero", "-O", "qcow2", "-B", "base.qcow2", "-F", "qcow2", "src.qcow2", "x"],
     "--target-is-zero"),
    (["-c", "src.qcow2", "x"], "-O qcow2"),
    (["-O", "qcow2", "-B", "base.qcow2", "-F", "qcow2", "src.qcow2", "src.qcow2", "x"],
     "several sources"),
    (["-l", "one", "src.qcow2", "src.qcow2", "x"], "one source"),
    (["-S", "1", "src.qcow2", "x"], "multiples of 512"), (["-S", "17M", "src.qcow2", "x"], "16M"),
    (["-S", "x", "src.qcow2", "x"], "'x' is not a size"),
    (["-m", "0", "src.qcow2", "x"], "'0'"), (["-m", "1025", "src.qcow2", "x"], "'1025'"),
    (["-m", "many", "src.qcow2", "x"], "'many'"), (["-r", "fast", "src.qcow2", "x"], "'fast'"),
    (["-t", "fast", "src.qcow2", "x"], "unsafe"), (["-T", "fast", "src.qcow2", "x"], "unsafe"),
    (["-o", "frob=1", "src.qcow2", "x"], "frob")])
def test_wrong_usage(words, said, source, work):
    wrong(tool("convert", *words, cwd=work), said)
    assert not Path(work, "x").exists()


@pytest.mark.parametrize("words,said", [
    (["-f", "vmdk", "src.qcow2", "x"], "'vmdk'; supported are qcow2 and raw"),
    (["-O", "vmdk", "src.qcow2", "x"], "'vmdk'; supported are qcow2 and raw"),
    (["-O", "qcow2", "-o", "encryption=on", "src.qcow2", "x"], "encrypted"),
    (["gone.qcow2", "x"], "gone.qcow2"), (["src.qcow2", "gone/x"], "gone/x"),
    (["-n", "src.qcow2", "x"], '"x"'), (["-O", "qcow2", "-B", "b", "src.qcow2", "x"], "format")])
def test_what_cant_be_done(words, said, source, work):
    tool("convert", *words, cwd=work).refused(said)
    assert not Path(work, "x").exists()


def test_progress_in_percent(source, work):
    tool("convert", "-p", source, "x", cwd=work, stdout=Path(work, "out")).succeeded()
    steps = Path(work, "out").read_bytes()
    assert steps.startswith(b"    (0.00/100%)\r") and steps.endswith(b"    (100.00/100%)\r\n")
    done = subprocess.run([TOOL, "convert", "-q", "-p", source, "y"], cwd=work, env=ENV, timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert (done.returncode, done.stdout) == (0, b"")


def slow(work, mib=12):
    """A source that -r keeps busy for a second for every three MiB."""
    Path(work, "big.raw").write_bytes(os.urandom(mib << 20))
    return ["convert", "-f", "raw", "-r", "3M", "-O", "qcow2", "big.raw"]


def test_a_rate_is_kept_to(work):
    words = slow(work, 6)
    assert tool(*words, "x", cwd=work).succeeded().seconds > 1.5


def test_a_long_job_shows_its_progress_on_a_terminal_only(work):
    words = slow(work)
    with ThreadPoolExecutor() as pool:  # all of them at once, since each takes seconds
        shown = pool.submit(on_terminal, [*words, "x"], work)
        quiet = pool.submit(on_terminal, ["convert", "-q", *words[1:], "y"], work)
        dumb = pool.submit(on_terminal, [*words, "w"], work, env={"TERM": "dumb"})
        piped = subprocess.run([TOOL, *words, "z"], cwd=work, env={**ENV, "TERM": "xterm"},
                               timeout=60, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    code, seen = shown.result()
    assert code == 0 and " of 12 MiB, " in seen and "iB/s" in seen, seen
    assert seen.endswith("\r\x1b[K") and "\n" not in seen, repr(seen)
    assert quiet.result() == dumb.result() == (0, "")
    assert (piped.returncode, piped.stdout) == (0, b"")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_job_leaves_nothing_and_ends_by_the_signal(signum, work):
    with subprocess.Popen([TOOL, *slow(work), "x"], cwd=work, env=ENV, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as p:
        started = time.monotonic()
        while not Path(work, "x").exists() and time.monotonic() < started + 20:
            time.sleep(0.02)
        time.sleep(0.5)
        p.send_signal(signum)
        out = p.communicate(timeout=30)[0]
    assert p.returncode == -signum, (p.returncode, out)
    assert out == b""
    assert not Path(work, "x").exists()
    assert sorted(f.name for f in Path(work).iterdir()) == ["big.raw"]


def test_how_far_it_is_can_be_asked(work):
    with subprocess.Popen([TOOL, *slow(work, 6), "x"], cwd=work, env=ENV, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE) as p:
        started = time.monotonic()
        while not Path(work, "x").exists() and time.monotonic() < started + 20:
            time.sleep(0.02)
        time.sleep(0.5)
        p.send_signal(signal.SIGUSR1)
        err = p.communicate(timeout=60)[1]
    assert p.returncode == 0
    assert err.startswith(b"    (") and err.endswith(b"/100%)\n") and err.count(b"\n") == 1


def test_a_full_disk_is_told(work):
    """Under a limit of the file's size, which is what a full disk looks like."""
    Path(work, "big.raw").write_bytes(os.urandom(8 << 20))
    for words in ([], ["-O", "qcow2"], ["-O", "qcow2", "-c"]):
        script = 'trap "" XFSZ; ulimit -f 2048; exec "$0" convert "$@" big.raw x'
        done = subprocess.run(["bash", "-c", script, TOOL, *words], cwd=work, env=ENV, timeout=60,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert done.returncode == 1, done
        assert done.stderr.startswith(b"qcow2: ") and done.stderr.count(b"\n") == 1, done
        assert not Path(work, "x").exists()


def test_salvaged_areas_are_told_unless_quiet(source, work):
    zoo.io(work, source, "write -c -P 5 2M 64k")
    l2 = tool("dump", "--output=json", source, "l2", "0", cwd=work).json()
    packed = [f["value"] for f in l2 if f["value"] >> 62 & 1]
    zoo.patch(work, source, packed[0] & ((1 << 54) - 1), b"\xff" * 64)
    tool("convert", source, "x", cwd=work).refused(source)
    assert not Path(work, "x").exists()
    result = tool("convert", "--salvage", source, "x", cwd=work).succeeded()
    assert result.warnings() and result.warnings() == result.err.splitlines(), result.describe()
    data = Path(work, "x").read_bytes()
    assert data[65536] == 3 and data[2 << 20:(2 << 20) + 65536] == bytes(65536)
    quiet = tool("convert", "-q", "--salvage", source, "y", cwd=work).succeeded()
    assert quiet.err == ""


def test_the_table_of_options(source, work):
    for fmt in ("raw", "qcow2"):
        table = tool("convert", "-O", fmt, "-o", "help", cwd=work).succeeded().out
        assert table == tool("create", "-f", fmt, "-o", "help", cwd=work).succeeded().out


def test_data_that_the_kernel_copies(source, work):
    """Copy offloading changes nothing of what comes out, whatever is above and below."""
    zoo.create(work, "over", "-b", source, "-F", "qcow2", "4M")
    zoo.io(work, "over", "write -P 5 1M 300k", "write -z 2M 64k", "write -c -P 6 3M 64k")
    for name in (source, "over"):
        for words in (["-O", "raw"], ["-O", "qcow2"], ["-W", "-O", "qcow2"],
                      ["-O", "qcow2", "-o", "cluster_size=4k"], ["-t", "none", "-O", "qcow2"],
                      ["-O", "qcow2", "-o", "preallocation=falloc"]):
            tool("convert", "-C", *words, name, "x", cwd=work).succeeded()
            out = tool("compare", name, "x", cwd=work).succeeded().out
            assert out == "Images are identical.\n"
            os.unlink(work / "x")
    tool("convert", "-C", "-O", "qcow2", "-B", source, "-F", "qcow2", "over", "x",
         cwd=work).succeeded()
    tool("compare", "over", "x", cwd=work).succeeded()


def test_holes_of_a_preallocated_image_arent_read(work):
    """Mapped whole, with nothing behind it: reading a terabyte of zeros would take minutes."""
    tool("create", "-q", "-o", "preallocation=metadata", "src", "1T", cwd=work).succeeded()
    zoo.io(work, "src", "write -P 5 300G 1M")
    tool("create", "-q", "-b", "src", "-F", "qcow2", "top", cwd=work).succeeded()
    tool("convert", "-O", "qcow2", "src", "copy", cwd=work).succeeded()
    assert Path(work, "copy").stat().st_size < 4 << 20
    tool("compare", "src", "copy", cwd=work).succeeded()
    tool("rebase", "-b", "copy", "-F", "qcow2", "top", cwd=work).succeeded()
    measured = tool("measure", "-O", "qcow2", "src", cwd=work).succeeded()
    assert f"required size: {Path(work, 'copy').stat().st_size}\n" in measured.out
    tool("dd", "if=src", "of=raw", "bs=1M", "skip=307000", "count=307400", cwd=work).succeeded()
    assert qemu_img("compare", "copy", "top", cwd=work).code == 0
    with open(Path(work, "raw"), "rb") as f:
        f.seek(200 << 20)
        assert f.read(1 << 20) == b"\x05" * (1 << 20)
