# SPDX-License-Identifier: MIT
"""File systems in files, mounted for a test."""
import subprocess

import pytest

from lib.run import command


def mounted(folder, size, *make):
    """Makes one of that size in bytes by the command make, mounts it: a generator for a fixture."""
    image, place = folder / "fs.img", folder / "fs"
    with open(image, "wb") as f:
        f.truncate(size)
    place.mkdir()
    command(*make, image).succeeded()
    made = subprocess.run(["mount", "-o", "loop", image, place], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
        image.unlink()
