#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Breaks each numbered rule of docs/ordering.md on purpose, one after the other, and looks which test
notices. A rule whose breaking nobody notices has no test.

  dev/mutate.py [RULE...]      all rules, or these; exit code 1 if one of them went unnoticed

Builds in build-mutate with -Dbreak_rule=N, which the code asks with META_BROKEN(N).
"""
import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build-mutate"
# The first that notices is enough, so the one that most often does comes first.
TESTS = ["crash", "fault", "model", "cost", "unit"]
LIMIT = 900


def rules():
    """Number and title of each rule."""
    text = (ROOT / "docs/ordering.md").read_text()
    text = text.split("## An image that is changed in place")[1].split("\n## ")[0]
    return {int(n): title for n, title in re.findall(r"^(\d+)\. \*\*(.+?)\.?\*\*", text, re.M)}


def broken_in_code():
    text = "".join(p.read_text() for p in sorted((ROOT / "src").rglob("*.[ch]")))
    return {int(n) for n in re.findall(r"META_BROKEN\((\d+)\)", text)}


def build(rule):
    options = ["-Dwerror=true", "-Dbuildtype=debugoptimized", f"-Dbreak_rule={rule}"]
    verb = "configure" if (FOLDER / "build.ninja").exists() else "setup"
    for argv in (["meson", verb, str(FOLDER), *options], ["ninja", "-C", str(FOLDER)]):
        subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def failed_tests(suite):
    """The names of the tests of a suite that fail."""
    argv = ["meson", "test", "-C", str(FOLDER), "--no-rebuild", "--suite", suite,
            "--timeout-multiplier", "5"]
    try:
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return [f"{suite} (hangs)"]
    if done.returncode == 0:
        return []
    found = re.findall(r"^\s*\d+/\d+ (?:\S+:\S+ / )?(\S+)\s+(?:FAIL|ERROR|TIMEOUT)", done.stdout,
                       re.M)
    return sorted(set(found)) or [suite]


def main():
    parser = argparse.ArgumentParser(description="Breaks each rule of order; a test must notice.")
    parser.add_argument("rules", nargs="*", type=int)
    parser.add_argument("--all-suites", action="store_true", help="don't stop at the first")
    args = parser.parse_args()
    known, code, unnoticed = rules(), broken_in_code(), []
    for n in sorted(set(known) ^ code):
        print(f"rule {n}: " + ("can't be broken" if n in known else "isn't in docs/ordering.md"))
        unnoticed.append(n)
    build(0)
    sick = [name for suite in TESTS for name in failed_tests(suite)]
    if sick:
        sys.exit(f"these fail though nothing is broken: {', '.join(sick)}")
    for n in args.rules or sorted(set(known) & code):
        start, noticed = time.monotonic(), []
        build(n)
        for suite in TESTS:
            noticed += failed_tests(suite)
            if noticed and not args.all_suites:
                break
        print(f"rule {n:2}: {known.get(n, '?')}: {', '.join(noticed) or 'NOBODY NOTICED'} "
              f"({time.monotonic() - start:.0f} s)", flush=True)
        if not noticed:
            unnoticed.append(n)
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
