# SPDX-License-Identifier: MIT
"""Judges images that the tool wrote: by the real tools, and by 7-Zip, which knows neither."""
import os

from lib.run import command, qemu_img, tool
from lib.sparse import same_files


def convert(*words, **how):
    return tool("convert", *words, **how).succeeded()


def is_clean(path, **how):
    """Neither corruption nor leaks, and nothing on standard error."""
    result = qemu_img("check", "-f", "qcow2", path, **how).succeeded()
    assert "No errors were found on the image." in result.out, result.describe()
    assert not result.err, result.describe()


def qemu_reads(path, raw, work, fmt="qcow2", **how):
    """The real tool reads the bytes of this raw file."""
    out = os.path.join(str(work), "by-qemu.raw")
    qemu_img("convert", "-f", fmt, "-O", "raw", path, out, **how).succeeded()
    same_files(raw, out)
    os.unlink(out)


def we_read(path, raw, work, fmt="qcow2", **how):
    out = os.path.join(str(work), "by-us.raw")
    tool("convert", "-f", fmt, "-O", "raw", path, out, **how).succeeded()
    same_files(raw, out)
    os.unlink(out)


def seven_zip_extracts(path, raw, work):
    """7-Zip takes the same bytes out (it knows neither zstd nor extended L2 entries)."""
    out = os.path.join(str(work), "by-7z.raw")
    command("7z", "e", "-so", "-tqcow", path, stdout=out).succeeded()
    same_files(raw, out)
    os.unlink(out)


def features(path, **how):
    """(virtual size, format-specific data) as the real tool tells them."""
    info = qemu_img("info", "--output=json", path, **how).json()
    return info["virtual-size"], {"cluster-size": info["cluster-size"],
                                  **info["format-specific"]["data"]}


def same_bytes(a, b):
    """The files are the same, holes or not; faster than going through their extents."""
    with open(a, "rb") as one, open(b, "rb") as two:
        while True:
            x, y = one.read(1 << 20), two.read(1 << 20)
            assert x == y, f"{a} and {b} differ near {one.tell() - len(x):#x}"
            if not x:
                return
