# SPDX-License-Identifier: MIT
"""
Options of nodes do what they say: each is given to qemu-io and to ours by that name, on copies of
an image that shows whether it had any effect.
"""
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from io_oracle import Pair, drop_in, raw, script  # noqa: E402
from lib.run import SANITIZER_ENV, TOOL, command, qemu_img, qemu_io, tool  # noqa: E402
from lib.writing import is_clean  # noqa: E402

NODE = "driver=qcow2,file.filename=a.qcow2"
DEBUG = "driver=qcow2,file.driver=blkdebug,file.image.filename=a.qcow2"
KIB, MIB = 1 << 10, 1 << 20


def incompatible(path):
    """The incompatible features of an image: 1 dirty, 2 corrupt."""
    return struct.unpack_from(">Q", path.read_bytes(), 72)[0]


def both(pair, node, *commands):
    """(theirs, ours), which may say different things."""
    words = ["--image-opts", node, *script(commands)]
    theirs = command("qemu-io", *words, cwd=pair.theirs)
    ours = command(pair.program, *words, cwd=pair.ours, env=SANITIZER_ENV)
    assert not any(word in ours.err for word in ("Sanitizer", "runtime error")), ours.describe()
    return theirs, ours


# ---- lazy-refcounts ----

@pytest.mark.parametrize("option,dirty", [("", None), (",lazy-refcounts=on", 1),
                                          (",lazy-refcounts=off", 0)])
@pytest.mark.parametrize("made", ["on", "off"])
def test_lazy_refcounts_make_it_dirty_while_it_is_written(made, option, dirty, work):
    pair = Pair(work, lambda folder: zoo.create(folder, "a.qcow2", "-o", f"lazy_refcounts={made}",
                                                "1M"))
    expected = int(made == "on") if dirty is None else dirty
    both(pair, NODE + option, "w 0 64k", "flush", "abort")
    for folder in (pair.theirs, pair.ours):
        assert incompatible(folder / "a.qcow2") == expected, folder
    # the real program writes the refcounts anew, and says so
    _, ours = both(pair, NODE + option, "w 64k 64k", "r 0 128k")
    assert ours.code == 0 and ours.err == "", ours.describe()
    assert incompatible(pair.ours / "a.qcow2") == 0
    is_clean("a.qcow2", cwd=pair.ours)


def test_version_2_has_no_lazy_refcounts(work):
    pair = Pair(work, lambda folder: zoo.create(folder, "a.qcow2", "-o", "compat=0.10", "1M"))
    pair.run("--image-opts", f"{NODE},lazy-refcounts=on", *script(["w 0 64k", "r 0 64k"]))


# ---- caches ----

def many_tables(folder):
    zoo.create(folder, "a.qcow2", "-o", "cluster_size=512", "8M")
    zoo.io(folder, "a.qcow2", "write -P 1 0 8M")


SECOND_TIME = (",file.set-state.0.event=write_aio,file.set-state.0.new_state=2,"
               "file.inject-error.0.event={},file.inject-error.0.state=2")


@pytest.mark.parametrize("options,fits", [
    ("", True), (",l2-cache-size=64k", True), (",cache-size=1M", True),
    (",l2-cache-size=4k", False), (",cache-size=8k", False),
    (",cache-size=1M,refcount-cache-size=1020k", False),
    (",l2-cache-size=4k,l2-cache-entry-size=512", False)])
def test_tables_that_dont_fit_are_read_again(options, fits, work):
    """Sixty L2 tables are asked for twice; loading one the second time is an error."""
    tables = random.Random(3).sample(range(1, 256), 60)
    pair = Pair(work, many_tables)
    results = both(pair, DEBUG + SECOND_TIME.format("l2_load") + options,
                   *[f"r -P 1 {n * 32 * KIB} 512" for n in tables], "w -P 1 0 512",
                   *[f"r -P 1 {n * 32 * KIB + 512} 512" for n in tables])
    theirs, ours = (r.out.count("read failed") for r in results)
    assert theirs == (0 if fits else 60)
    assert ours == 0 if fits else ours > 40  # tables in good order take less room in our cache
    assert all("Pattern" not in r.out for r in results)


@pytest.mark.parametrize("options,fits", [(",refcount-cache-size=1M", True),
                                          (",refcount-cache-size=1k", False)])
