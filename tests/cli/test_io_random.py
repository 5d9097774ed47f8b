# SPDX-License-Identifier: MIT
"""
qcow2 io as qemu-io: scripts of random commands, right and wrong ones, through both. What is drawn
follows from QCOW2_TEST_SEED.
"""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from io_oracle import Pair, raw, script  # noqa: E402

SIZE = 4 << 20
COMMANDS = 40


class Script:
    """Draws commands."""

    def __init__(self, rng):
        self.rng = rng

    def one(self, *choices):
        return self.rng.choice(choices)

    def number(self, most):
        n = self.rng.randrange(most)
        n = self.one(n, n & ~511, n & ~511, n & ~4095, n & ~65535)
        text = self.one(str(n), str(n), hex(n), f"{n >> 10}k" if n % 1024 == 0 else str(n))
        return self.rng.choices([text, "x", "1.5k", "-1", "8E", "0"], [60, 1, 1, 1, 1, 2])[0]

    def range(self):
        return f"{self.number(SIZE + 65536)} {self.number(self.one(1000, 70000, 600000))}"

    def sectors(self):
        return f"{self.rng.randrange(SIZE >> 9) << 9} {self.rng.randrange(600) << 9}"

    def clusters(self):
        """Whole ones: for zeros where there is nothing we never allocate, they do in part."""
        return f"{self.rng.randrange(SIZE >> 16) << 16} {self.rng.randrange(6) << 16}"

    def flags(self, letters, most=2):
        drawn = self.rng.sample(letters, self.rng.randrange(min(most, len(letters)) + 1))
        return " ".join("-" + c for c in drawn)

    def pattern(self):
        return self.one("", f"-P {self.rng.randrange(256)}", f"-P {self.rng.randrange(258):#x}")

    def vector(self):
        return " ".join(self.number(3000) for _ in range(self.rng.randrange(1, 6)))

    def command(self):
        draw = self.one(
            lambda: f"write {self.flags('fpqu')} {self.pattern()} {self.range()}",
            lambda: f"write -z {self.flags('Cfqu')} {self.clusters()}",
            lambda: f"write -z {self.flags('Cfqu')} -P 1 {self.range()}",
            lambda: f"write -P {self.rng.randrange(256)} {self.range()}",
            lambda: f"read {self.flags('Cpq')} {self.pattern()} {self.range()}",
            lambda: f"read -v {self.number(SIZE)} {self.rng.randrange(80)}",
            lambda: f"read -P 0 -s {self.rng.randrange(900)} -l {self.rng.randrange(900)} "
                    f"{self.number(SIZE)} {self.rng.randrange(2000)}",
            lambda: f"writev {self.flags('Cfq')} {self.pattern()} {self.number(SIZE)} "
                    f"{self.vector()}",
            lambda: f"readv {self.flags('Cqv')} {self.pattern()} {self.number(SIZE)} "
                    f"{self.vector()}",
            lambda: f"discard {self.flags('Cq')} {self.range()}",
            lambda: f"alloc {self.range()}",
            lambda: f"alloc {self.number(SIZE)}",
            lambda: f"write -b {self.flags('Cpq')} {self.pattern()} {self.range()}",
            lambda: f"write -b -P {self.rng.randrange(256)} {self.sectors()}",
            lambda: f"read -b {self.flags('Cpq')} {self.pattern()} {self.sectors()}",
            lambda: self.one("map", "length", "flush", "info", "aio_flush", "reopen", "reopen -r",
                             "reopen -w", "reopen -c none", "r", "help read x"),
        )
        return draw()

    def commands(self):
        return [self.command() for _ in range(COMMANDS)] + ["reopen -w", "map"]


def qcow2(*words):
    return lambda folder: zoo.create(folder, "disk.qcow2", *words, str(SIZE))


def over(folder):
    zoo.create(folder, "base.qcow2", str(SIZE - 300000 // 512 * 512))
    zoo.io(folder, "base.qcow2", "write -P 7 100k 1M", "write -z 700k 100k")
    return zoo.create(folder, "disk.qcow2", "-b", "base.qcow2", "-F", "qcow2", str(SIZE))


FLAVOURS = {
    "raw": lambda folder: raw(folder, "disk.raw", SIZE),
    "plain": qcow2(),
    "4k": qcow2("-o", "cluster_size=4k"),
    "subclusters": qcow2("-o", "extended_l2=on"),
    "version 2": qcow2("-o", "compat=0.10"),
    "backing": over,
}


@pytest.mark.parametrize("round_", range(4))
@pytest.mark.parametrize("name", FLAVOURS)
def test_random_scripts(name, round_, work, rng):
    names = []
    pair = Pair(work, lambda folder: names.append(FLAVOURS[name](folder)))
    fmt = "raw" if names[0].endswith("raw") else "qcow2"
    for _ in range(3):
        pair.run("-f", fmt, names[0], *script(Script(rng).commands()))
