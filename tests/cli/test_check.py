# SPDX-License-Identifier: MIT
"""
qcow2 check: lines, summary, JSON and exit codes of the real program where both find the same, and
what we say where it finds less or does harm.
"""
import json
import os
import shutil
import struct
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from lib import forged  # noqa: E402
from lib.checking import Patcher  # noqa: E402
from lib.qcow2img import COPIED  # noqa: E402
from lib.run import SANITIZER_ENV, TOOL, command, qemu_img, tool  # noqa: E402
from lib.victims import victim  # noqa: E402

MODES = {"look": [], "leaks": ["-r", "leaks"], "all": ["--repair=all"]}


def make(rng, **options):
    image = victim(rng, **{"extras": False, "refcount_order": 4, **options})
    return Patcher(image, image.build())


def clusters(p, kind):
    return [i for i in sorted(p.built.l2_entry) if p.image.clusters[i].kind == kind]


def append(p):
    off = -(-p.built.file.size // p.cs) * p.cs
    p.built.patch(off, b"x" * p.cs)
    return off


def leaks(p):
    for _ in range(3):
        p.refcount(append(p), 1)


def too_low(p):
    off = next(i for i in range(p.built.file.size // p.cs) if p.refcount(i * p.cs) > 2) * p.cs
    p.refcount(off, 1)


def flip_flags(p):
    p.flip(p.l1(0), COPIED)
    for i in clusters(p, "normal"):
        p.flip(p.l2(i), COPIED)


def too_high(p):
    """The flags are wrong too, as long as the count is."""
    for i in clusters(p, "normal"):
        p.refcount(p.image.clusters[i].host, 3)


def two_owners(p):
    first, second = clusters(p, "normal")[:2]
    p.word(p.l2(first), p.get(p.l2(second)))


def leak_and_more(p):
    leaks(p)
    too_low(p)
    flip_flags(p)


def no_count(p):
    p.refcount(p.image.clusters[0].host, 0)


def no_block(p):
    p.word(p.reftable(0), 0)


def past_end(p):
    p.word(p.l2(clusters(p, "normal")[0]), COPIED | 1 << 40)
    p.word(p.l2(clusters(p, "compressed")[0]), 1 << 62 | 1 << 40 | 0x123)


# What a repair makes of these is the same too.
REPAIRED_ALIKE = {
    "sound": lambda p: None,
    "leaks": leaks,
    "too low": too_low,
    "flags": flip_flags,
    "too high": too_high,
    "two owners": two_owners,
    "dirty": lambda p: p.flip(72, 1),
    "corrupt": lambda p: p.flip(72, 2),
}
FOUND_ALIKE = {
    **REPAIRED_ALIKE,
    "leak and more": leak_and_more,
    "no count": no_count,
    "no block": no_block,
    "past the end": past_end,
    "L1 reserved": lambda p: p.flip(p.l1(0), 1 << 60),
    "L2 reserved": lambda p: p.flip(p.l2(0), 1 << 57),
    "compressed COPIED": lambda p: p.flip(p.l2(8), COPIED),
    "L2 table past the end": lambda p: p.word(p.l1(0), COPIED | 1 << 40),
    "refcount block past the end": lambda p: p.word(p.reftable(0), 1 << 40),
}


def lines(text):
    return [line for line in text.splitlines() if not line.startswith("qemu-img: ")
            and not line.startswith("qcow2: ")]


def check(*words, cwd):
    """Ours; by the name of qemu-img for JSON, which has more in it by our own name."""
    if "--output=json" not in words:
        return tool("check", *words, cwd=cwd)
    link = cwd / "qemu-img"
    if not link.is_symlink():
        link.symlink_to(TOOL)
    return command(link, "check", *words, cwd=cwd, env=SANITIZER_ENV)


def both(patcher, work, *words):
    """The outcomes of ours and of the real one on a copy each."""
    results = []
    for name, program in (("ours", check),
                          ("theirs", lambda *w, **k: qemu_img("check", *w, **k))):
        folder = work / name
        folder.mkdir(exist_ok=True)
        patcher.built.save(forged.path_of(folder, "image.qcow2"))
        results.append(program("-f", "qcow2", *words, "image.qcow2", cwd=folder).ended_well())
    return results


def assert_alike(ours, theirs):
    told = f"{ours.describe()}\n{theirs.describe()}"
    assert ours.code == theirs.code, told
    assert ours.out == theirs.out, told
    assert lines(ours.err) == lines(theirs.err), told


@pytest.mark.parametrize("output", ["human", "json"])
@pytest.mark.parametrize("name", FOUND_ALIKE)
def test_what_both_find(name, output, work, rng):
    p = make(rng)
    FOUND_ALIKE[name](p)
    assert_alike(*both(p, work, f"--output={output}"))


@pytest.mark.parametrize("mode", ["leaks", "all"])
@pytest.mark.parametrize("name", REPAIRED_ALIKE)
def test_what_both_repair(name, mode, work, rng):
    p = make(rng)
    REPAIRED_ALIKE[name](p)
    assert_alike(*both(p, work, *MODES[mode]))
    assert_alike(*both(p, work, *MODES[mode], "--output=json"))
    assert_alike(*both(p, work, *MODES[mode], "-q"))


@pytest.mark.parametrize("kind, damage", [
    ("bitmap", lambda p: p.word(p.l2(7) + 8, 5)),
    ("both", lambda p: p.word(p.l2(12) + 8, 1 << 32 | 1)),
    ("unallocated", lambda p: (p.word(p.l2(13), 0), p.word(p.l2(13) + 8, 1))),
])
def test_the_words_for_subclusters(kind, damage, work, rng):
    p = make(rng, cluster_bits=14, extended_l2=True)
    damage(p)
    ours, theirs = both(p, work)
    assert ours.code == theirs.code == 2
    assert lines(ours.err)[0] == lines(theirs.err)[0]


def test_the_words_for_too_many_references(work, rng):
    p = make(rng, refcount_order=0)
    two_owners(p)
    ours, theirs = both(p, work)
    assert ours.code == theirs.code == 2
    overflow = [line for line in lines(ours.err) if "overflow" in line]
    assert overflow and overflow[0] in lines(theirs.err)


def test_an_empty_image(work):
    qemu_img("create", "-q", "-f", "qcow2", "empty.qcow2", "0", cwd=work).succeeded()
    for words in ([], ["--output=json"], ["-q"], ["-r", "all"]):
        assert_alike(check(*words, "empty.qcow2", cwd=work),
                     qemu_img("check", *words, "empty.qcow2", cwd=work))


def test_names_in_json(work):
    name = 'a "b" \u20ac\\.qcow2'
    qemu_img("create", "-q", "-f", "qcow2", name, "1M", cwd=work).succeeded()
    assert_alike(check("--output=json", name, cwd=work),
                 qemu_img("check", "--output=json", name, cwd=work))


def damaged(path, rng, count):
    """Pokes entries of a table of an image that is as regular as can be, and counts."""
    with open(path, "r+b") as f:
        def word(off, value=None):
            f.seek(off)
            if value is None:
                return struct.unpack(">Q", f.read(8))[0]
            return f.write(struct.pack(">Q", value))

        l2 = word(word(40)) & (1 << 56) - 512
        block = word(word(48))
        # Far from the next table and each once: only we see tables that are used twice.
        for i in rng.sample(range(400), count):
            old = word(l2 + 8 * i)
            word(l2 + 8 * i, rng.choice([0, old & ~COPIED, old + 4096, old | 1, COPIED | 1 << 40,
                                         old | 1 << 58, word(l2 + 8 * rng.randrange(400))]))
            if rng.random() < 0.3:
                f.seek(block + 2 * rng.randrange(16, 500))
                f.write(struct.pack(">H", rng.choice([2, 3])))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 60])
def test_irregularities_among_regular_entries(count, work, rng):
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k,preallocation=metadata",
             "image.qcow2", "8M", cwd=work).succeeded()
    for _ in range(6):
        shutil.copy(work / "image.qcow2", work / "poked.qcow2")
        damaged(work / "poked.qcow2", rng, count)
        for words in ([], ["--output=json"]):
            ours = check(*words, "poked.qcow2", cwd=work).ended_well()
            theirs = qemu_img("check", *words, "poked.qcow2", cwd=work).ended_well()
            told = f"{ours.describe()}\n{theirs.describe()}"
            assert (ours.code, ours.out) == (theirs.code, theirs.out), told
            assert sorted(lines(ours.err)) == sorted(lines(theirs.err)), told