def test_refcounts_that_dont_fit_are_read_again(options, fits, work):
    """The same with refcount blocks, of ours alone: what the real program reads when is its own."""
    places = [n * 128 * KIB for n in random.Random(4).sample(range(1, 60), 24)]
    pair = Pair(work, many_tables)
    _, ours = both(pair, DEBUG + SECOND_TIME.format("refblock_load") + options,
                   *[f"discard {at + more} 512" for at in places for more in (0, 1024)], "flush",
                   "w 0 512", *[f"discard {at + 512} 512" for at in places], "flush")
    assert ("injected fault" in ours.err) != fits, ours.describe()


@pytest.mark.parametrize("options", [
    ",l2-cache-size=1", ",cache-size=1", ",refcount-cache-size=1", ",l2-cache-entry-size=512",
    ",cache-size=64k,l2-cache-size=1k", ",cache-size=64k,refcount-cache-size=63k",
    ",cache-clean-interval=0", ",l2-cache-size=0,refcount-cache-size=0"])
def test_small_caches_give_the_same_disk(options, work, rng):
    pair = Pair(work, lambda folder: zoo.create(folder, "a.qcow2", "-o", "cluster_size=512", "8M"))
    commands = []
    for _ in range(120):
        at, length = 512 * rng.randrange(16000), 512 * rng.randrange(1, 90)
        commands.append(rng.choice([f"w -P {rng.randrange(256)} {at} {length}", f"r {at} {length}",
                                    f"w -z {at} {length}", f"discard {at} {length}"]))
    pair.run("--image-opts", NODE + options, *script([*commands, "map"]))
    is_clean("a.qcow2", cwd=pair.ours)


# ---- overlap-check ----

REGIONS = ["active-l1", "active-l2", "refcount-table", "refcount-block", "snapshot-table",
           "inactive-l1", "inactive-l2", "bitmap-directory"]
CONSTANT = {"active-l1", "refcount-table", "snapshot-table", "bitmap-directory"}
CACHED = CONSTANT | {"active-l2", "refcount-block", "inactive-l1"}


def with_all_regions(path):
    """An image with a snapshot and a bitmap, and where its tables are."""
    zoo.create(path.parent, path.name, "64M")
    qemu_io(path, "write -P 1 0 64k")
    qemu_img("snapshot", "-c", "s", path).succeeded()
    qemu_io(path, "write -P 2 0 64k")
    qemu_img("bitmap", "--add", path, "b").succeeded()
    data = path.read_bytes()

    def be64(at):
        return struct.unpack_from(">Q", data, at)[0] & 0x00fffffffffffe00
    at = {"active-l1": be64(40), "refcount-table": be64(48), "snapshot-table": be64(64)}
    at["active-l2"], at["refcount-block"] = be64(at["active-l1"]), be64(at["refcount-table"])
    at["inactive-l1"] = be64(at["snapshot-table"])
    at["inactive-l2"] = be64(at["inactive-l1"])
    at["bitmap-directory"] = be64(data.index(struct.pack(">I", 0x23852875)) + 24)
    assert sorted(at) == sorted(REGIONS) and len(set(at.values())) == len(at)
    return at


@pytest.mark.parametrize("region", REGIONS)
def test_what_is_guarded_isnt_overwritten(region, work):
    """The table's cluster is counted as free, so that new data would be written there."""
    path = work / "made.qcow2"
    at = with_all_regions(path)
    damaged = bytearray(path.read_bytes())
    struct.pack_into(">H", damaged, at["refcount-block"] + 2 * (at[region] >> 16), 0)
    for option, caught in (
            ("", region in CACHED), (",overlap-check=none", False),
            (f",overlap-check=none,overlap-check.{region}=on", True),
            (f",overlap-check.template=all,overlap-check.{region}=off", False),
            (f",overlap-check.{region}=off", False),
            (",overlap-check=constant", region in CONSTANT),
            (",overlap-check=cached", region in CACHED), (",overlap-check.template=all", True)):
        found = []
        for program, env in (("qemu-io", {}), (drop_in(work), SANITIZER_ENV)):
            (work / "a.qcow2").write_bytes(damaged)
            result = command(program, "--image-opts", NODE + option, "-c", "w -P 9 128k 64k",
                             cwd=work, env=env)
            found.append((result.out.split("64 KiB")[0], incompatible(work / "a.qcow2"),
                          [line for line in result.err.splitlines() if "corrupt" in line]))
        assert found[0] == found[1], option
        assert (found[1][1] == 2) == caught == found[1][0].startswith("write failed"), option


