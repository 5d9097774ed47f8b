# SPDX-License-Identifier: MIT
"""What an act takes away is said before it: on a terminal, or in its place with --dry-run."""
import os
import pty
import re
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from lib.run import SANITIZER_ENV, TOOL, qemu_img, tool  # noqa: E402

DATE = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d"
# words, and the sentence: "[a|b]" is a for what would be, b for what will
LOSSES = [
    ("snapshot -a one a", 'the disk [would go|goes] back to snapshot "one" (ID 1, of DATE): what '
     "was written since then, and isn't in another snapshot, [would be|is] lost"),
    ("snapshot -d one a", 'snapshot "one" (ID 1, of DATE, a disk of 4 MiB) [would be|is] deleted, '
     "and what only it has [would be|is] lost"),
    ("resize --shrink a 1M", "the disk [would lose|loses] its last 3 MiB (3145728 bytes), of which "
     "64 KiB (65536 bytes) hold data"),
    ("amend --shrink -o size=1M a", "the disk [would lose|loses] its last 3 MiB (3145728 bytes), "
     "of which 64 KiB (65536 bytes) hold data"),
    ("amend --force -o compat=0.10 b",
     "1 bitmap [would be|will be] lost: version 2 can't have them"),
    ("bitmap --remove b x", 'bitmap "x" [would be|is] removed, and with it [would go|goes] which '
     "128 KiB of the disk were written"),
    ("bitmap --clear b x", 'bitmap "x" [would be|is] cleared, and with it [would go|goes] which '
     "128 KiB of the disk were written"),
    ("commit top", '"a" [would lose|loses] what it has where the 192 KiB of data in "top" are '
     "written: other images on it [would be|are] of no use then"),
    ("commit -b a top", '"a" [would get|gets] what the images above it hold, and [would lose|loses]'
     ' what it has there: all that stand on it, but for "top", [would be|are] of no use then'),
    ("rebase -u -b c -F qcow2 top", 'what the disk has from "a" [would be|is] lost, but for what '
     '"c" has, too: nothing [would be|is] copied'),
    ("rebase -u -b  top", 'what the disk has from "a" [would be|is] lost, but for what is zeros: '
     "nothing [would be|is] copied"),
]
IDS = [words for words, _ in LOSSES]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    work = tmp_path_factory.mktemp("losses")
    for name in ("a", "b", "c"):
        zoo.create(work, name, "4M")
    qemu_img("snapshot", "-c", "one", "a", cwd=work).succeeded()
    zoo.io(work, "a", "write -P 1 0 64k", "write -P 1 2M 64k")
    qemu_img("bitmap", "--add", "b", "x", cwd=work).succeeded()
    zoo.io(work, "b", "write -P 1 100k 64k")
    zoo.create(work, "top", "-b", "a", "-F", "qcow2", "4M")
    zoo.io(work, "top", "write -P 1 0 192k")
    return work


@pytest.fixture
def images(made, work):
    shutil.copytree(made, work, dirs_exist_ok=True)
    return work


def pattern(sentence, would):
    """What is said, as a regular expression."""
    text = re.sub(r"\[([^|]*)\|([^]]*)\]", r"\1" if would else r"\2", sentence)
    return re.escape(text).replace("DATE", DATE)


def on_a_terminal(work, *words):
    """The exit code and what stands on the terminal that standard error is."""
    master, slave = pty.openpty()
    done = subprocess.run([TOOL, *words], cwd=work, stdout=subprocess.DEVNULL, stderr=slave,
                          stdin=subprocess.DEVNULL, check=False,
                          env={**os.environ, **SANITIZER_ENV})
    os.write(slave, b"END")
    text = b""
    while not text.endswith(b"END"):
        text += os.read(master, 4096)
    os.close(slave)
    os.close(master)
    return done.returncode, text[:-3].decode().replace("\r\n", "\n")


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("words,sentence", LOSSES, ids=IDS)
def test_what_will_be_lost_is_said_where_somebody_reads_it(words, sentence, images):
    verb, *words = words.split(" ")
    before = contents(images)
    dry = tool(verb, "--dry-run", *words, cwd=images).succeeded()
    shown = pattern(sentence, True)
    assert re.match(shown[0].upper() + shown[1:] + r"\.\n", dry.out), dry.describe()
    assert dry.err == "" and contents(images) == before
    code, text = on_a_terminal(images, verb, *words)
    assert code == 0 and re.fullmatch(f"qcow2: {pattern(sentence, False)}\n", text), text
    assert contents(images) != before


@pytest.mark.parametrize("words", IDS)
def test_elsewhere_nothing_is_said(words, images):
    assert tool(*words.split(" "), cwd=images).succeeded().err == ""


def test_nor_where_nothing_is_lost_or_asked_to_be_quiet(images):
    for words in ("resize a 8M", "amend -o size=9M a", "bitmap --disable b x", "snapshot -c s c",
                  "amend -o compat=0.10 c", "resize -q --shrink a 8M", "snapshot -q -d one a",
                  "rebase -b c -F qcow2 top"):
        assert on_a_terminal(images, *words.split()) == (0, ""), words


def test_a_dry_run_tells_that_nothing_is_lost(images):
    for words in ("bitmap --dry-run --add b y", "rebase --dry-run -u -b a -F qcow2 c"):
        assert tool(*words.split(), cwd=images).succeeded().out.startswith("Nothing would be lost")


def test_a_dry_run_finds_what_is_wrong(images):
    tool("snapshot", "--dry-run", "-d", "gone", "a", cwd=images).refused("snapshot not found")
    tool("snapshot", "--dry-run", "-a", "gone", "a", cwd=images).refused("No such file")
    tool("bitmap", "--dry-run", "--remove", "b", "gone", cwd=images).refused("'gone' not found")
    result = tool("commit", "--dry-run", "-b", "gone", "top", cwd=images)
    result.refused("Did not find 'gone' in the backing chain of 'top'")
    assert "goes with -u" in tool("rebase", "--dry-run", "-b", "c", "top", cwd=images).err
    assert "-a and -d" in tool("snapshot", "--dry-run", "-l", "a", cwd=images).err
