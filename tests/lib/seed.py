# SPDX-License-Identifier: MIT
"""Seeded choices: long sweeps, or samples that still cover every option."""
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


def covering(name, axes, allowed=lambda row: True, tries=30):
    """
    Rows {axis: value} so that every two values of two axes (three of three, in a long run) that
    can stand together do so in some row. Greedy: each row is the best of some random ones.
    """
    strength = 3 if long_run() else 2
    names = list(axes)
    combos = list(itertools.combinations(range(len(names)), strength))
    whole = [row for row in itertools.product(*axes.values())
             if allowed(dict(zip(names, row)))]

    def groups(row):
        return {(combo, tuple(row[i] for i in combo)) for combo in combos}

    missing = set().union(*(groups(row) for row in whole))
    rng, rows = seeded(name), []
    for combo, values in sorted(missing, key=repr):
        if (combo, values) not in missing:
            continue
        fitting = [row for row in whole if all(row[i] == v for i, v in zip(combo, values))]
        tried = rng.sample(fitting, min(tries, len(fitting)))
        best = max(tried, key=lambda row: len(groups(row) & missing))
        missing -= groups(best)
        rows.append(dict(zip(names, best)))
    return rows
