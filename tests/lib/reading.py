# SPDX-License-Identifier: MIT
"""
Reads images with the tool and with the real qemu-img and says where they or the truth differ.
"""
import itertools
import os

from lib import layers
from lib.run import qemu_img, tool

_number = itertools.count()


def _fresh(work):
    return os.path.join(str(work), f"out-{next(_number)}.raw")


def _converted(program, path, work, words, how):
    out = _fresh(work)
    result = program("convert", *words, "-O", "raw", path, out, **how).succeeded()
    return out, result


def converts_to(truth, path, work, *words, warnings=False, **how):
    """The tool makes these bytes of the image, with a warning or without."""
    out, result = _converted(tool, path, work, words, how)
    assert warnings == bool(result.warnings()) and not result.sentences(), result.describe()
    truth.assert_same(out)
    os.unlink(out)


def qemu_converts_to(truth, path, work, *words, **how):
    out, _ = _converted(qemu_img, path, work, words, how)
    truth.assert_same(out)
    os.unlink(out)


def map_of(path, *words, **how):
    return tool("map", "--output=json", *words, path, **how).json()


def qemu_map_of(path, *words, **how):
    return qemu_img("map", "--output=json", *words, path, **how).json()


def _first_difference(found, expected, names):
    for i, (a, b) in enumerate(itertools.zip_longest(found, expected)):
        if a != b:
            return f"entry {i}: {names[0]}: {a}\n{names[1]}: {b}"
    return None


def same_lists(found, expected, names=("found", "expected")):
    difference = _first_difference(found, expected, names)
    assert difference is None, difference


def maps_to(expected, path, **how):
    """The map is the expected one, with the compressed extents told."""
    same_lists(map_of(path, **how), expected)


def qemu_maps_to(expected, path, **how):
    expected = layers.merged(layers.without_compressed(expected))
    found = qemu_map_of(path, **how)
    same_lists(layers.without_compressed(found), expected, ("qemu-img", "expected"))


def same_map(path, *words, **how):
    """The same map as the real one, as JSON and as text."""
    ours = layers.without_compressed(map_of(path, *words, **how))
    theirs = layers.without_compressed(qemu_map_of(path, *words, **how))
    same_lists(ours, theirs, ("qcow2", "qemu-img"))
    ours = tool("map", *words, path, **how)
    theirs = qemu_img("map", *words, path, **how)
    assert ours.code == theirs.code, ours.describe() + "\n" + theirs.describe()
    if ours.code == 0:
        same_lists(_rows(ours.out), _rows(theirs.out), ("qcow2", "qemu-img"))


def _rows(text):
    """The columns of each line: how they are filled up isn't compared."""
    return [line.split() for line in text.splitlines()]


def same_info(path, *words, **how):
    """The same information as the real one gives, as JSON and as text."""
    ours = tool("info", "--output=json", *words, path, **how).json()
    theirs = qemu_img("info", "--output=json", *words, path, **how).json()
    if ours != theirs:
        ours, theirs = (x if isinstance(x, list) else [x] for x in (ours, theirs))
        for a, b in zip(ours, theirs):
            for key in sorted(set(a) | set(b)):
                assert a.get(key) == b.get(key), f"{key}: {a.get(key)}\nqemu-img: {b.get(key)}"
        assert ours == theirs
    ours = tool("info", *words, path, **how).succeeded()
    theirs = qemu_img("info", *words, path, **how).succeeded()
    lines = ours.out.splitlines()
    # a chain is shown as a tree first, which qemu-img doesn't have
    while lines and not lines[0].startswith("image: "):
        lines.pop(0)
    same_lists(lines, theirs.out.splitlines(), ("qcow2", "qemu-img"))


def reads_right(layer, path, work, **how):
    """The whole of reading: bytes, map, comparing; of a forged image or chain."""
    truth = layer.truth()
    converts_to(truth, path, work, "-f", "qcow2", **how)
    maps_to(layers.extents(layer), path, **how)
    raw = truth.save(_fresh(work))
    result = tool("compare", "-f", "qcow2", "-F", "raw", path, raw, **how).succeeded()
    assert result.out == "Images are identical.\n", result.describe()
    os.unlink(raw)


def qemu_reads_right(layer, path, work, check=True, **how):
    """The same by qemu-img: this checks the forger, not us."""
    if check:
        qemu_img("check", path, **how).succeeded()
    qemu_converts_to(layer.truth(), path, work, "-f", "qcow2", **how)
    qemu_maps_to(layers.extents(layer), path, **how)
