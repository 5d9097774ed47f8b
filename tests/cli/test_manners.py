# SPDX-License-Identifier: MIT
"""Messages as objects, progress for programs, colours where they belong."""
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from lib.run import SANITIZER_ENV, TOOL, tool  # noqa: E402


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


def helps():
    listed = json.loads(tool("--dump-options").succeeded().out)
    return {c["name"]: {o.get("name"): o for o in c["options"]} for c in listed}


SPELLED = [("--output=json",), ("--output", "json"), ("--outp=json",), ("--outp", "json"),
           ("--output=text", "--output=json")]
VERBS_WITH_OUTPUT = ("bench", "check", "compare", "dump", "info", "map", "measure", "snapshot")


def test_the_verbs_with_output_are_those_that_are_tested():
    assert {v for v, options in helps().items() if "output" in options} == set(VERBS_WITH_OUTPUT)


@pytest.mark.parametrize("verb", VERBS_WITH_OUTPUT)
def test_with_json_errors_are_objects(verb, work):
    """What is wrong with the files, or the command line before or behind the option."""
    files = ("gone",) * (2 if verb == "compare" else 1)
    code = 2 if verb == "compare" else 1
    for spelled in SPELLED:
        for words in ((*spelled, *files), (*spelled, "--frob", *files),
                      ("--frob", *spelled, *files), (*spelled, "-f"), (*spelled, "a", "b", "c")):
            result = tool(verb, *words, cwd=work).succeeded(code)
            assert result.out == "", result.describe()
            said, = objects(result.err)
            assert said["verb"] == verb and len(said["error"]) > 10, result.describe()
            assert said.get("code") == ("ENOENT" if words == (*spelled, *files) else None)


@pytest.mark.parametrize("words", [
    ("info", "--output=json", "--output=text", "gone"), ("info", "--outputs=json", "gone"),
    ("create", "--output=json", "gone", "x"), ("info", "--o", "gone", "--frob"),
    ("measure", "--o=json", "gone")])  # measure has --options too
def test_without_json_errors_are_sentences(words, work):
    assert tool(*words, cwd=work).succeeded(1).err.startswith("qcow2: ")


def test_warnings_are_objects_too(work):
    name = zoo.fresh(work)
    zoo.patch(work, name, 60, b"\0\0\0\5\0\0\0\0\0\x33\0\0")  # snapshots past the end
    result = tool("info", "--output=json", name, cwd=work)
    assert {frozenset(o) for o in objects(result.err)} <= {
        frozenset({"warning", "verb"}), frozenset({"error", "verb", "code"})}
    assert result.err


def test_an_argument_that_looks_like_the_option_isnt_one(work):
    result = tool("info", "--frob", "--", "--output=json", cwd=work)
    assert result.err.startswith("qcow2: ")


def test_output_is_text_json_or_human_for_every_verb():
    for verb, options in helps().items():
        if "output" in options:
            assert options["output"]["choices"] == ["text", "json", "human"], verb


def test_every_verb_that_shows_progress_shows_it_to_programs():
    shown = {verb for verb, options in helps().items() if "progress" in options}
    assert shown == {"amend", "bench", "check", "commit", "compare", "convert", "create", "dd",
                     "info", "measure", "rebase", "resize", "snapshot"}
    for verb in shown:
        assert helps()[verb]["progress"].get("optional") == "json[:FD]", verb
        for wrong in ("xml", "json:", "json:x", "json:99", "jsonx"):
            result = tool(verb, f"--progress={wrong}", "x")
            assert f"--progress: '{wrong}' is not json" in result.err, result.describe()


WORDS = {
    "amend": ("-o", "refcount_bits=64", "disk.qcow2"), "bench": ("-c", "50", "disk.qcow2"),
    "check": ("disk.qcow2",), "commit": ("top",), "compare": ("disk.qcow2", "disk.qcow2"),
    "convert": ("-O", "qcow2", "disk.qcow2", "out"),
    "create": ("-o", "preallocation=metadata", "out", "1G"),
    "dd": ("bs=1M", "if=disk.qcow2", "of=out"), "info": ("--usage", "disk.qcow2"),
    "measure": ("-O", "qcow2", "disk.qcow2"), "rebase": ("-b", "", "top"),
    "resize": ("--preallocation=metadata", "disk.qcow2", "+1G"),
    "snapshot": ("-c", "x", "disk.qcow2")}


@pytest.mark.parametrize("verb", WORDS)
def test_progress_is_an_object_a_line(verb, work):
    name = zoo.fresh(work)
    zoo.io(work, name, "write -P 1 0 16M")
    tool("create", "-q", "-b", name, "-F", "qcow2", "top", cwd=work).succeeded()
    zoo.io(work, "top", "write -P 2 1M 16M")
    result = tool(verb, "--progress=json", *WORDS[verb], cwd=work).succeeded()
    lines = objects(result.err)
    assert all(set(o) - {"state"} == {"done", "total", "percent", "seconds"} for o in lines)
    assert [o.get("state") for o in lines] == [None] * (len(lines) - 1) + ["finished"]
    assert lines[-1]["done"] == lines[-1]["total"]
    assert "100%" not in result.out


def test_progress_goes_to_the_descriptor_that_is_named(work):
    name = zoo.fresh(work)
    command = f"{TOOL} convert --progress=json:7 -O raw {name} out 7>progress"
    done = subprocess.run(["sh", "-c", command], cwd=work, capture_output=True, text=True,
                          env={**os.environ, **SANITIZER_ENV})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert objects((work / "progress").read_text())[-1]["state"] == "finished"


def test_what_is_cancelled_says_so(work):
    name = zoo.fresh(work)
    zoo.io(work, name, "write -P 1 0 32M")
    command = [TOOL, "convert", "-r", "1M", "--progress=json", "-O", "raw", name, "out"]
    with subprocess.Popen(command, cwd=work, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, **SANITIZER_ENV}) as p:
        assert "done" in json.loads(p.stderr.readline())
        p.send_signal(signal.SIGINT)
        lines = objects(p.stderr.read().split("qcow2:")[0])
    assert p.returncode == -signal.SIGINT
    assert lines[-1]["state"] == "cancelled"
    assert not (work / "out").exists()


def on_a_terminal(work, **env):
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(work)
        os.execve(TOOL, ["qcow2", "info", "gone"], {**os.environ, **SANITIZER_ENV, **env})
    text = b""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            more = os.read(fd, 4096)
        except OSError:
            break
        if not more:
            break
        text += more
    os.close(fd)
    os.waitpid(pid, 0)
    return text.decode()


def test_colours_are_for_terminals_that_want_them(work):
    assert re.match("\033\\[1;31mqcow2:\033\\[0m can't open", on_a_terminal(work, TERM="xterm",
                                                                          NO_COLOR=""))
    for env in ({"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb", "NO_COLOR": ""}):
        assert "\033" not in on_a_terminal(work, **env)
    assert "\033" not in tool("info", "gone", env={"TERM": "xterm"}).err
