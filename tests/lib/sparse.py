# SPDX-License-Identifier: MIT
"""
A flat store of bytes of any size that remembers only what was written: the model of a guest disk,
and of a host file while it is being forged. Everything else reads as zeros.
"""
import errno
import os

PAGE = 65536
ZERO_PAGE = bytes(PAGE)


class Sparse:
    def __init__(self, size=0):
        self.size = size
        self.pages = {}

    def _spans(self, off, length):
        """(page number, from, to) of the pages that a range touches."""
        end = off + length
        while off < end:
            page, start = divmod(off, PAGE)
            stop = min(PAGE, start + end - off)
            yield page, start, stop
            off += stop - start

    def write(self, off, data):
        """Writes, and grows if the data pass the end."""
        self.size = max(self.size, off + len(data))
        done = 0
        for page, start, stop in self._spans(off, len(data)):
            held = self.pages.setdefault(page, bytearray(PAGE))
            held[start:stop] = data[done:done + stop - start]
            done += stop - start

    def zero(self, off, length):
        for page, start, stop in self._spans(off, length):
            if page in self.pages:
                self.pages[page][start:stop] = bytes(stop - start)

    def read(self, off, length):
        parts = [self.pages.get(page, ZERO_PAGE)[start:stop]
                 for page, start, stop in self._spans(off, length)]
        return b"".join(parts)

    def truncate(self, size):
        if size < self.size:
            self.zero(size, self.size - size)
            self.pages = {p: b for p, b in self.pages.items() if p * PAGE < size}
        self.size = size

    def save(self, path):
        with open(path, "wb") as f:
            for page in sorted(self.pages):
                if any(self.pages[page]):
                    f.seek(page * PAGE)
                    f.write(self.pages[page])
            f.truncate(self.size)
        return path

    @classmethod
    def load(cls, path):
        store = cls(os.path.getsize(path))
        with open(path, "rb") as f:
            for start, end, is_data in file_extents(f.fileno(), store.size):
                if is_data:
                    f.seek(start)
                    store.write(start, f.read(end - start))
        store.size = os.path.getsize(path)
        return store

    def assert_same(self, path):
        """The file has this size and these bytes; holes of the file are not read."""
        size = os.path.getsize(path)
        assert size == self.size, f"{path}: {size} bytes, expected {self.size}"
        wanted = set(self.pages)
        with open(path, "rb") as f:
            for start, end, is_data in file_extents(f.fileno(), size):
                if is_data:
                    wanted.update(range(start // PAGE, (end - 1) // PAGE + 1))
            for page in sorted(wanted):
                f.seek(page * PAGE)
                found = f.read(PAGE)
                expected = self.pages.get(page, ZERO_PAGE)[:len(found)]
                if found != expected:
                    at = next(i for i in range(len(found)) if found[i] != expected[i])
                    raise AssertionError(
                        f"{path}: byte {page * PAGE + at:#x} is {found[at:at + 8].hex()}, "
                        f"expected {bytes(expected[at:at + 8]).hex()}")


def file_extents(fd, size):
    """(start, end, is_data) over the whole file, as the file system tells."""
    pos = 0
    while pos < size:
        try:
            data = os.lseek(fd, pos, os.SEEK_DATA)
        except OSError as e:
            if e.errno != errno.ENXIO:
                raise
            data = size
        data = min(data, size)
        if data > pos:
            yield pos, data, False
        if data == size:
            return
        pos = min(os.lseek(fd, data, os.SEEK_HOLE), size)
        yield data, pos, True


def same_files(a, b):
    """Two files have the same bytes; holes are known without being read."""
    Sparse.load(a).assert_same(b)
