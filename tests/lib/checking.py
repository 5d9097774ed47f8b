# SPDX-License-Identifier: MIT
"""Our check of an image's structure beside that of qemu-img."""
import json
import struct

from lib.run import BUILD, command, qemu_img

HELPER = BUILD / "tests/unit/check_helper"
NUMBERS = ["corruptions", "leaks", "check-errors", "image-end-offset", "total-clusters",
           "allocated-clusters", "fragmented-clusters", "compressed-clusters"]


class Checked:
    """The answer of one of the two."""

    def __init__(self, result):
        self.result, self.code = result.ended_well(), result.code
        start = result.out.find("{")
        self.data = json.loads(result.out[start:]) if start >= 0 else None

    def __getitem__(self, name):
        assert self.data is not None, self.result.describe()
        return self.data.get(name, 0)

    def found(self):
        """Ours: name of a finding to how many clusters or entries have it."""
        return self["findings"]

    def numbers(self):
        return {name: self[name] for name in NUMBERS}

    def describe(self):
        return self.result.describe()


def check(path, *repair, timeout=20):
    """Ours; repair is nothing, "leaks" or "all"."""
    return Checked(command(HELPER, path, *repair, timeout=timeout))


def qemu_check(path, *repair):
    words = ["-r", *repair] if repair else []
    return Checked(qemu_img("check", "-f", "qcow2", "--output=json", *words, path))


def assert_clean(path):
    for answer in (check(path), qemu_check(path)):
        assert answer.code == 0, answer.describe()


class Patcher:
    """Damage to a built image, in its own terms."""

    def __init__(self, image, built):
        self.image, self.built, self.cs = image, built, image.cs

    def word(self, off, value):
        self.built.patch(off, struct.pack(">Q", value & (1 << 64) - 1))

    def get(self, off):
        return struct.unpack(">Q", self.built.file.read(off, 8))[0]

    def append(self):
        """One more cluster at the end of the file, which nothing refers to."""
        off = -(-self.built.file.size // self.cs) * self.cs
        self.built.patch(off, b"x" * self.cs)
        return off

    def l1(self, index):
        return self.built.where["l1"] + 8 * index

    def l2(self, cluster):
        return self.built.l2_entry[cluster]

    def reftable(self, index):
        return self.built.where["reftable"] + 8 * index

    def flip(self, off, bits):
        self.word(off, self.get(off) ^ bits)

    def refcount(self, host_off, value=None):
        """Sets, or gives, the stored count of a cluster."""
        order, base = self.image.refcount_order, self.built.where["refblock"]
        bit = (host_off // self.cs) << order
        length = max(1, (1 << order) // 8)
        old = int.from_bytes(self.built.file.read(base + bit // 8, length), "big")
        mask = (1 << (1 << order)) - 1
        shift = bit % 8
        if value is None:
            return old >> shift & mask
        new = old & ~(mask << shift) | value << shift
        self.built.patch(base + bit // 8, new.to_bytes(length, "big"))
        return None
