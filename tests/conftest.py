# SPDX-License-Identifier: MIT
"""
Settings of the Python tests.

  /usr/bin/python3 -m pytest tests          the build in build/, or the one that QCOW2_BUILD names
    --long, or QCOW2_TEST_LONG=1            whole sweeps instead of samples of them
    QCOW2_TEST_SEED=N                       repeat a run: every random choice follows from it
    QCOW2_TEST_KEEP=1                       leave the files of the tests where they are

Tests take `work`, an empty folder that goes away with them, and `rng`, a random.Random that
depends on the seed and the test's name only.
"""
import os
import random
import shutil
import signal
import sys

# The tests folder itself, for `from lib import ...`, whatever folder pytest is called from.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import pytest  # noqa: E402

from lib import run  # noqa: E402

# A shell's background job ignores Ctrl-C, and so would every program that the tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# In the environment, so that parallel workers take the same.
os.environ.setdefault("QCOW2_TEST_SEED", str(random.SystemRandom().randrange(1 << 32)))


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="whole sweeps instead of samples")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than a few seconds")
    if config.getoption("--long"):
        os.environ["QCOW2_TEST_LONG"] = "1"


def pytest_report_header():
    return [f"tool: {run.TOOL}", f"seed: QCOW2_TEST_SEED={os.environ['QCOW2_TEST_SEED']}"]


def pytest_terminal_summary(terminalreporter):
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(
            f"repeat with QCOW2_TEST_SEED={os.environ['QCOW2_TEST_SEED']}")


def pytest_sessionfinish():
    run.close()


@pytest.fixture
def rng(request):
    return random.Random(f"{os.environ['QCOW2_TEST_SEED']}:{request.node.name}")


@pytest.fixture
def work(tmp_path):
    """An empty folder, removed after the test: images are big."""
    yield tmp_path
    if not os.environ.get("QCOW2_TEST_KEEP"):
        shutil.rmtree(tmp_path, ignore_errors=True)