# ---- where it is something else ----

def test_leaks_alone_are_not_mended_where_all_counts_are_lost(work, rng):
    p = make(rng)
    no_block(p)
    before = bytes(p.built.file.read(0, p.built.file.size))
    ours, theirs = both(p, work, "-r", "leaks")
    assert ours.code == theirs.code == 1 and ours.out == theirs.out == ""
    assert lines(ours.err) == lines(theirs.err)
    assert "-r all does that" in ours.err
    assert (work / "ours/image.qcow2").read_bytes() == before


def test_lost_counts_are_written_anew(work, rng):
    p = make(rng)
    no_block(p)
    ours, theirs = both(p, work, "-r", "all")
    assert ours.code == theirs.code == 0
    assert "Rebuilding refcount structure" in lines(ours.err)
    assert "Double checking the fixed image now..." in ours.out
    assert qemu_img("check", work / "ours/image.qcow2").succeeded().out.startswith("No errors")


def test_what_only_we_repair(work, rng):
    p = make(rng)
    p.flip(p.l1(0), 1 << 60)
    p.flip(p.l2(8), COPIED)
    ours, theirs = both(p, work, "-r", "all")
    assert (ours.code, theirs.code) == (0, 2)
    assert "    2 corruptions\n" in ours.out
    assert sum(line.startswith("Repairing ") for line in lines(ours.err)) == 2
    assert qemu_img("check", work / "ours/image.qcow2").succeeded().out.startswith("No errors")


