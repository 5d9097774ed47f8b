# SPDX-License-Identifier: MIT
"""
Runs a command line as qemu-img with both tools, in twin folders that hold copies of the same
images, and tells in which respects they differ.

The cases are the lines of cases/VERB.txt:

  [difference]... WORDS ; WORDS ...

WORDS are the arguments of qemu-img, quoted as in a shell, `;` separates commands that run one
after the other. A difference is one that docs/differences.md lists by that name: it says in which
respects (message, output, code, image) the tools may differ, and they must.
"""
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from lib import run

CASES = Path(__file__).with_name("cases")
DIFFERENCES = run.REPO / "docs/differences.md"
RESPECTS = ("message", "output", "code", "image")


@dataclass
class Case:
    """One line of a file of cases."""
    verb: str
    line: int
    differences: list
    commands: list

    def words(self):
        return [word for command in self.commands for word in command]

    def __str__(self):
        return f"{self.verb}-{self.line}: " + " ; ".join(shlex.join(c) for c in self.commands)


def split(words):
    commands = [[]]
    for word in words:
        if word == ";":
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


def read_cases():
    cases = []
    for path in sorted(CASES.glob("*.txt")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            tags, rest = re.fullmatch(r"((?:\[[\w-]+\] )*)(.*)", line).groups()
            cases.append(Case(path.stem, number, re.findall(r"[\w-]+", tags),
                              split(shlex.split(rest))))
    return cases


def read_differences():
    """{name: respects} of the table in docs/differences.md."""
    rows = re.findall(r"^\| `([\w-]+)` \| ([\w, ]+) \| .+ \|$", DIFFERENCES.read_text(), re.M)
    return {name: set(respects.split(", ")) for name, respects in rows}


def copy_images(library, words, folder):
    """The images of the library that a command names, with those below them."""
    names = set(re.findall(r"[\w.]+", " ".join(words)))
    for image in library.iterdir():
        if image.name in names:
            take(library, image.name, folder)


def take(library, name, folder):
    for needed in [name, *(library / ".needs" / name).read_text().split()]:
        if not (folder / needed).exists():
            shutil.copy(library / needed, folder / needed)


def alike(text):
    """Without what depends on the hour and on the file system."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "DATE", text)
    text = re.sub(r'("(?:date-sec|date-nsec)": )\d+', r"\1N", text)
    text = re.sub(r"disk size: .*", "disk size: ...", text)
    text = re.sub(r"completed in \d+\.\d+ seconds", "completed in N seconds", text)
    text = re.sub(r'("actual-size": )\d+', r"\1N", text)
    text = re.sub(r"(    \(\d+\.\d\d/100%\)\n)+", "PROGRESS\n", text)
    # every newer version prints it
    return re.sub(r', "compressed": (?:true|false)', "", text)


def same_image(ours, theirs):
    if ours.read_bytes() == theirs.read_bytes():
        return True
    if '"format": "raw"' in info(ours) and ours.stat().st_size != theirs.stat().st_size:
        return False
    return run.qemu_img("compare", "-U", ours, theirs).code == 0 and info(ours) == info(theirs)


def info(path):
    text = run.qemu_img("info", "-U", "--output=json", path.name, cwd=path.parent).out
    return alike(text)


def same_folder(ours, theirs):
    names = sorted(p.name for p in ours.iterdir())
    if names != sorted(p.name for p in theirs.iterdir()):
        return False
    return all(same_image(ours / name, theirs / name) for name in names)


def compare(case, library, work, face):
    """The respects in which the tools differ: {respect: (ours, theirs)}."""
    found = {}
    folders = [work / "ours" / "d", work / "theirs" / "d"]
    for folder in folders:
        folder.mkdir(parents=True)
        copy_images(library, case.words(), folder)
    for command in case.commands:
        if command[:1] == ["!"]:  # not a command to compare: it is run in both folders
            for folder in folders:
                run.command(*command[1:], cwd=folder).succeeded()
            continue
        if command[:1] == ["?"]:  # neither, but what it prints is compared
            a, b = (run.command(*command[1:], cwd=folder).succeeded().out for folder in folders)
            if a != b:
                found.setdefault("image", []).append((shlex.join(command), a, b))
            continue
        ours = run.command(face, *command, cwd=folders[0], env=run.SANITIZER_ENV).ended_well()
        theirs = run.qemu_img(*command, cwd=folders[1])
        pairs = {"code": (ours.code, theirs.code), "output": (alike(ours.out), alike(theirs.out)),
                 "message": (ours.err, theirs.err)}
        for respect, (a, b) in pairs.items():
            if a != b:
                found.setdefault(respect, []).append((shlex.join(command), a, b))
    if not same_folder(*folders):
        found["image"] = [[sorted((p.name, p.stat().st_size) for p in f.iterdir())
                           for f in folders]]
    return found
