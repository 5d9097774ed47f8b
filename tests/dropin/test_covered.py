# SPDX-License-Identifier: MIT
"""
Nothing is left out of the comparisons: what the installed tools say that they take, each option of
each verb, each creation option, each command of qemu-io, stands in a line that both are given.
"""
import ast
import os
import re
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import test_scenarios  # noqa: E402
import twin  # noqa: E402
from lib import run  # noqa: E402

# What the help of 7.2 doesn't list and yet is taken, from the manual page and from use.
UNLISTED = {"check": ["--repair", "--force-share"], "info": ["--force-share"],
            "map": ["-s", "-l"], "bitmap": ["--granularity", "--source-file", "--source-format"]}
SHORT = {"read": "r", "write": "w", "quit": "q"}
SHELL = run.REPO / "tests/cli"
IO_TESTS = [*SHELL.glob("test_io*.py"), SHELL / "test_names.py"]


def compared():
    """The command lines that both tools get, by verb."""
    lines = [command for case in twin.read_cases() for command in case.commands]
    for text in test_scenarios.SCENARIOS.values():
        lines += test_scenarios.steps(text)
    verbs = {}
    for words in lines:
        if words and words[0] not in ("!", "?"):
            verbs.setdefault(words[0], []).append(words[1:])
    return verbs


LINES = compared()


def values(lines, option, takes_value):
    """What is given to an option: {None} stands for being there."""
    found = set()
    for words in lines:
        for at, word in enumerate(words):
            name, _, value = word.partition("=")
            if option.startswith("--"):
                if name == option and (value or not takes_value):
                    found.add(value or None)
                    continue
            elif not takes_value and re.fullmatch(rf"-\w*{option[1]}\w*", word):
                found.add(None)
                continue
            if word == option and takes_value and at + 1 < len(words):
                found.add(words[at + 1])
    return found


def options_of_verbs():
    """(verb, option, whether it takes a value), as qemu-img --help has them."""
    text = run.qemu_img("--help").succeeded().out
    syntax = re.findall(r"^  (\w+) ((?:\[|\().*)$", text, re.M)
    assert len(syntax) == 15
    rows = set()
    for verb, line in syntax:
        for option, value in re.findall(r"(--?[\w-]+)((?:[= ]+(?!\||filename|-)\[?\w+)?)", line):
            rows.add((verb, option, bool(value.strip())))
        rows |= {(verb, o, o not in ("--force-share",)) for o in UNLISTED.get(verb, [])}
    return sorted(rows)


def test_the_help_is_understood():
    rows = options_of_verbs()
    assert {("map", "--start-offset", True), ("check", "-r", True), ("bitmap", "--add", False),
            ("bitmap", "--merge", True), ("rebase", "-b", True), ("amend", "--force", False),
            ("snapshot", "-l", False), ("snapshot", "-a", True), ("resize", "--shrink", False),
            ("measure", "--size", True), ("dd", "-U", False)} <= set(rows)
    assert len(rows) >= 140


def test_every_option_of_every_verb_is_compared():
    missing = []
    for verb, option, takes_value in options_of_verbs():
        # a good value and a bad one
        if len(values(LINES[verb], option, takes_value)) < (2 if takes_value else 1):
            missing.append(f"{verb} {option}")
    assert not missing, missing


@pytest.mark.parametrize("verb", sorted({row[0] for row in options_of_verbs()}))
def test_what_is_wrong_with_any_verb_is_compared(verb):
    lines = LINES[verb]
    assert [] in lines, "without anything"
    assert any("--frob" in words for words in lines), "an option that nobody knows"
    assert any(words and words[-1] in ("-f", "-b", "-c", "-o", "-O", "-g") for words in lines), \
        "an option without its value"
    assert any(words and not words[0].startswith("-") and any(w.startswith("-") for w in words[1:])
               for words in lines), "an option behind an operand"
    assert any("--" in words for words in lines), "the end of the options"


def creation_options(verb, fmt):
    words = ["-f", fmt] if verb != "convert" else ["-O", fmt]
    text = run.qemu_img(verb, *words, "-o", "help").succeeded().out
    names = re.findall(r"^  (\w[\w.-]*)=<", text, re.M)
    assert "size" in names
    return [name for name in names if not name.startswith("encrypt")]


@pytest.mark.parametrize("verb", ["create", "convert", "amend", "measure"])
def test_every_creation_option_is_compared(verb):
    given = ",".join(value for words in LINES[verb] for value in values([words], "-o", True))
    for fmt in ("qcow2",) if verb == "amend" else ("qcow2", "raw"):
        for name in creation_options(verb if verb != "measure" else "create", fmt):
            values_of = set(re.findall(rf"(?:^|,){name}=([^,]*)", given))
            assert len(values_of) > 1, f"{verb} -o {name}: {values_of}"


def strings(paths):
    """All strings in Python files, those with parts that are filled in piece by piece."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def io(*commands):
    words = [word for c in commands for word in ("-c", c)]
    return run.command("qemu-io", *words).ended_well().out


def test_every_command_of_qemu_io_is_compared():
    texts = list(strings(IO_TESTS))
    rows = re.findall(r"^(\w+)(.*) -- .*$", io("help"), re.M)
    assert len(rows) > 20
    for name, syntax in rows:
        lines = [t for t in texts if t.split(" ")[0] in (name, SHORT.get(name))]
        assert lines, name
        for letter in "".join(re.findall(r"-(\w+)", syntax)):
            assert any(re.search(rf" -\w*{letter}", t) for t in lines), f"{name} -{letter}"


def test_every_option_of_qemu_io_is_compared():
    text = run.command("qemu-io", "--help").succeeded().out
    rows = re.findall(r"^  (?:(-\w), |    )(--[\w-]+)", text, re.M)
    assert len(rows) >= 15
    texts = set(strings(IO_TESTS))
    for letter, name in rows:
        assert any(t == name or t.startswith(name + "=") or
                   (letter and re.fullmatch(rf"-\w*{letter[1]}\w*", t)) for t in texts), name
