# SPDX-License-Identifier: MIT
"""Seeded choices: whole sweeps in long runs, samples that cover every option otherwise."""
import itertools
import os
import random


def long_run():
    return os.environ.get("QCOW2_TEST_LONG") == "1"


def seeded(name):
    """Random numbers for choices that are made before a test runs."""
    return random.Random(f"{os.environ.get('QCOW2_TEST_SEED', '0')}:{name}")


def sample(name, items, count):
    """All items in a long run, else that many of them, in their order."""
    items = list(items)
    if long_run() or len(items) <= count:
        return items
    chosen = set(seeded(name).sample(range(len(items)), count))
    return [item for i, item in enumerate(items) if i in chosen]


def _pairs(row, names):
    return {(a, row[a], b, row[b]) for a, b in itertools.combinations(names, 2)}


def pairwise(name, axes, allowed=lambda row: True, tries=20):
    """
    Rows {axis: value} in which every pair of values of two axes that can stand together does.
    Greedy: each row is the best of some random ones. In a long run the whole product.
    """
    names = list(axes)
    whole = [dict(zip(names, values)) for values in itertools.product(*axes.values())]
    whole = [row for row in whole if allowed(row)]
    if long_run():
        return whole
    rng = seeded(name)
    missing = set().union(*(_pairs(row, names) for row in whole))
    rows = []
    while missing:
        wanted = min(missing, key=repr)
        fitting = [row for row in whole if wanted in _pairs(row, names)]
        tried = rng.sample(fitting, min(tries, len(fitting)))
        best = max(tried, key=lambda row: len(_pairs(row, names) & missing))
        missing -= _pairs(best, names)
        rows.append(best)
    return rows
