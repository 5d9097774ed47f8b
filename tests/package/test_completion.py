# SPDX-License-Identifier: MIT
"""Completion for the shells: each knows every verb, option and value."""
import re
import subprocess
import sys

import pytest

from lib import run

sys.path.insert(0, str(run.REPO / "tools"))

import docs  # noqa: E402

COMMANDS = docs.commands(run.TOOL)
MAKE = {"bash": docs.bash, "zsh": docs.zsh, "fish": docs.fish}


def forms(command):
    return [form for option in command["options"] for form in docs.forms(option)]


@pytest.fixture
def script(work):
    def make(shell):
        path = work / f"completion.{shell}"
        path.write_text(MAKE[shell](COMMANDS, docs.create_options(run.TOOL)))
        return path
    return make


def bash(script, *words):
    """What the function offers for the last word."""
    quoted = " ".join(f"'{w}'" for w in words)
    text = (f". {script}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _qcow2; "
            "printf '%s\\n' \"${COMPREPLY[@]}\"")
    done = subprocess.run(["bash", "-c", text], cwd=script.parent, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("shell", MAKE)
def test_the_script_is_one_of_the_shell(shell, script):
    done = subprocess.run([shell, "-n", script(shell)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr


@pytest.mark.parametrize("shell", MAKE)
def test_every_verb_and_option_is_in_it(shell, script):
    text = script(shell).read_text()
    for command in COMMANDS:
        assert re.search(rf"\b{command['name']}\b", text)
        for form in forms(command):
            fish = f"-s {form[1:]}" if form[1] != "-" else f"-l {form[2:]}"
            assert (fish if shell == "fish" else form) in text, (command["name"], form)


def test_bash_offers_verbs(script):
    path = script("bash")
    assert bash(path, "qcow2", "in") == ["info"]
    assert {c["name"] for c in COMMANDS} <= set(bash(path, "qcow2", ""))
    assert bash(path, "qcow2", "help", "comp") == ["compare"]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c["name"])
def test_bash_offers_every_option_of_the_verb(command, script):
    offered = bash(script("bash"), "qcow2", command["name"], "-")
    assert set(forms(command)) | {"-h", "--help"} == set(offered)


def test_bash_offers_values_and_files(script):
    path = script("bash")
    (path.parent / "disk.qcow2").touch()
    assert bash(path, "qcow2", "info", "--output", "js") == ["json"]
    assert bash(path, "qcow2", "info", "--output", "=", "js") == ["json"]
    assert "json" in bash(path, "qcow2", "info", "--output", "=")
    assert bash(path, "qcow2", "create", "-f", "") == ["qcow2", "raw"]
    assert bash(path, "qcow2", "create", "-o", "clu") == ["cluster_size="]
    assert bash(path, "qcow2", "convert", "-t", "wr") == ["writeback", "writethrough"]
    assert bash(path, "qcow2", "info", "disk") == ["disk.qcow2"]
    assert bash(path, "qcow2", "create", "-b", "disk") == ["disk.qcow2"]
    assert bash(path, "qcow2", "info", "-U", "disk") == ["disk.qcow2"]


def test_fish_offers_the_same(script):
    def fish(line):
        text = f"source {script('fish')}; complete -C '{line}'"
        done = subprocess.run(["fish", "--no-config", "-c", text], capture_output=True, text=True)
        return [offered.split("\t")[0] for offered in done.stdout.splitlines()]

    assert fish("qcow2 inf") == ["info"]
    assert "--output=json" in fish("qcow2 info --output=")
    assert {"--backing-chain", "--force-share"} <= set(fish("qcow2 info --"))
