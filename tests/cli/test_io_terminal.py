# SPDX-License-Identifier: MIT
"""qcow2 io at a terminal: keys that edit a line, the history, reports while a line is typed."""
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from io_oracle import raw  # noqa: E402
from lib.run import SANITIZER_ENV, TOOL  # noqa: E402

ENV = {**os.environ, **SANITIZER_ENV, "LC_ALL": "C"}
PROMPT = "qcow2 io> "
UP, DOWN, RIGHT, LEFT, DELETE = "\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D", "\x1b[3~"
HOME, END = "\x1b[H", "\x1bOF"


class Terminal:
    """The shell on a terminal of our own."""

    def __init__(self, work, *words, term="xterm", columns=80):
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.modes = termios.tcgetattr(slave)
        self.slave, self.master = slave, master
        self.process = subprocess.Popen([TOOL, "io", *words], cwd=work, stdin=slave, stdout=slave,
                                        stderr=slave, env={**ENV, "TERM": term})
        self.seen = ""
        self.wait_for(PROMPT)

    def wait_for(self, pattern, since=0):
        """Until the pattern is there; what was seen."""
        end = time.monotonic() + 20
        while not re.search(pattern, self.seen[since:]):
            assert time.monotonic() < end, f"no {pattern!r} in {self.seen[since:]!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
        return self.seen[since:]

    def type(self, keys, pattern):
        """Types, waits for what has to appear because of it, and for the prompt after it."""
        since = len(self.seen)
        os.write(self.master, keys.encode())
        self.wait_for(pattern, since)
        end = since + re.search(pattern, self.seen[since:]).end()
        if keys[-1] in "\r\n":
            self.wait_for(PROMPT, end)

    def end(self, keys="\x04"):
        os.write(self.master, keys.encode())
        code = self.process.wait(20)
        while select.select([self.master], [], [], 0)[0]:
            self.seen += os.read(self.master, 4096).decode(errors="replace")
        assert termios.tcgetattr(self.slave) == self.modes
        self.close()
        assert "Sanitizer" not in self.seen and "runtime error" not in self.seen, self.seen
        return code

    def close(self):
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture
def terminal(work):
    raw(work, size=3 << 20)
    return Terminal(work, "-f", "raw", "disk.raw")


@pytest.mark.parametrize("keys", [
    "length", "lengtx\x7fh", "leength" + LEFT * 5 + "\x7f", "ength\x01l", "ength" + HOME + "l",
    "xlength\x01\x04", "xlength\x01" + DELETE, "lengthxyz" + LEFT * 3 + "\x0b",
    "xyzlength" + LEFT * 6 + "\x15", "length foo\x17", "foo\x03length", "lngth\x01\x06e",
    "lngt\x01" + RIGHT + "e" + END + "h", "foo" + UP + DOWN + "\x15length", "lenth\x02\x02g\x05",
    "length\x0c", "length\x1b[5~", "l\u00e9ngth" + LEFT * 4 + "\x7fe", "length" + DOWN * 3,
    "length\x1b[99999999999999~", "length" + " " * 300])
def test_keys_that_edit_a_line(terminal, keys):
    terminal.type(keys + "\r", r"3 MiB\r\n")
    assert terminal.end() == 0


def test_the_history(terminal):
    terminal.type("alloc 0\r", "512/512 bytes")
    terminal.type("length\r", "3 MiB")
    terminal.type("length\r", "3 MiB")
    terminal.type("\r", r"\n")
    terminal.type(UP + "\r", "3 MiB")
    terminal.type("half" + UP + UP + "\r", "512/512 bytes")
    terminal.type("\x10\x10\x0e\x0e\x0elength\r", "3 MiB")
    terminal.type(UP * 20 + "\r", "512/512 bytes")
    terminal.type("leng" + UP + DOWN + "th\r", "3 MiB")
    assert terminal.end("quit\r") == 0


def test_the_end_is_told_by_failures(terminal):
    terminal.type("foo\r", 'command "foo" not found')
    assert terminal.end() == 1


def test_a_line_longer_than_the_terminal(work):
    raw(work)
    terminal = Terminal(work, "-f", "raw", "disk.raw", columns=30)
    terminal.type("r -q -P 0 " + "0" * 100 + "512 " + "0" * 100 + "1024\x01\x05",
                  PROMPT)
    terminal.type("\r", r"\n")
    shown = [line for line in re.split(r"[\r\n]", re.sub(r"\x1b\[\d*[A-Z]", "", terminal.seen))]
    assert max(map(len, shown)) <= 30
    terminal.type("length\r", "10 MiB")
    assert terminal.end() == 0


def test_reports_come_while_a_line_is_typed(terminal):
    terminal.type("aio_write 0 1k\r", r"wrote 1024/1024 bytes at offset 0\r\n1 KiB.*\n")
    terminal.type("leng", "leng")
    terminal.type("th\r", "3 MiB")
    assert terminal.end() == 0


def test_a_terminal_that_knows_nothing(work):
    raw(work)
    terminal = Terminal(work, "-f", "raw", "disk.raw", term="dumb")
    terminal.type("length\n", "10 MiB")
    terminal.type("lengtx\x7fh\n", "10 MiB")
    assert terminal.end() == 0
    assert "\x1b" not in terminal.seen
