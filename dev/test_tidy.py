# SPDX-License-Identifier: MIT
"""Every rule of tidy.py fires on a tree that breaks it; a tree that keeps them is left alone."""
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import tidy  # noqa: E402

SPDX = "/* SPDX-License-Identifier: MIT */\n"
UNIT = "unit_tests = {\n  'good': ['base'],\n}\n"
GOOD = {
    "include/qcow2.h": SPDX + "#ifndef QCOW2_H\n#define QCOW2_H\n\n/* Reads. */\n"
    "int qcow2_read(void);\nint qcow2_readv(void);\n\n#endif\n",
    "src/base/alloc.h": SPDX + "#ifndef BASE_ALLOC_H\n#define BASE_ALLOC_H\n#endif\n",
    "src/base/alloc.c": SPDX + '#include "base/alloc.h"\n\nvoid *mem(void)\n{\n'
    "\treturn malloc(1);\n}\n",
    "src/base/meson.build": "files('alloc.c')\n",
    "src/storage/file.c": SPDX + '#include "base/alloc.h"\n#include "qcow2.h"\n\n'
    "int get(int fd, char *b)\n{\n\treturn pread(fd, b, 1, 0);\n}\n",
    "src/storage/meson.build": "files('file.c')\n",
    "tools/main.c": SPDX + '#include "qcow2.h"\n#include "cli/size.h"\n',
    "tools/cli/size.h": SPDX + "#ifndef TOOLS_CLI_SIZE_H\n#define TOOLS_CLI_SIZE_H\n#endif\n",
    "tools/meson.build": "files('main.c')\n",
    "tests/unit/test_good.c": SPDX,
    "tests/unit/meson.build": UNIT,
    "src/check/findings.c": SPDX + 'static x c[] = {\n\t[CHECK_LEAK] = {"leak", LEAK},\n};\n',
    "src/check/meson.build": "files('findings.c')\n",
    "tests/check/leak.twice/damage.py": "# SPDX-License-Identifier: MIT\n",
    "README.md": "# x\n",
}
LONG_BODY = "{\n" + "\twork();\n" * 80 + "}\n"


def judge(tmp_path, files=None):
    """The complaints about the good tree with some files replaced."""
    tree = dict(GOOD)
    tree.update(files or {})
    for name, text in tree.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [f"{path}:{line}: {sentence}" for path, line, sentence in tidy.complaints(tmp_path)]


def test_a_tree_that_keeps_the_rules_is_left_alone(tmp_path):
    assert judge(tmp_path) == []


def test_an_empty_tree_is_not_a_pass(tmp_path):
    assert "nothing here" in list(tidy.complaints(tmp_path))[0][2]


