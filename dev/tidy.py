#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
The rules of the house that a compiler doesn't know. Runs as a test; see docs/HACKING.md.

Every rule is a function from the tree to complaints (path, line, sentence). It reads the files
below the root that it is given and nothing else, needs no git and no build folder, and judges
text, not syntax trees: the kernel layout, which clang-format keeps, is what makes that enough.

Exceptions are said where they are made, with a reason:
  /* long: REASON */  on the line before a function: it may be longer than a screen;
                      among the first 30 lines of a file: it may have up to 1,000 lines.
"""
import argparse
import os
import re
import sys
from pathlib import Path

ROOMS = ["base", "format", "codec", "storage", "disk", "meta", "data", "check", "image", "job",
         "api"]
FUNCTION_LINES = 70
FILE_LINES = 600
FILE_LINES_HARD = 1000
PUBLIC_HEADER = "include/qcow2.h"  # the whole interface and its manual in one file
COLUMNS = 100

MEMORY = {"malloc", "calloc", "realloc", "reallocarray", "free", "strdup", "strndup",
          "posix_memalign", "aligned_alloc", "asprintf", "vasprintf", "alloca"}
THREADS = {"pthread_create", "thrd_create"}
FILE_IO = {"open", "openat", "open64", "creat", "fopen", "read", "write", "readv", "writev",
           "pread", "pread64", "pwrite", "pwrite64", "preadv", "preadv2", "pwritev", "pwritev2",
           "lseek", "fallocate", "posix_fallocate", "ftruncate", "fsync", "fdatasync", "fcntl",
           "ioctl", "mmap"}
NEVER = {"printf", "vprintf", "fprintf", "vfprintf", "dprintf", "puts", "fputs", "putchar",
         "putc", "fputc", "fwrite", "perror", "exit", "_exit", "_Exit", "quick_exit", "abort",
         "sprintf", "vsprintf", "strcpy", "stpcpy", "strcat", "strncpy", "strncat", "gets",
         "atoi", "atol", "atoll", "atof", "strtok", "rand", "random", "srand", "srandom",
         "system", "popen", "scanf", "sscanf", "setenv", "putenv"}
# What only some files or rooms of src/ may call.
RESERVED = [
    (MEMORY, lambda p: p == "src/base/alloc.c", "memory comes from base/alloc.h only"),
    (THREADS, lambda p: p == "src/base/work.c", "threads are made in base/work.c only"),
    (FILE_IO, lambda p: p.startswith("src/storage/"), "files are touched in storage/ only"),
    (NEVER, lambda p: False, "the library doesn't use it"),
]

MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|home|root)/")
UNDONE = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b")
CALL = re.compile(r"(?<![\w.>])(\w+)\s*\(")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
LONG = re.compile(r"/\* long: \S.*\*/")


class Tree:
    """The files under a root, read once."""

    SKIP = {".git", "__pycache__", ".pytest_cache", "corpus", "crashes"}

    def __init__(self, root):
        self.root = Path(root)
        self.text = {}
        self.bad = []
        for folder, dirs, names in os.walk(self.root):
            dirs[:] = sorted(d for d in dirs if d not in self.SKIP and not d.startswith("build"))
            for name in sorted(set(names) - self.SKIP):
                self._load(Path(folder, name))

    def _load(self, path):
        rel = path.relative_to(self.root).as_posix()
        data = path.read_bytes()
        if b"\0" in data:
            return
        try:
            self.text[rel] = data.decode()
        except UnicodeDecodeError:
            self.bad.append(rel)

    def paths(self, *suffixes, under=""):
        return [p for p in self.text if p.startswith(under) and p.endswith(suffixes)]

    def lines(self, path):
        return self.text[path].split("\n")

    def scripts(self):
        """Shell and Python programs, by their first line or name."""
        return [p for p, t in self.text.items()
                if p.endswith((".py", ".sh")) or t.startswith("#!")]

    def code(self):
        return sorted(set(self.paths(".c", ".h") + self.scripts()))


def blank_out(text):
    """The same text with the insides of comments, strings and characters made blank."""
    token = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)

    def keep_newlines(m):
        s = m.group(0)
        inner = re.sub(r"[^\n]", " ", s)
        return s[0] + inner[1:-1] + s[-1] if s[0] in "\"'" else inner

    return token.sub(keep_newlines, text)


def functions(text):
    """(first line, last line) of every function body: from its `{` to its `}` in column one."""
    start = None
    previous = ""
    for n, line in enumerate(blank_out(text).split("\n"), 1):
        if line.rstrip() == "{" and ")" in previous:
            start = n
        elif line.startswith("}") and start:
            yield start, n
            start = None
        if line.strip():
            previous = line


def signature_start(lines, brace):
    """The line on which the definition whose `{` is on line brace begins."""
    n = brace
    while n > 1 and lines[n - 2].strip() and not lines[n - 2].startswith(("}", "#")) \
            and not lines[n - 2].rstrip().endswith(("*/", ";")):
        n -= 1
    return n


def check_readable(tree):
    for path in tree.bad:
        yield path, 1, "is not UTF-8"


def check_arrows(tree):
    for path in tree.paths(".c", ".h", under="src/"):
        room = path.split("/")[1]
        if room not in ROOMS:
            yield path, 1, f"the room '{room}' isn't in the list of rooms"
            continue
        for n, line in enumerate(tree.lines(path), 1):
            m = INCLUDE.match(line)
            if not m or m.group(1) == "<" or m.group(2) == "qcow2.h":
                continue
            other = m.group(2).split("/")[0]
            if other not in ROOMS or "/" not in m.group(2):
                yield path, n, f'include "{m.group(2)}" without its room'
            elif ROOMS.index(other) > ROOMS.index(room):
                yield path, n, f"{room}/ must not include from {other}/, which is below it"


def check_tool_includes(tree):
    headers = {p[len("tools/"):] for p in tree.paths(".h", under="tools/")}
    for path in tree.paths(".c", ".h", under="tools/"):
        here = os.path.dirname(path[len("tools/"):])
        for n, line in enumerate(tree.lines(path), 1):
            m = INCLUDE.match(line)
            if not m or m.group(1) == "<" or m.group(2) == "qcow2.h":
                continue
            name = os.path.normpath(m.group(2))
            if name not in headers and os.path.join(here, name) not in headers:
                yield path, n, f'tools include qcow2.h and their own headers, not "{m.group(2)}"'


def check_calls(tree):
    for path in tree.paths(".c", ".h", under="src/"):
        for n, line in enumerate(blank_out(tree.text[path]).split("\n"), 1):
            for name in CALL.findall(line):
                for names, allowed, why in RESERVED:
                    if name in names and not allowed(path):
                        yield path, n, f"calls {name}(): {why}"


def check_function_length(tree):
    for path in tree.paths(".c", ".h"):
        lines = tree.lines(path)
        for first, last in functions(tree.text[path]):
            length = last - first + 1
            head = signature_start(lines, first)
            if length > FUNCTION_LINES and not LONG.search(lines[head - 2] if head > 1 else ""):
                yield path, first, f"a function of {length} lines, more than {FUNCTION_LINES}"


def check_file_length(tree):
    for path in tree.code():
        lines = tree.lines(path)
        excused = any(LONG.search(line) for line in lines[:30])
        limit = FILE_LINES_HARD if excused else FILE_LINES
        if len(lines) - 1 > limit and path != PUBLIC_HEADER:
            yield path, limit, f"{len(lines) - 1} lines, more than {limit}"


def check_columns(tree):
    for path in sorted(set(tree.code() + tree.paths("meson.build", "meson_options.txt"))):
        for n, line in enumerate(tree.lines(path), 1):
            width = len(line.expandtabs(8))
            if width > COLUMNS:
                yield path, n, f"{width} columns, more than {COLUMNS}"


def check_white_space(tree):
    for path, text in tree.text.items():
        if text and not text.endswith("\n"):
            yield path, text.count("\n") + 1, "no newline at the end"
        for n, line in enumerate(text.split("\n"), 1):
            if line.endswith((" ", "\t", "\r")):
                yield path, n, "white space at the end of the line"


def check_undone(tree):
    for path, text in tree.text.items():
        for n, line in enumerate(text.split("\n"), 1):
            if UNDONE.search(line):
                yield path, n, "a mark of undone work: do it or put it into the README's table"


def check_machine_paths(tree):
    for path, text in tree.text.items():
        for n, line in enumerate(text.split("\n"), 1):
            if MACHINE_PATH.search(line):
                yield path, n, "a path of somebody's machine"


def check_licence(tree):
    for path in tree.code():
        if not any("SPDX-License-Identifier: MIT" in line for line in tree.lines(path)[:2]):
            yield path, 1, "the first lines don't say SPDX-License-Identifier: MIT"


def check_guards(tree):
    for path in tree.paths(".h"):
        text = blank_out(tree.text[path]).strip()
        m = re.match(r"#ifndef (\w+_H)\n#define (\w+)\n", text)
        if not m or m.group(1) != m.group(2) or not text.endswith("#endif"):
            yield path, 1, "no include guard around everything"
            continue
        parts = Path(path).with_suffix("").parts
        want = "_".join(parts[1:] if parts[0] in ("src", "include") else parts) + "_h"
        if m.group(1) != re.sub(r"\W", "_", want).upper():
            yield path, 1, f"the guard is {m.group(1)}, expected {want.upper()}"


def check_public_docs(tree):
    path = "include/qcow2.h"
    lines = tree.lines(path) if path in tree.text else []
    documented = False
    for n, line in enumerate(lines, 1):
        if not line.strip():
            documented = False
        elif "*/" in line and not re.search(r"\S.*/\*", line):
            documented = True
        m = re.match(r"[a-z][\w\s*]*?\b(qcow2_\w+)\(", line)
        if m and not documented:
            yield path, n, f"{m.group(1)} has no comment in front of it"


def check_listed(tree):
    def listing(folder):
        return re.sub(r"#.*", "", tree.text.get(folder + "/meson.build", ""))

    for path in tree.paths(".c"):
        folder, name = os.path.split(path)
        if folder.startswith("src/"):
            found = f"'{name}'" in listing(folder)
        elif folder.startswith("tools"):
            found = f"'{path[len('tools/'):]}'" in listing("tools") \
                or f"'{name}'" in listing(folder)
        elif folder in ("tests/unit", "fuzz"):
            stem = name[:-2]
            bare = re.sub(r"^(test|fuzz)_", "", stem)
            found = any(f"'{s}'" in listing(folder) for s in (name, stem, bare))
        else:
            continue
        if not found:
            yield path, 1, "is in no meson.build, so nothing builds it"


def check_damages(tree):
    """Every finding of a check has a folder tests/check/CODE or CODE.VARIANT with a damage."""
    path = "src/check/findings.c"
    folders = {p.split("/")[2].split(".")[0] for p in tree.text
               if re.fullmatch(r"tests/check/[^/]+/damage\.py", p)}
    text = tree.text.get(path, "")
    codes = {m.group(1): text.count("\n", 0, m.start()) + 1
             for m in re.finditer(r'\[CHECK_\w+\]\s*=\s*\{\s*"([^"]+)"', text)}
    for code, n in codes.items():
        if code not in folders:
            yield path, n, f"the finding '{code}' has no folder in tests/check"
    for code in sorted(folders - set(codes)):
        yield f"tests/check/{code}", 1, f"a damage of '{code}', which isn't in {path}"


CHECKS = [check_readable, check_arrows, check_tool_includes, check_calls, check_function_length,
          check_file_length, check_columns, check_white_space, check_undone, check_machine_paths,
          check_licence, check_guards, check_public_docs, check_listed,
          check_damages]


def complaints(root):
    tree = Tree(root)
    if not tree.text:
        yield str(root), 1, "there is nothing here to check"
    for check in CHECKS:
        yield from check(tree)


def main():
    parser = argparse.ArgumentParser(description="Checks the rules of the house.")
    parser.add_argument("root", nargs="?", default=Path(__file__).resolve().parent.parent)
    found = sorted(set(complaints(parser.parse_args().root)))
    for path, line, sentence in found:
        print(f"{path}:{line}: {sentence}")
    print(f"tidy: {len(found)} complaints" if found else "tidy: nothing to complain about")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