def test_what_only_we_find(work, rng):
    """The L2 table as a data cluster too, with the count that two references have."""
    p = make(rng)
    l2_off = p.get(p.l1(0)) & (1 << 56) - 512
    p.word(p.l2(0), l2_off)
    p.refcount(l2_off, 2)
    p.flip(p.l1(0), COPIED)
    p.refcount(p.image.clusters[0].host, 0)
    ours, theirs = both(p, work)
    assert (ours.code, theirs.code) == (2, 0)
    assert any("L2 table that is used as something else too" in line for line in lines(ours.err))


def test_leaks_behind_the_end_have_a_line_each_up_to_a_bound(work):
    """A refcount block that gives a million clusters past the end of the file a count."""
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=2M,refcount_bits=1", "image.qcow2",
             "1M", cwd=work).succeeded()
    path = work / "image.qcow2"
    with open(path, "r+b") as f:
        f.seek(48)
        table = struct.unpack(">Q", f.read(8))[0]
        f.seek(table)
        block = struct.unpack(">Q", f.read(8))[0]
        f.seek(block + 1024)
        f.write(b"\xff" * ((2 << 20) - 1024))
    result = tool("check", path).succeeded(3)
    assert len(lines(result.err)) == 1 and "clusters: refcount 1, expected 0" in result.err
    tool("check", "-q", "-r", "leaks", path).succeeded(0)


def test_many_lines_take_few_writes(work):
    """Every second cluster of 8000 has a count."""
    qemu_img("create", "-q", "-f", "qcow2", "image.qcow2", "1M", cwd=work).succeeded()
    path = work / "image.qcow2"
    with open(path, "r+b") as f:
        f.seek(48)
        f.seek(struct.unpack(">Q", f.read(8))[0])
        f.seek(struct.unpack(">Q", f.read(8))[0] + 64)
        f.write(b"\0\0\0\1" * 4000)
        f.truncate(8100 << 16)
    env = {**SANITIZER_ENV, "ASAN_OPTIONS": SANITIZER_ENV["ASAN_OPTIONS"] + ":detect_leaks=0"}
    result = command("strace", "-f", "-qq", "-o", work / "calls", "-e", "trace=write", TOOL,
                     "check", path, env=env).succeeded(3)
    assert len(lines(result.err)) == 4000
    calls = (work / "calls").read_text(errors="replace").count("write(2")
    assert 0 < calls <= len(result.err) // 65536 + 1


# ---- options and what isn't an image ----

