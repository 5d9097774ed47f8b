# SPDX-License-Identifier: MIT
"""The small programs that do what nobody can do faster, built where the stopwatch is."""
from pathlib import Path

from images import command


class Limits:
    """The programs, as attributes. codec_limit has the library's codecs in it: meson builds it."""

    def __init__(self, folder, build):
        folder.mkdir(parents=True, exist_ok=True)
        self.codec = str(build / "bench/codec_limit")
        self.meta_read = compiled(folder, "meta_read")
        self.read_both = compiled(folder, "read_both")
        self.smallest = compiled(folder, "smallest")


def compiled(folder, name):
    program = folder / name
    source = Path(__file__).resolve().parent / f"{name}.c"
    command("cc", "-O2", "-pthread", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", source, "-o",
            program)
    return str(program)
