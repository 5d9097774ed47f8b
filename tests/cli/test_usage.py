# SPDX-License-Identifier: MIT
"""Verbs, options and help: what is typed wrong is told in a way that helps."""
import json
import os
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from lib.run import REPO, tool  # noqa: E402


def verbs():
    text = Path(REPO, "tools/main.c").read_text()
    return re.findall(r"\{&\w+_command,\s+verb_(\w+)\}", text)


VERBS = verbs()


def test_the_list_of_verbs_was_found():
    assert {"info", "map", "compare", "dump"} <= set(VERBS)


def test_help_lists_every_verb():
    result = tool("help").succeeded()
    assert result.out == tool("--help").succeeded().out == tool("-h").succeeded().out
    listed = re.findall(r"^  (\w+) ", result.out, re.M)
    assert sorted(listed) == sorted(set(VERBS))
    assert result.err == ""


def test_without_a_verb_the_help_goes_to_standard_error():
    result = tool().succeeded(1)
    assert result.out == "" and result.err == tool("help").out


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_fits_a_screen(verb):
    result = tool(verb, "--help").succeeded()
    assert result.out == tool("help", verb).out == tool(verb, "-h").out
    lines = result.out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80, result.out
    assert lines[0].startswith(f"Usage: qcow2 {verb} ")
    assert result.err == ""


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_has_every_option(verb):
    source = Path(REPO, f"tools/verb_{verb}.c").read_text()
    table = re.search(r"struct cli_option \w+\[\] = \{(.*?)CLI_END", source, re.S).group(1)
    help_text = tool(verb, "--help").out
    shown = set(re.findall(r"(?<![\w-])(-\w|--[\w-]+)", help_text))
    options = re.findall(r"\{('(\w)'|0), (\"([\w-]+)\"|NULL), CLI_", table)
    assert options
    for _, letter, _, name in options:
        assert not letter or f"-{letter}" in shown, (letter, help_text)
        assert not name or f"--{name}" in shown, (name, help_text)


def options_of_all():
    return [(command["name"], option)
            for command in json.loads(tool("--dump-options").succeeded().out)
            for option in command["options"]]


def test_every_option_has_a_long_form():
    short = {(verb, o["letter"]) for verb, o in options_of_all() if "name" not in o}
    assert short == {("convert", "b"), ("measure", "b")}  # the same as --backing


def test_a_long_option_has_the_same_letter_and_argument_everywhere():
    letters, arguments = {}, {}
    for verb, o in options_of_all():
        letters.setdefault(o["name"] if "name" in o else "backing", set()).add(o.get("letter"))
        arguments.setdefault(o.get("name"), set()).add(o.get("arg"))
    # qemu-img has -t for what is written and -T for what is read; --snapshot is qemu-io's own
    known = {"cache": {"t", "T"}, "snapshot": {"l", "s"}, "backing": {"b", "B"}}
    assert {n: found for n, found in letters.items() if len(found) > 1} == known
    assert {n for n, found in arguments.items() if len(found) > 1} <= {"discard", "aio", "snapshot"}


def test_the_options_that_verbs_share():
    listed = {verb: set() for verb, _ in options_of_all()}
    for verb, o in options_of_all():
        listed[verb].add(o.get("name"))
    moving = {"amend", "check", "commit", "compare", "convert", "dd", "rebase"}
    assert {v for v, names in listed.items() if {"progress", "quiet"} <= names} >= moving
    telling = {"bench", "check", "compare", "dump", "info", "map", "measure", "snapshot"}
    assert {v for v, names in listed.items() if "output" in names} >= telling


def test_the_version():
    result = tool("--version").succeeded()
    assert re.fullmatch(r"qcow2 \d+\.\d+\.\d+\n", result.out)
    assert tool("-V").out == result.out


def wrong(result, said, verb=""):
    result.ended_well()
    assert result.code in (1, 2) and result.out == "", result.describe()
    first, second = result.err.splitlines()
    assert first.startswith("qcow2: ") and said in first, result.describe()
    assert second == f"Try 'qcow2 {verb}{verb and ' '}--help' for more information"


@pytest.mark.parametrize("typed,meant", [("inf", "info"), ("comapre", "compare"), ("mpa", "map"),
                                         ("dmup", "dump")])
def test_a_mistyped_verb_is_guessed(typed, meant):
    wrong(tool(typed), f"unknown verb '{typed}'; did you mean '{meant}'?")
    wrong(tool("help", typed), f"did you mean '{meant}'?")


def test_what_cant_be_guessed_isnt():
    wrong(tool("frobnicate"), "unknown verb 'frobnicate'")
    assert "did you mean" not in tool("frobnicate").err
    wrong(tool("-x"), "unknown option '-x'")
    wrong(tool("--frob"), "unknown option '--frob'")
    wrong(tool(""), "unknown verb ''")


@pytest.mark.parametrize("words,said", [
    (["--backing-chian", "x"], "unknown option '--backing-chian'; did you mean '--backing-chain'?"),
    (["--outptu=json", "x"], "unknown option '--outptu'; did you mean '--output'?"),
    (["--frobnicate", "x"], "unknown option '--frobnicate'"),
    (["-Z", "x"], "unknown option '-Z'"),
    (["-UZ", "x"], "unknown option '-Z'"),
    (["-f"], "option '-f' needs an argument, FMT"),
    (["--output"], "option '--output' needs an argument, text|json"),
    (["--backing-chain=yes", "x"], "option '--backing-chain' takes no argument"),
    (["--help=yes"], "option '--help' takes no argument"),
    (["--output=xml", "x"], "--output: 'xml' is not one of text, json, human"),
    ([], "expecting one image file"),
    (["a", "b"], "expecting one image file")])
def test_wrong_options(words, said):
    wrong(tool("info", *words), said, "info")


def test_options_and_operands_mix_and_long_ones_can_be_cut_short(work):
    name = zoo.fresh(work)
    expected = tool("info", "--output=json", "-f", "qcow2", name, cwd=work).succeeded().out
    for words in ([name, "--output", "json"], ["--out=json", name],
                  ["-fqcow2", name, "--outp=json"], ["--output=json", "--", name],
                  ["-U", name, "--output=human", "--output=json"]):
        assert tool("info", *words, cwd=work).succeeded().out == expected


def test_a_name_that_begins_with_a_dash(work):
    Path(work, zoo.fresh(work)).rename(Path(work, "-disk"))
    assert "image: -disk\n" in tool("info", "--", "-disk", cwd=work).succeeded().out
    assert tool("info", "-disk", cwd=work).code == 1


@pytest.mark.parametrize("verb", sorted(set(VERBS) & {"info", "map", "dump"}))
def test_unknown_formats_are_refused_with_the_list(verb, work):
    name = zoo.fresh(work)
    tool(verb, "-f", "vmdk", name, cwd=work).refused("'vmdk'", "qcow2", "raw")


def test_a_missing_file_is_one_line(work):
    for verb in ("info", "map", "dump"):
        tool(verb, "nowhere.qcow2", cwd=work).refused("nowhere.qcow2", "No such file")
