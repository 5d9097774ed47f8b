# SPDX-License-Identifier: MIT
"""Commands with what they print, as documentation shows them; run and compared."""
import os
import re
import subprocess

from lib import run


def steps(text):
    """[(command, what it prints)] of a text in which lines with "$ " are commands."""
    parts = re.split(r"^\$ (.*)\n?", text, flags=re.M)[1:]
    return list(zip(parts[::2], parts[1::2]))


def exact(text):
    """Without what depends on the file system that the images lie in."""
    text = re.sub(r"^disk size: .*$", "disk size: ...", text, flags=re.M)
    return re.sub(r"^(file, on disk|disk usage): .*$", r"\1: ...", text, flags=re.M)


def take(text, work):
    """Runs the commands in a shell, in the folder."""
    env = {**os.environ, "PATH": f"{run.BUILD / 'tools'}:{os.environ['PATH']}", "TZ": "UTC"}
    for command, expected in steps(text):
        done = subprocess.run(["sh", "-c", command], cwd=work, env=env, text=True, timeout=120,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert exact(done.stdout) == exact(expected), command
