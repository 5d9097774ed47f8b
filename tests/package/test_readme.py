# SPDX-License-Identifier: MIT
"""The README shows real output: its tour is run, its program is built, its links lead somewhere."""
import os
import re
import subprocess
from pathlib import Path

from lib import run

README = (run.REPO / "README.md").read_text()
TOUR = "".join(re.findall(r"<!-- tour -->\n```\n(.*?)```\n", README, flags=re.S))


def steps():
    """(command, what it prints) of the tour."""
    parts = re.split(r"^\$ (.*)\n", TOUR, flags=re.M)[1:]
    return list(zip(parts[::2], parts[1::2]))


def exact(text):
    """Without what depends on the file system that the images lie in."""
    return re.sub(r"^disk size: .*$", "disk size: ...", text, flags=re.M)


def test_the_tour_prints_what_it_shows(work):
    assert len(steps()) > 10
    env = {**os.environ, "PATH": f"{run.BUILD / 'tools'}:{os.environ['PATH']}"}
    for command, expected in steps():
        done = subprocess.run(["sh", "-c", command], cwd=work, env=env, text=True, timeout=120,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert exact(done.stdout) == exact(expected), command


def test_the_program_builds_and_reads_an_image(work):
    source = work / "program.c"
    source.write_text(re.search(r"```c\n(.*?)```\n", README, flags=re.S).group(1))
    disk = work / "disk.raw"
    disk.write_bytes(bytes(510) + b"\x55\xaa" + bytes(512))
    sanitize = [f"-fsanitize={value}" for value in sanitizers()]
    run.command("gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{run.REPO / 'include'}",
                source, "-o", work / "program", f"-L{run.BUILD}", "-lqcow2", *sanitize).succeeded()
    done = run.command("env", f"LD_LIBRARY_PATH={run.BUILD}", work / "program", disk).succeeded()
    assert done.out == "1024 bytes\nboot signature: 55aa\n"
    done = run.command("env", f"LD_LIBRARY_PATH={run.BUILD}", work / "program", work / "none")
    assert done.code == 1 and "No such file" in done.err


def sanitizers():
    listed = run.command("meson", "introspect", "--buildoptions", run.BUILD).succeeded().out
    found = re.search(r'"b_sanitize", "value": "(.*?)"', listed)
    return [] if found is None or found.group(1) == "none" else [found.group(1)]


def test_links_and_paths_lead_somewhere():
    names = re.findall(r"\]\(([^)#]+)\)", README)
    names += re.findall(r"(?<![\w/-])((?:scripts|bench|docs|include)/[\w./]*\w)", README)
    assert len(names) > 8
    for name in names:
        assert Path(run.REPO, name).exists(), name
