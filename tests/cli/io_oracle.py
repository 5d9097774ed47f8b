# SPDX-License-Identifier: MIT
"""
Runs one script of qemu-io commands twice, through the real program and through ours called by that
name, each in a folder of its own with the same images, and compares everything that can be seen:
both outputs but for the timing figures, the exit code, and the files afterwards.
"""
import filecmp
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib.run import SANITIZER_ENV, TOOL, command, qemu_img  # noqa: E402

FIGURES = re.compile(r"( ops; ).*|^(\d+,\d+),\S+$", re.M)


def normal(text):
    """Without the figures that differ from run to run."""
    return FIGURES.sub(lambda m: m.group(1) + "..." if m.group(1) else m.group(2) + ",...", text)


def drop_in(folder):
    """Our tool by the name qemu-io."""
    link = Path(folder, "qemu-io")
    if not link.exists():
        link.symlink_to(TOOL)
    return link


def script(commands):
    return [word for c in commands for word in ("-c", c)]


def raw(folder, name="disk.raw", size=10 << 20, content=b""):
    with open(Path(folder, name), "wb") as f:
        f.write(content)
        f.truncate(size)
    return name


def assert_same_images(theirs, ours):
    """Raw files to the byte; qcow2 images by what they read as and what qemu-img finds in them."""
    names = [sorted(p.name for p in f.iterdir() if p.suffix in (".raw", ".qcow2"))
             for f in (theirs, ours)]
    assert names[0] == names[1]
    for name in names[0]:
        if filecmp.cmp(Path(theirs, name), Path(ours, name), shallow=False):
            continue
        assert name.endswith(".qcow2"), f"{name} differs"
        qemu_img("compare", Path(theirs, name), Path(ours, name)).succeeded()
        checks = [qemu_img("check", "-q", name, cwd=f) for f in (theirs, ours)]
        assert checks[0].code == checks[1].code, checks[1].describe()


class Pair:
    """The same images in two folders: theirs and ours."""

    def __init__(self, work, make):
        self.theirs, self.ours = Path(work, "theirs"), Path(work, "ours")
        for folder in (self.theirs, self.ours):
            folder.mkdir()
            make(folder)
        self.program = drop_in(work)

    def run(self, *words, stdin="/dev/null"):
        theirs = command("qemu-io", *words, cwd=self.theirs, stdin=stdin)
        ours = command(self.program, *words, cwd=self.ours, stdin=stdin, env=SANITIZER_ENV)
        both = f"theirs: {theirs.describe()}\nours: {ours.describe()}"
        assert not ours.timed_out, both
        assert "Sanitizer" not in ours.err and "runtime error" not in ours.err, both
        assert normal(ours.out) == normal(theirs.out), both
        assert ours.err == theirs.err, both
        assert ours.code == theirs.code, both
        assert_same_images(self.theirs, self.ours)
        return ours

    def each(self, options, commands):
        """One run for each command: a difference is shown alone."""
        for c in commands:
            self.run(*options, "-c", c)

    def text(self, text, *words):
        """The commands from a file on standard input."""
        path = Path(self.ours.parent, "stdin")
        path.write_bytes(text.encode())
        return self.run(*words, stdin=path)
