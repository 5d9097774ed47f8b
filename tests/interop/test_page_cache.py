# SPDX-License-Identifier: MIT
"""
Images that are larger than half of the memory aren't left in the page cache by those who go through
them once; what was there before stays, and smaller ones stay as ever. The images here are small,
with much room reserved behind their ends, on a file system that has no disk for it. A little stays:
what was read when an image was opened, and some of what the kernel read ahead.
"""
import ctypes
import errno
import mmap
import os

import pytest

from lib.mount import mounted
from lib.run import command, qemu_img, tool

M = 1 << 20
PAGE = mmap.PAGESIZE
DONTCACHE = 0x80  # RWF_DONTCACHE
DATA = 16 * M
MEMORY = os.sysconf("SC_PHYS_PAGES") * PAGE

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                      ctypes.c_long]
libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def resident(path):
    """Bytes of the file that are in the page cache."""
    size = os.stat(path).st_size
    fd = os.open(path, os.O_RDONLY)
    pages = ctypes.create_string_buffer(-(-size // PAGE))
    place = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    assert libc.mincore(place, size, pages) == 0
    libc.munmap(place, size)
    os.close(fd)
    return sum(b & 1 for b in pages.raw) * PAGE


def forget(path):
    """Out of the page cache."""
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    assert resident(path) == 0


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A file system on which files can take twice the memory."""
    yield from mounted(tmp_path_factory.mktemp("large"), 4 * MEMORY, "mkfs.xfs", "-q", "-K")


@pytest.fixture
def place(large):
    folder = large / "t"
    folder.mkdir()
    yield folder
    command("rm", "-r", folder).succeeded()


def needs_kernel(path):
    """Skips where the kernel, or the file system, can't be asked to spare the cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.preadv(fd, [bytearray(PAGE)], 0, DONTCACHE)
    except OSError as e:
        assert e.errno == errno.EOPNOTSUPP
        pytest.skip("the kernel always keeps what is read in the page cache")
    finally:
        os.close(fd)


def make(path, fmt, rng, huge):
    raw = path.with_suffix(".content")
    raw.write_bytes(rng.randbytes(DATA))
    qemu_img("convert", "-f", "raw", "-O", fmt, raw, path).succeeded()
    raw.unlink()
    if huge:
        command("fallocate", "--keep-size", "--offset", 64 * M, "--length", MEMORY * 3 // 5,
                path).succeeded()
    return path


def same(a, fmt_a, b, fmt_b):
    qemu_img("compare", "-f", fmt_a, "-F", fmt_b, a, b).succeeded()


@pytest.mark.parametrize("way", ["raw qcow2", "qcow2 raw", "qcow2 qcow2"])
def test_a_huge_image_is_converted_past_the_page_cache(place, work, rng, way):
    fmt, to = way.split()
    source, target = make(place / "source", fmt, rng, huge=True), place / "target"
    forget(source)
    tool("convert", "--reflink=never", "-f", fmt, "-O", to, source, target).succeeded()
    needs_kernel(source)
    assert resident(source) < DATA // 4
    forget(source)
    os.sync()
    assert resident(target) < DATA // 4
    same(source, fmt, target, to)


def test_an_image_that_is_changed_in_place_is_too(place, work, rng):
    source = make(place / "source", "raw", rng, huge=True)
    target = make(place / "target", "qcow2", rng, huge=False)
    forget(source)
    forget(target)
    tool("convert", "-n", "-f", "raw", "-O", "qcow2", source, target).succeeded()
    needs_kernel(source)
    assert resident(source) < DATA // 4
    os.sync()
    assert resident(target) < DATA // 4
    same(source, "raw", target, "qcow2")


def test_compare_and_rebase_spare_it(place, work, rng):
    base = make(place / "base", "qcow2", rng, huge=True)
    twin = place / "twin"
    command("cp", "--sparse=always", "--reflink=never", base, twin).succeeded()
    tool("create", "-q", "-b", base, "-F", "qcow2", place / "overlay").succeeded()
    for path in (base, twin):
        forget(path)
    tool("compare", base, twin).succeeded()
    needs_kernel(base)
    assert resident(base) < DATA // 4 and resident(twin) < DATA // 4
    forget(base)
    forget(twin)
    tool("rebase", "-b", twin, "-F", "qcow2", place / "overlay").succeeded()
    needs_kernel(base)
    assert resident(base) < DATA // 4 and resident(twin) < DATA // 4


def test_commit_spares_it(place, work, rng):
    base = make(place / "base", "qcow2", rng, huge=True)
    top = place / "top"
    tool("create", "-q", "-b", base, "-F", "qcow2", top).succeeded()
    content = work / "content"
    content.write_bytes(rng.randbytes(DATA))
    tool("convert", "-n", "-f", "raw", "-O", "qcow2", content, top).succeeded()
    forget(base)
    forget(top)
    tool("commit", "-q", top).succeeded()
    os.sync()
    needs_kernel(base)
    assert resident(base) < DATA // 4
    same(base, "qcow2", content, "raw")


def test_what_was_in_the_cache_stays(place, work, rng):
    source = make(place / "source", "raw", rng, huge=True)
    forget(source)
    source.read_bytes()
    tool("convert", "--reflink=never", "-f", "raw", "-O", "qcow2", source,
         place / "target").succeeded()
    assert resident(source) == DATA


def test_smaller_images_stay_in_the_cache(place, work, rng):
    source = make(place / "source", "raw", rng, huge=False)
    forget(source)
    tool("convert", "--reflink=never", "-f", "raw", "-O", "qcow2", source,
         place / "target").succeeded()
    assert resident(source) == DATA
    assert resident(place / "target") >= DATA
