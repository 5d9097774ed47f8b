# SPDX-License-Identifier: MIT
"""The runner of scripts/test: what fails, hangs or never ran can't be counted as passed."""
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import run_tests  # noqa: E402

CASES = """<testsuites><testsuite name="s" failures="{failures}" errors="0">
<testcase classname="c" name="good"/>{more}</testsuite></testsuites>"""
BAD = '<testcase classname="c" name="bad"><failure message="no"/></testcase>'
ERROR = '<testcase classname="c" name="worse"><error message="no"/></testcase>'
SKIPPED = '<testcase classname="c" name="not"><skipped message="why"/></testcase>'


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(run_tests, "RESULTS", tmp_path)
    monkeypatch.setattr(run_tests, "ROOT", tmp_path)
    return run_tests.Run("full")


def figures(run):
    return len(run.passed), len(run.failed), len(run.skipped)


def suite(run, tmp_path, text, code=0):
    """Runs a command that leaves this report and ends with this exit code."""
    report = tmp_path / "report.xml"
    write = ["sh", "-c", 'printf %s "$1" >"$2"; exit "$3"', "sh", text, str(report), str(code)]
    run.suite("suite", 20, write, report)
    return figures(run)


def test_a_step_counts_by_its_exit_code(run):
    assert run.step("good", 20, ["true"])
    assert not run.step("bad", 20, ["false"])
    assert figures(run) == (1, 1, 0)
    assert run.finish() == 1


def test_the_last_line_has_the_figures_and_nothing_else(run, capsys):
    run.step("good", 20, ["true"])
    assert run.finish() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 0 failed, 0 skipped"


def test_nothing_at_all_is_not_a_pass(run):
    assert run.finish() == 1


def test_a_hang_is_a_failure_and_its_children_end(run, tmp_path):
    alive = tmp_path / "alive"
    start = time.monotonic()
    assert not run.step("hang", 1, ["sh", "-c", f"(sleep 3; touch {alive}) & sleep 60"])
    assert time.monotonic() - start < 20
    time.sleep(3)
    assert not alive.exists()


def test_cases_are_counted_one_by_one(run, tmp_path):
    text = CASES.format(failures=1, more=BAD + ERROR + SKIPPED)
    assert suite(run, tmp_path, text, code=1) == (1, 2, 1)


def test_a_report_of_passes_does_not_hide_an_exit_code(run, tmp_path):
    assert suite(run, tmp_path, CASES.format(failures=0, more=""), code=1) == (1, 1, 0)


def test_a_program_that_dies_after_its_cases_fails(run, tmp_path):
    assert suite(run, tmp_path, CASES.format(failures=1, more="")) == (1, 1, 0)


@pytest.mark.parametrize("text", ["", "<testsuites", "<testsuites/>"])
def test_a_missing_or_empty_report_fails(run, tmp_path, text):
    assert suite(run, tmp_path, text)[1] >= 1


def test_a_report_of_an_earlier_run_does_not_count(run, tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(CASES.format(failures=0, more=""))
    run.suite("suite", 20, ["true"], report)
    assert figures(run)[0] == 0 and run.failed


def test_no_part_gets_more_time_than_is_left(run):
    run.start -= run_tests.BUDGET - 10
    assert run.limit(600) <= 10
    run.start -= 100
    assert run.limit(600) == 5
