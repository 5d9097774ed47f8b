# SPDX-License-Identifier: MIT
"""What programs look at to find out what their qemu-img can do, and what it says of locks."""
import os
import re
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import twin  # noqa: E402
import zoo  # noqa: E402
from lib import run  # noqa: E402

VERBS = ["amend", "bench", "bitmap", "check", "commit", "compare", "convert", "create", "dd",
         "info", "map", "measure", "rebase", "resize", "snapshot"]


@pytest.fixture
def face(work):
    link = work / "faces/qemu-img"
    link.parent.mkdir()
    link.symlink_to(run.TOOL)
    return lambda *words, **how: run.command(link, *words, env=run.SANITIZER_ENV, **how)


def test_the_version_is_one_that_programs_can_parse(face):
    for word in ("--version", "-V"):
        line = face(word).succeeded().out
        assert re.match(r"qemu-img version (\d+)\.(\d+)(?:\.(\d+))? \(libqcow2 \d+\.\d+\.\d+\)\n$",
                        line)


def test_the_help_is_one_of_all_verbs(face):
    text = face("--help").succeeded().out
    assert text == face("-h").out == face("info", "--help").out == face("convert", "-h").out
    assert re.search(r"^usage: qemu-img ", text, re.M)
    formats = re.search(r"^Supported formats: (.*)$", text, re.M).group(1).split()
    assert {"qcow2", "raw"} <= set(formats)
    syntax = dict(re.findall(r"^  (\w+) (\[.*)$", text, re.M))
    assert set(VERBS) == set(syntax)
    for verb, option in (("info", "[-U]"), ("convert", "[-n]"), ("check", "[--output="),
                         ("create", "[-F "), ("map", "[-U]")):
        assert option in syntax[verb]
    assert "dump" not in syntax and "io" not in syntax


def test_other_verbs_of_ours_are_no_commands(face):
    for verb in ("dump", "io"):
        result = face(verb, "x")
        assert result.code == 1 and result.err.startswith(f"qemu-img: Command not found: {verb}\n")


@pytest.mark.parametrize("words", [
    "info d", "info -U d", "check d", "check -r all d", "check -U d", "map d", "compare d d",
    "snapshot -l d", "snapshot -c s d", "convert -O raw d out", "convert -U -O raw d out",
    "create -f qcow2 d 1M", "convert -n -O qcow2 d2 d"])
def test_locks_are_told_alike(words, face, work):
    for folder in ("ours", "theirs"):
        (work / folder).mkdir()
        zoo.create(work / folder, "d", "1M")
        zoo.create(work / folder, "d2", "1M")
    with zoo.held_by_qemu_io(work / "ours/d"), zoo.held_by_qemu_io(work / "theirs/d"):
        ours = face(*words.split(), cwd=work / "ours").ended_well()
        theirs = run.qemu_img(*words.split(), cwd=work / "theirs")
    assert (ours.code, ours.err) == (theirs.code, theirs.err)
    assert theirs.code or twin.alike(ours.out) == twin.alike(theirs.out)
