# SPDX-License-Identifier: MIT
"""The images that both tools work on, and ours by the other's name."""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import library  # noqa: E402
from lib.run import TOOL  # noqa: E402


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dropin") / "library"
    library.build(folder)
    return folder


@pytest.fixture(scope="session")
def face(tmp_path_factory):
    link = tmp_path_factory.mktemp("face") / "qemu-img"
    link.symlink_to(TOOL)
    return link
