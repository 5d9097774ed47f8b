# SPDX-License-Identifier: MIT
"""What `map` must say of a chain of forged images and raw files."""
import os

from lib.sparse import Sparse, file_extents


class RawFile:
    """A raw file as the lowest layer of a chain."""
    backing = None

    def __init__(self, path, content=None):
        self.path = path
        if content is not None:
            content.save(path)
        self.size = os.path.getsize(path)

    def truth(self):
        return Sparse.load(self.path)

    def pieces(self):
        with open(self.path, "rb") as f:
            for start, end, is_data in file_extents(f.fileno(), self.size):
                yield start, end - start, "data" if is_data else "zero", start


def _cut(pieces, start, end):
    for off, length, state, host in pieces:
        first, last = max(off, start), min(off + length, end)
        if first < last:
            yield first, last - first, state, None if host is None else host + first - off


def _chain(layer, start, end, depth):
    for off, length, state, host in _cut(layer.pieces(), start, end):
        below = layer.backing if state == "none" else None
        shared = max(0, min(below.size - off, length)) if below else 0
        if shared:
            yield from _chain(below, off, off + shared, depth + 1)
            off, length, host = off + shared, length - shared, host and host + shared
        if length:
            entry = {"start": off, "length": length, "depth": depth, "present": state != "none",
                     "zero": state in ("zero", "none"), "data": state in ("data", "packed"),
                     "compressed": state == "packed"}
            if host is not None:
                entry["offset"] = host
            yield entry


def _joins(a, b):
    keys = ("depth", "present", "zero", "data", "compressed")
    if any(a.get(k) != b.get(k) for k in keys) or ("offset" in a) != ("offset" in b):
        return False
    return "offset" not in a or a["offset"] + a["length"] == b["offset"]


def merged(entries):
    """Neighbours of one kind as one, as `map` prints them."""
    out = []
    for entry in entries:
        if out and _joins(out[-1], entry):
            out[-1]["length"] += entry["length"]
        else:
            out.append(dict(entry))
    return out


def extents(layer):
    """The JSON form of `map`, as it must come out for a forged chain."""
    return merged(_chain(layer, 0, layer.size, 0))


def without_compressed(entries):
    """In the words of a qemu-img that doesn't tell compressed extents."""
    return [{k: v for k, v in e.items() if k != "compressed"} for e in entries]
