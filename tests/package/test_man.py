# SPDX-License-Identifier: MIT
"""
A manual page for each verb, with every option of its help, and examples that print what they show.
"""
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lib import run, tour

sys.path.insert(0, str(run.REPO / "tools"))

import docs  # noqa: E402

PAGES = sorted((run.REPO / "docs/man").glob("*.1.scd"))
VERBS = [c["name"] for c in docs.commands(run.TOOL)]


def page(template):
    return docs.page(template, docs.commands(run.TOOL))


def test_there_is_a_page_for_the_command_and_each_verb():
    assert {p.name for p in PAGES} == {"qcow2.1.scd"} | {f"qcow2-{v}.1.scd" for v in VERBS}
    listed = Path(run.REPO, "docs/meson.build").read_text()
    for verb in VERBS:
        assert f"'{verb}'" in listed


@pytest.mark.parametrize("template", PAGES, ids=lambda p: p.name)
def test_the_page_is_one(template):
    text = page(template)
    assert "@" not in re.sub(r"^\$ .*", "", text, flags=re.M)
    made = subprocess.run(["scdoc"], input=text, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert ".TH" in made.stdout


def shown_in(text):
    return set(re.findall(r"(?<![\w-])(-\w|--[\w-]+)", text))


@pytest.mark.parametrize("verb", VERBS)
def test_the_page_has_every_option_of_the_help(verb):
    text = page(run.REPO / f"docs/man/qcow2-{verb}.1.scd").replace("\\", "")
    options = re.search(r"^# OPTIONS\n(.*?)^# ", text, re.S | re.M).group(1)
    documented = re.findall(r"^\*(-.*)$", options, re.M)
    help_text = run.tool(verb, "--help").succeeded().out
    listed = re.findall(r"^  ( *-.*?)(?:  |$)", help_text.split("\n\n")[1], re.M)
    assert shown_in("\n".join(documented)) == shown_in("\n".join(listed))
    for summary in re.findall(r"^qcow2-\w+ - (.+)$", text, re.M):
        assert len(summary) > 10


def test_the_main_page_has_every_verb():
    text = page(run.REPO / "docs/man/qcow2.1.scd")
    assert re.findall(r"^\*qcow2-(\w+)\*\(1\)$", text, re.M) == VERBS


@pytest.mark.parametrize("template", PAGES, ids=lambda p: p.name)
def test_the_examples_print_what_they_show(template, work):
    examples = "".join(re.findall(r"^```\n(.*?)^```$", template.read_text(), re.S | re.M))
    assert tour.steps(examples)
    tour.take(examples, work)
