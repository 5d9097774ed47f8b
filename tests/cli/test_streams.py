# SPDX-License-Identifier: MIT
"""Standard streams that are full, closed, a pipe that nobody reads, or a terminal."""
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from lib.run import SANITIZER_ENV, TOOL, command  # noqa: E402

ENV = {**os.environ, **SANITIZER_ENV, "LC_ALL": "C"}


def shell(script, work):
    return command("sh", "-c", script.replace("qcow2 ", f"{TOOL} ", 1), cwd=work,
                   env=SANITIZER_ENV).ended_well()


@pytest.fixture
def name(work):
    return zoo.all_states(work)


@pytest.mark.parametrize("words", ["info disk.qcow2", "info --output=json disk.qcow2",
                                   "map disk.qcow2", "map --output=json disk.qcow2",
                                   "dump disk.qcow2", "help", "--version", "info --help"])
@pytest.mark.parametrize("to,why", [(">/dev/full", "No space left"), (">&-", "Bad file")])
def test_lost_output_is_an_error(words, to, why, name, work):
    result = shell(f"qcow2 {words} {to}", work)
    assert result.code == 1, result.describe()
    lines = result.sentences()
    assert len(lines) == 1 and lines[0].startswith("qcow2: "), result.describe()
    assert "standard output" in lines[0] and why in lines[0], result.describe()


def test_lost_output_of_compare_is_trouble(name, work):
    assert shell("qcow2 compare disk.qcow2 disk.qcow2 >/dev/full", work).code == 2
    assert shell("qcow2 compare -q disk.qcow2 disk.qcow2 >/dev/full", work).code == 0


def test_an_image_never_becomes_standard_output(name, work):
    before = Path(work, name).read_bytes()
    for closed in (">&-", "<&- >&-", "<&- >&- 2>&-", "2>&-"):
        result = shell(f"qcow2 info disk.qcow2 {closed}", work)
        assert result.code == (0 if closed == "2>&-" else 1), result.describe()
    assert Path(work, name).read_bytes() == before


def test_a_pipe_that_nobody_reads_ends_the_verb(work):
    """More output than a pipe holds: it stops at once and says so."""
    with open(Path(work, "many.raw"), "wb") as f:
        for i in range(4000):
            f.seek(8192 * i)
            f.write(b"x" * 4096)
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as out:
        done = subprocess.run([TOOL, "map", "--output=json", "many.raw"], cwd=work, stdout=out,
                              stderr=subprocess.PIPE, env=ENV, timeout=60)
    assert done.returncode == 1, done
    said = json.loads(done.stderr)
    assert said["error"] == "could not write to standard output: Broken pipe"


def on_terminal(words, work, env=None):
    """Exit code, and what a terminal saw on both streams."""
    master, slave = pty.openpty()
    with subprocess.Popen([TOOL, *words], cwd=work, stdin=subprocess.DEVNULL, stdout=slave,
                          stderr=slave, env={**ENV, "TERM": "xterm", **(env or {})}) as p:
        os.close(slave)
        seen = b""
        while True:
            try:
                piece = os.read(master, 4096)
            except OSError:
                piece = b""
            if not piece:
                break
            seen += piece
    os.close(master)
    return p.returncode, seen.decode(errors="replace")


def test_a_short_job_shows_no_progress_even_on_a_terminal(name, work):
    code, seen = on_terminal(["compare", name, name], work)
    assert (code, seen) == (0, "Images are identical.\r\n")


def test_nothing_moves_in_a_pipe(name, work):
    done = subprocess.run([TOOL, "compare", name, name], cwd=work, env=ENV, timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.stdout == b"Images are identical.\n"
