# SPDX-License-Identifier: MIT
"""
Called as qemu-img the tool does what qemu-img does: exit code, output, messages and images. What
differs is listed in docs/differences.md, and nothing else may differ.
"""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import twin  # noqa: E402

CASES = twin.read_cases()
DIFFERENCES = twin.read_differences()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_do_the_same(case, images, face, work):
    found = twin.compare(case, images, work, face)
    allowed = set().union(*[DIFFERENCES[name] for name in case.differences])
    shown = "\n".join(f"{respect}: {what}" for respect, what in found.items())
    assert set(found) <= allowed, f"{case}\n{shown}"
    assert allowed <= set(found), f"{case}: the listed difference doesn't occur\n{shown}"


def test_every_listed_difference_has_a_case():
    used = {name for case in CASES for name in case.differences}
    assert used == set(DIFFERENCES)


def test_the_respects_are_known():
    assert all(respects <= set(twin.RESPECTS) for respects in DIFFERENCES.values())


def test_there_are_a_few_hundred_cases():
    assert len(CASES) >= 300