def test_no_check_for_raw(work):
    (work / "disk.raw").write_bytes(bytes(1 << 20))
    for words in ([], ["-f", "raw"], ["--output=json"], ["-q"], ["-r", "all"]):
        result = tool("check", *words, "disk.raw", cwd=work).refused("raw images", code=63)
        assert result.out == ""
        assert qemu_img("check", *words, "disk.raw", cwd=work).code == 63


@pytest.mark.parametrize("words, said", [
    (["no.qcow2"], "No such file"), (["-f", "qcow2", "disk.raw"], "qcow2"),
    (["-f", "vdi", "a.qcow2"], "unknown format"), (["-U", "-r", "all", "a.qcow2"], "repair"),
])
def test_refusals(words, said, work):
    (work / "disk.raw").write_bytes(bytes(1 << 20))
    zoo.create(work, "a.qcow2", "1M")
    assert tool("check", *words, cwd=work).refused(said).out == ""
    assert qemu_img("check", *words, cwd=work).code == 1


@pytest.mark.parametrize("words", [[], ["a", "b"], ["-r", "some", "a"], ["--output=xml", "a"]])
def test_wrong_usage(words, work):
    result = tool("check", *words, cwd=work).succeeded(1)
    assert "Try 'qcow2 check --help'" in result.err or "--output" in result.err
    assert qemu_img("check", *words, cwd=work).code == 1


def test_a_check_changes_nothing(work, rng):
    p = make(rng)
    leak_and_more(p)
    path = p.built.save(forged.path_of(work, "image.qcow2"))
    shutil.copy(path, work / "copy")
    tool("check", path).succeeded(2)
    assert (work / "copy").read_bytes() == (work / "image.qcow2").read_bytes()


def test_progress(work):
    zoo.create(work, "a.qcow2", "1M")
    zoo.io(work, "a.qcow2", "write 0 64k")
    out = tool("check", "-p", "a.qcow2", cwd=work).succeeded().out
    # A carriage return ends each; it is read as the end of a line here.
    assert out.startswith("    (0.00/100%)\n") and "    (100.00/100%)\nNo errors" in out


def test_json_is_json_and_the_numbers_agree(work, rng):
    p = make(rng)
    leak_and_more(p)
    path = p.built.save(forged.path_of(work, "image.qcow2"))
    result = tool("check", "--output=json", path).succeeded(2)
    data = json.loads(result.out)
    assert data["leaks"] == 3 and data["corruptions"] >= 1 and data["format"] == "qcow2"
    assert result.err == ""
    found = data["findings"]
    leaks = [f for f in found if f["code"] == "leak"]
    assert sum(f["clusters"] for f in leaks) == 3
    assert sum(f["severity"] == "error" for f in found) >= 1
    for f in found:
        assert f["phase"] == "found" and f["repaired"] is False and len(f["sentence"]) > 20
        assert set(f) <= {"code", "severity", "sentence", "guest-offset", "host-offset",
                          "entry-offset", "clusters", "phase", "repaired", "repair"}
    assert all(f["host-offset"] % 512 == 0 for f in leaks)


def test_json_tells_what_was_repaired(work, rng):
    p = make(rng)
    leak_and_more(p)
    path = p.built.save(forged.path_of(work, "image.qcow2"))
    found = json.loads(tool("check", "-r", "all", "--output=json", path).out)["findings"]
    assert {f["code"] for f in found if f["repaired"]} >= {"leak"}
    clean = tool("check", "--output=json", path).json()
    assert [f for f in clean["findings"] if f["severity"] != "note"] == []


def test_an_image_in_use_is_left_alone(work):
    zoo.create(work, "a.qcow2", "1M")
    holder = subprocess.Popen(["qemu-io", "-f", "qcow2", "a.qcow2"], cwd=work, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        # Its prompt comes when the image is open.
        assert holder.stdout.read(1)
        tool("check", "a.qcow2", cwd=work).refused("-U checks it")
        tool("check", "-r", "all", "a.qcow2", cwd=work).refused("a.qcow2")
        tool("check", "-U", "a.qcow2", cwd=work).succeeded()
    finally:
        holder.stdin.close()
        holder.wait(timeout=20)
    tool("check", "-r", "all", "a.qcow2", cwd=work).succeeded()
