#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Seeds for fuzz_open: small whole images with everything in them, forged by the tests' writer.

  fuzz/make_seeds.py FOLDER

A fuzzer finds its way from a good image to a damaged one by itself, but not to a good image. The
clusters are small, so that an input is small and many are tried in a second.
"""
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from lib import forged  # noqa: E402
from lib.qcow2img import Image  # noqa: E402

KINDS = [
    {"cluster_bits": 9},
    {"cluster_bits": 9, "version": 2},
    {"cluster_bits": 9, "compression": "zstd"},
    {"cluster_bits": 9, "refcount_order": 0},
    {"cluster_bits": 10, "refcount_order": 6, "header_length": 104},
    {"cluster_bits": 12, "header_length": 256},
    {"cluster_bits": 14, "extended_l2": True},
    {"cluster_bits": 9, "backing_name": "b.raw", "backing_format": "raw"},
]


def image(rng, cluster_bits, **options):
    cs = 1 << cluster_bits
    entries = cs // (16 if options.get("extended_l2") else 8)
    made = Image(size=(entries + 8) * cs - 512, cluster_bits=cluster_bits, rng=rng,
                 feature_names=cluster_bits > 9, **options)
    last = (made.size - 1) // cs
    forged.fill(rng, made, [*range(9), entries - 1, entries, last])
    if options.get("refcount_order") != 0:
        made.snapshot("1", "before")
        made.normal(0, forged.noise(rng, cs))
    if options.get("version") != 2:
        made.bitmap("b0", 16, {0})
    made.extension(0x12345678, b"unknown")
    return made


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for number, options in enumerate(KINDS):
        image(random.Random(number), **options).save(folder / f"seed-{number}.qcow2")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