# ---- discards ----

def used(folder, name="a.qcow2"):
    os.sync()
    return os.stat(folder / name).st_blocks * 512


def freed(make, run):
    """What (theirs, ours) give back of the host's space, in steps of 64 KiB."""
    sizes = []
    for folder in make:
        before = used(folder)
        run(folder)
        sizes.append(round((before - used(folder)) / (64 * KIB)))
    return sizes


DISCARDS = [("", 8), (",discard=unmap", 8), (",discard=ignore", 0), (",pass-discard-request=on", 8),
            (",discard=unmap,pass-discard-request=off", 0), (",pass-discard-snapshot=off", 8),
            (",pass-discard-other=off", 8)]


def filled(folder):
    zoo.create(folder, "a.qcow2", "-o", "preallocation=metadata", "4M")
    zoo.io(folder, "a.qcow2", "write -P 1 0 1M")


@pytest.mark.parametrize("options,clusters", DISCARDS)
def test_discarded_space_goes_back_to_the_host(options, clusters, work):
    pair = Pair(work, filled)
    programs = {pair.theirs: "qemu-io", pair.ours: pair.program}
    assert freed(programs, lambda folder: command(
        programs[folder], "--image-opts", NODE + options, "-c", "discard 0 512k", "-c", "r 0 1M",
        cwd=folder, env=SANITIZER_ENV).succeeded()) == [clusters] * 2


@pytest.mark.parametrize("options,clusters", [
    ("", 16), (",pass-discard-snapshot=on", 16), (",pass-discard-snapshot=off", 0),
    (",pass-discard-request=off", 16), (",pass-discard-other=off", 16)])
def test_so_does_the_space_of_a_deleted_snapshot(options, clusters, work):
    def make(folder):
        filled(folder)
        qemu_img("snapshot", "-c", "s", "a.qcow2", cwd=folder).succeeded()
        zoo.io(folder, "a.qcow2", "write -P 2 0 1M")
    pair = Pair(work, make)
    link = work / "qemu-img"
    link.symlink_to(TOOL)
    programs = {pair.theirs: "qemu-img", pair.ours: link}
    found = freed(programs, lambda folder: command(
        programs[folder], "snapshot", "--image-opts", "-d", "s", NODE + options, cwd=folder,
        env=SANITIZER_ENV).succeeded())
    # tables and what the name took are another 64 or 128 KiB
    assert [clusters <= n <= clusters + 2 for n in found] == [True, True], found


def test_without_unref_a_discard_keeps_the_place(work):
    """Ours alone: 7.2 hasn't got the option."""
    pair = Pair(work, filled)
    where = [e for e in qemu_img("map", "--output=json", "a.qcow2", cwd=pair.ours).json()
             if e["data"]]
    for option, clusters in ((",discard-no-unref=on", 8),
                             (",discard-no-unref=on,discard=ignore", 0),
                             (",discard-no-unref=on,pass-discard-request=off", 0)):
        before = used(pair.ours)
        result = command(pair.program, "--image-opts", NODE + option, "-c", "discard 0 512k",
                         "-c", "r 512k 512k", cwd=pair.ours, env=SANITIZER_ENV).succeeded()
        assert round((before - used(pair.ours)) / (64 * KIB)) == clusters, result.describe()
        zoo.io(pair.ours, "a.qcow2", "write -P 1 0 512k")
        after = [e for e in qemu_img("map", "--output=json", "a.qcow2", cwd=pair.ours).json()
                 if e["data"]]
        assert after == where  # written again they lie where they were
    command(pair.program, "--image-opts", f"{NODE},discard-no-unref=on", "-c", "discard 0 512k",
            "-c", "r -P 0 0 512k", "-c", "r -P 1 512k 512k", cwd=pair.ours,
            env=SANITIZER_ENV).succeeded()
    is_clean("a.qcow2", cwd=pair.ours)
    plain = command(pair.program, "--image-opts", f"{NODE},discard-no-unref=maybe", "-c", "length",
                    cwd=pair.ours)
    assert "'discard-no-unref' expects 'on' or 'off'" in plain.err


