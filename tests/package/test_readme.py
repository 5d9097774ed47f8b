# SPDX-License-Identifier: MIT
"""The README shows real output: its tour is run, its program is built, its links lead somewhere."""
import re
from pathlib import Path

from lib import run, tour

README = (run.REPO / "README.md").read_text()
TOUR = "".join(re.findall(r"<!-- tour -->\n```\n(.*?)```\n", README, flags=re.S))


def test_the_tour_prints_what_it_shows(work):
    assert len(tour.steps(TOUR)) > 10
    tour.take(TOUR, work)


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
