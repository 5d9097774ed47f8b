# SPDX-License-Identifier: MIT
"""What costs much to make, made once for all the tests of a run, whichever worker they run in."""
import fcntl
import os


def made_once(tmp_path_factory, name, make):
    """The folder that make(folder) fills: the first worker that asks makes it, the others wait."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / name
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".made").exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            (folder / ".made").touch()
    return folder