BREACHES = {
    "include from a lower room": (
        "src/base/alloc.c", SPDX + '#include "storage/storage.h"\n', ":2: base/ must not include"),
    "include without a room": (
        "src/storage/file.c", SPDX + '#include "file.h"\n', ":2: include \"file.h\" without"),
    "unknown room": ("src/misc/x.c", SPDX, "isn't in the list of rooms"),
    "tool that reaches into the library": (
        "tools/main.c", SPDX + '#include "base/alloc.h"\n', ":2: tools include qcow2.h"),
    "malloc": ("src/storage/file.c", SPDX + "void f(void)\n{\n\tmalloc(1);\n}\n",
               ":4: calls malloc(): memory"),
    "free": ("src/storage/file.c", SPDX + "void f(void)\n{\n\tfree(p);\n}\n", "calls free()"),
    "thread": ("src/storage/file.c", SPDX + "void f(void)\n{\n\tpthread_create(a);\n}\n",
               "calls pthread_create(): threads"),
    "file access outside storage": (
        "src/base/alloc.c", SPDX + "void f(void)\n{\n\tpread(a);\n}\n", "calls pread(): files"),
    "printing": ("src/storage/file.c", SPDX + 'void f(void)\n{\n\tprintf("x");\n}\n',
                 "calls printf()"),
    "exit": ("src/storage/file.c", SPDX + "void f(void)\n{\n\texit(1);\n}\n", "calls exit()"),
    "sprintf": ("src/base/alloc.c", SPDX + "void f(void)\n{\n\tsprintf (a);\n}\n",
                "calls sprintf()"),
    "long function": ("src/storage/file.c", SPDX + "\nint f(int a,\n      int b)\n" + LONG_BODY,
                      ":5: a function of 82 lines"),
    "long function with an empty reason": (
        "src/storage/file.c", SPDX + "/* long: */\nint f(void)\n" + LONG_BODY, "82 lines"),
    "long file": ("src/storage/file.c", SPDX + "int x;\n" * 600, "601 lines, more than 600"),
    "very long file with a reason": (
        "src/storage/file.c", SPDX + "/* long: tables */\n" + "int x;\n" * 999, "more than 1000"),
    "wide line": ("src/storage/file.c", SPDX + "\t" * 12 + "int x;\n", ":2: 102 columns"),
    "wide build file": ("src/base/meson.build", "files('alloc.c') #" + "x" * 99 + "\n", "columns"),
    "white space at the end": ("README.md", "x \n", ":1: white space at the end"),
    "carriage return": ("README.md", "x\r\n", "white space at the end"),
    "no newline at the end": ("README.md", "x", "no newline at the end"),
    "undone": ("README.md", "TO" + "DO: all\n", "undone work"),
    "undone in code": ("src/storage/file.c", SPDX + "/* FIX" + "ME */\n", ":2: a mark of undone"),
    "machine path": ("README.md", "see /ho" + "me/me/x\n", "somebody's machine"),
    "no licence": ("src/storage/file.c", "int x;\n", "SPDX"),
    "no licence in a script": ("scripts/x", "#!/bin/sh\necho\n", "SPDX"),
    "no guard": ("src/base/alloc.h", SPDX + "int x;\n", "no include guard"),
    "another file's guard": (
        "src/base/alloc.h", SPDX + "#ifndef BASE_NUM_H\n#define BASE_NUM_H\n#endif\n",
        "the guard is BASE_NUM_H, expected BASE_ALLOC_H"),
    "guard that ends early": (
        "src/base/alloc.h",
        SPDX + "#ifndef BASE_ALLOC_H\n#define BASE_ALLOC_H\n#endif\nint x;\n", "no include guard"),
    "undocumented call": (
        "include/qcow2.h", GOOD["include/qcow2.h"].replace("/* Reads. */\n", ""),
        ":5: qcow2_read has no comment"),
    "source that nothing builds": ("src/storage/mem.c", SPDX, "in no meson.build"),
    "tool source that nothing builds": ("tools/verb.c", SPDX, "in no meson.build"),
    "unit test that nothing builds": ("tests/unit/test_bad.c", SPDX, "in no meson.build"),
    "unit test that is commented out": (
        "tests/unit/meson.build", UNIT.replace("  'good'", "  # 'good'"), "in no meson.build"),
    "fuzz target that nothing builds": ("fuzz/fuzz_x.c", SPDX, "in no meson.build"),
    "finding without a damage": (
        "src/check/findings.c",
        GOOD["src/check/findings.c"].replace("};", '\t[CHECK_X] = {\n"x-y",\n};'),
        ":4: the finding 'x-y' has no folder"),
    "damage of no finding": (
        "tests/check/lost/damage.py", "# SPDX-License-Identifier: MIT\n", "a damage of 'lost'"),
    "not UTF-8": ("README.md", b"\xff\xfe\n", "not UTF-8"),
}


@pytest.mark.parametrize("name", BREACHES)
def test_a_breach_is_seen(tmp_path, name):
    path, text, expected = BREACHES[name]
    found = judge(tmp_path, files={path: text})
    assert any(expected in complaint for complaint in found), found
    assert all(c.startswith((path, os.path.dirname(path), "tests/unit/test_good.c"))
               for c in found), found


SPARED = {
    "a long function with a reason": (
        "src/storage/file.c", SPDX + "\n/* long: one flat table */\nint f(int a,\n      int b)\n"
        + LONG_BODY),
    "a long file with a reason": (
        "src/storage/file.c", SPDX + "/* long: one flat table */\n" + "int x;\n" * 700),
    "words in comments and strings": (
        "src/storage/file.c", SPDX + '/* malloc(1) */\nchar *s = "free(x)";\n'),
    "operations of a struct": (
        "src/base/alloc.c", SPDX + "void f(void)\n{\n\ts->ops->pread(s);\n\ts.open(s);\n}\n"),
    "snprintf": ("src/base/alloc.c", SPDX + "void f(void)\n{\n\tsnprintf(a);\n}\n"),
    "an upward include": ("src/storage/file.c", SPDX + '#include "base/alloc.h"\n'),
    "a binary file": ("README.md", b"\0\xff \n"),
}


@pytest.mark.parametrize("name", SPARED)
def test_what_is_allowed_is_spared(tmp_path, name):
    path, text = SPARED[name]
    assert judge(tmp_path, files={path: text}) == []