def test_what_a_snapshot_has_too_stays_as_it_is(work):
    def make(folder):
        zoo.create(folder, "a.qcow2", "1M")
        zoo.io(folder, "a.qcow2", "write -P 1 0 512k")
        qemu_img("snapshot", "-c", "s", "a.qcow2", cwd=folder).succeeded()
        zoo.io(folder, "a.qcow2", "write -P 2 64k 64k")
    pair = Pair(work, make)
    for commands in (["discard 0 256k"], ["w -z -u 256k 256k"]):
        _, ours = both(pair, f"{NODE},discard-no-unref=on", *commands, "r -P 0 0 256k")
        assert ours.code == 0 and "verification" not in ours.out, ours.describe()
    is_clean("a.qcow2", cwd=pair.ours)
    qemu_img("snapshot", "-a", "s", "a.qcow2", cwd=pair.ours).succeeded()
    qemu_io(pair.ours / "a.qcow2", "read -P 1 0 512k")


@pytest.mark.parametrize("option", ["detect-zeroes=on", "detect-zeroes=unmap", "detect-zeroes=off",
                                    "detect-zeroes=unmap,discard=ignore",
                                    "detect-zeroes=unmap,discard=unmap"])
def test_zeros_are_detected(option, work):
    def make(folder):
        zoo.create(folder, "a.qcow2", "2M")
        zoo.io(folder, "a.qcow2", "write -P 1 0 1M")
    pair = Pair(work, make)
    for c in ("w -P 0 0 64k", "w -P 0 100k 4k", "w -f -P 0 128k 64k", "w -c -P 0 1M 64k",
              "writev -P 0 512k 32k 32k", "aio_write -P 0 640k 64k", "w -P 1 768k 64k", "w 0 0"):
        pair.run("--image-opts", f"{NODE},{option}", *script([c, "aio_flush"]))
        maps = [qemu_img("map", "--output=json", "a.qcow2", cwd=f).out
                for f in (pair.theirs, pair.ours)]
        assert maps[0] == maps[1], c


# ---- other nodes ----

def test_another_data_file_is_used(work):
    def make(folder):
        zoo.create(folder, "a.qcow2", "-o", "data_file=d.raw", "1M")
        zoo.io(folder, "a.qcow2", "write -P 5 0 64k")
        raw(folder, "b.raw", MIB, b"another!" * 8192)
    pair = Pair(work, make)
    pair.run("--image-opts", f"{NODE},data-file.filename=b.raw", *script(
        ["r -v 0 16", "w -P 7 4k 4k", "r -P 7 4k 4k", "r -P 5 0 512"]))
    pair.run("--image-opts", f"{NODE},data-file.driver=raw,data-file.offset=8,data-file.size=65536,"
             "data-file.file.driver=file,data-file.file.filename=b.raw", *script(["r -v 0 16"]))
    for node in ("data-file.filename=gone", "data-file.driver=file", "data-file.foo=1",
                 "data-file=x", "data-file.filename=b.raw,data-file.foo=1"):
        pair.run("--image-opts", f"{NODE},{node}", "-c", "r -v 0 16")
    assert (pair.ours / "d.raw").read_bytes()[:65536] == b"\5" * 65536


def test_a_part_of_a_file_is_written_where_it_is(work):
    pair = Pair(work, lambda folder: raw(folder, "a.raw", MIB))
    pair.run("--image-opts", "driver=raw,offset=512,size=1024,file.filename=a.raw", *script(
        ["w -P 1 0 512", "w -P 2 512 512", "w 1024 1", "truncate 2k", "length", "flush"]))
    pair.run("--image-opts", "driver=raw,offset=1M,file.filename=a.raw", "-c", "length")
    pair.run("--image-opts", "driver=raw,offset=2M,file.filename=a.raw", "-c", "length")
    content = (pair.ours / "a.raw").read_bytes()
    assert content[:2048] == bytes(512) + b"\1" * 512 + b"\2" * 512 + bytes(512)


@pytest.fixture
def device(work):
    (work / "lower").write_bytes(bytes(4 * MIB))
    made = subprocess.run(["losetup", "--find", "--show", work / "lower"], capture_output=True,
                          text=True)
    if made.returncode != 0:
        pytest.skip(f"no loop devices here: {made.stderr.strip()}")
    yield made.stdout.strip()
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


def test_devices_are_no_files_and_files_no_devices(work, device):
    pair = Pair(work, lambda folder: zoo.create(folder, "a.qcow2", "1M"))
    commands = script(["w -P 3 1k 1k", "r -P 3 1k 1k", "length"])
    for node in (f"driver=host_device,filename={device}", f"driver=file,filename={device}",
                 f"driver=raw,file.driver=host_device,file.filename={device}",
                 f"driver=raw,file.filename={device}", "driver=host_device,filename=a.qcow2",
                 "driver=qcow2,file.driver=host_device,file.filename=a.qcow2",
                 "driver=host_device", "driver=host_device,filename=gone"):
        pair.run("--image-opts", node, *commands)


def test_nothing_is_as_large_as_was_said(work):
    pair = Pair(work, lambda folder: None)
    for node in ("driver=null-co", "driver=null-co,size=3M,read-zeroes=on",
                 "driver=null-co,read-zeroes=on,latency-ns=1000",
                 "driver=raw,file.driver=null-co,file.size=1M,file.read-zeroes=on"):
        pair.run("--image-opts", node, *script(
            ["length", "w -P 1 0 64k", "r -q 0 64k", "discard 0 64k", "flush",
             "r -P 0 0 64k" if "zeroes" in node else "length"]))
    # of this the real program dies
    _, ours = both(pair, "driver=null-co,size=x", "length")
    assert ours.code == 1 and "expects a non-negative number" in ours.err


def test_past_the_page_cache(work):
    """cache.direct opens the file with O_DIRECT, by node, by child and not at all."""
    zoo.create(work, "a.qcow2", "1M")
    for options, direct in ((",cache.direct=on", True), ("", False), (",cache.direct=off", False)):
        with subprocess.Popen([drop_in(work), "--image-opts", NODE + options], cwd=work,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
            p.stdin.write("length\n")
            p.stdin.flush()
            while "MiB" not in p.stdout.readline():
                pass
            flags = [int(line.split()[1], 8) for fd in Path(f"/proc/{p.pid}/fd").iterdir()
                     if os.readlink(fd).endswith("/a.qcow2")
                     for line in Path(f"/proc/{p.pid}/fdinfo/{fd.name}").read_text().splitlines()
                     if line.startswith("flags:")]
            p.communicate("quit\n", timeout=60)
        assert flags and all(bool(f & os.O_DIRECT) == direct for f in flags), options


def test_locks_by_options(work):
    pair = Pair(work, lambda folder: zoo.create(folder, "a.qcow2", "1M"))
    with zoo.held_by_qemu_io(pair.theirs / "a.qcow2"), zoo.held_by_qemu_io(pair.ours / "a.qcow2"):
        for options in ("", ",force-share=on", ",file.locking=off", ",file.locking=on",
                        ",read-only=on", ",force-share=on,read-only=on", ",file.locking=foo"):
            pair.run("-r", "--image-opts", NODE + options, *script(["length", "r 0 512"]))


BAD = ["lazy-refcounts=maybe", "l2-cache-size=x", "l2-cache-size=-1",
       "cache-size=99999999999999999999",
       "refcount-cache-size=1.5x", "l2-cache-entry-size=256", "l2-cache-entry-size=128k",
       "cache-size=1M,l2-cache-size=2M", "cache-size=1M,refcount-cache-size=2M",
       "cache-size=1M,l2-cache-size=512k,refcount-cache-size=512k", "cache-clean-interval=x",
       "cache-clean-interval=99999999999", "overlap-check.foo=on", "overlap-check.foo=maybe",
       "overlap-check.active-l1=maybe", "pass-discard-request=1", "pass-discard-snapshot=",
       "pass-discard-other=ON", "discard=foo", "detect-zeroes=foo", "cache.direct=1",
       "cache.no-flush=x", "read-only=x", "auto-read-only=x", "force-share=x", "backing=x",
       "backing.foo=1", "file.foo=1", "foo=1", "file=x", "file.driver=foo", "driver=foo"]


@pytest.mark.parametrize("option", BAD)
def test_bad_values_are_refused_alike(option, work):
    pair = Pair(work, lambda folder: zoo.create(folder, "a.qcow2", "1M"))
    result = pair.run("--image-opts", f"{NODE},{option}", "-c", "length")
    assert result.code == 1
