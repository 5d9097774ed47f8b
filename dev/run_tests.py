# SPDX-License-Identifier: MIT
"""
The body of scripts/test: builds, runs every kind of test, and counts over all of them.

A part of the run is either a step (a command: one test) or a suite (a command that leaves a JUnit
file: as many tests as that lists). Nothing is counted that didn't run, a command that fails is a
failure even if its report shows none, and a report that is empty or missing is a failure too.

Every command is cut off in time for the whole to end within BUDGET: a hang is a failure of one
part, not of the promise that scripts/test comes back.
"""
import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build-test"
ASAN = ROOT / "build-asan"
CLANG = ROOT / "build-clang"
TSAN = ROOT / "build-tsan"
RELEASE = ROOT / "build-release"
THREADS = ROOT / "build-threads"
BUDGET = 15 * 60
JOBS = os.cpu_count() or 1
TESTS_AT_ONCE = JOBS + 1  # they often wait: for the disk, or for time to pass
TOOLS = ["meson", "ninja", "gcc", "g++", "clang", "clang-format", "qemu-img", "qemu-io",
         "qemu-nbd", "7z", "zstd", "mkfs.ext4", "e2fsck", "nm", "pkg-config", "shellcheck"]
# Reports name functions and lines, not variables: compiling takes less time without those.
OPTIONS = ["-Dwerror=true", "-Dbuildtype=debugoptimized", "-Dc_args=-g1"]
COMPILERS = {
    "gcc": {"CC": "gcc"},
    # The quicker of the linkers in binutils; it warns of symbols in clang's sanitizers.
    "gcc, gold": {"CC": "gcc", "CC_LD": "gold"},
    "clang": {"CC": "clang"},
}
SANITIZED = [*OPTIONS, "-Db_sanitize=address,undefined"]
# The tree is kept in the form of this release of clang-format; others differ in small things.
CLANG_FORMAT = 14


class Run:
    def __init__(self, mode):
        self.mode = mode
        self.start = time.monotonic()
        self.passed, self.failed, self.skipped = [], [], []
        self.env = dict(
            os.environ, QCOW2_BUILD=str(ASAN), UBSAN_OPTIONS="print_stacktrace=1",
            ASAN_OPTIONS="allocator_may_return_null=1:detect_stack_use_after_return=1")
        if mode == "long":
            self.env["QCOW2_TEST_LONG"] = "1"

    def say(self, text):
        print(f"[{time.monotonic() - self.start:4.0f} s] {text}", flush=True)

    def limit(self, seconds):
        if self.mode == "long":
            return 20 * seconds
        return min(seconds, max(5, BUDGET - (time.monotonic() - self.start)))

    def command(self, name, seconds, argv, env=None, shown=60):
        """Runs argv with its output in a log. 0, its exit code, or None when it took too long."""
        log = RESULTS / (re.sub(r"\W+", "-", name) + ".log")
        limit = self.limit(seconds)
        with open(log, "wb") as out:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                       cwd=ROOT, env={**self.env, **(env or {})},
                                       start_new_session=True)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end_group(process)
        if code != 0:
            what = f"exit code {code}" if code is not None else f"not done after {limit:.0f} s"
            tail = log.read_text(errors="replace").splitlines()[-shown:]
            print(f"--- {name}: {what}; the end of {log.relative_to(ROOT)}:", *tail, "---",
                  sep="\n", flush=True)
        return code

    def step(self, name, seconds, argv, env=None):
        self.say(name)
        good = self.command(name, seconds, argv, env) == 0
        (self.passed if good else self.failed).append(name)
        return good

    def suite(self, name, seconds, argv, report, env=None):
        self.say(name)
        report.unlink(missing_ok=True)
        code = self.command(name, seconds, argv, env, shown=150)
        failed_before = len(self.failed)
        try:
            counted = self.count(name, report)
        except (OSError, ET.ParseError) as e:
            counted = 0
            self.failed.append(f"{name}: no report: {e}")
        if not counted:
            self.failed.append(f"{name}: no test in its report")
        if code != 0 and len(self.failed) == failed_before:
            self.failed.append(f"{name}: the run as a whole")

    def count(self, name, report):
        """Takes the cases of a JUnit file into the account; how many there are."""
        cases = 0
        for suite in ET.parse(report).getroot().iter("testsuite"):
            bad_cases = 0
            for case in suite.iter("testcase"):
                cases += 1
                label = f"{name}: {case.get('classname')} {case.get('name')}"
                if case.find("failure") is not None or case.find("error") is not None:
                    bad_cases += 1
                    self.failed.append(label)
                elif case.find("skipped") is not None:
                    self.skipped.append(f"{label}: {case.find('skipped').get('message')}")
                else:
                    self.passed.append(label)
            # A program whose cases pass and which then dies is counted by its suite only.
            told = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            if told > bad_cases:
                self.failed.append(f"{name}: {suite.get('name')} as a whole")
        return cases

    def finish(self):
        self.say("done")
        for what in self.skipped:
            print("skipped:", what)
        for what in self.failed:
            print("FAILED:", what)
        print(f"{len(self.passed)} passed, {len(self.failed)} failed, {len(self.skipped)} skipped")
        return 1 if self.failed or not self.passed else 0


def end_group(process):
    """Ends what a command left running: only its own session, which we made."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sig)
        except ProcessLookupError:
            break
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            continue
        time.sleep(0.2)


def build(run, name, compiler, folder, options, wanted=None):
    """
    A build folder with these options, whatever it was before. wanted: a function of the folder that
    tells what is built there, if not all.
    """
    name = f"build: {name}"
    env = COMPILERS[compiler]
    if (folder / "build.ninja").exists():
        quiet = subprocess.run(["meson", "configure", str(folder), *options], env=run.env,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        if quiet.returncode:
            shutil.rmtree(folder)
    if not (folder / "build.ninja").exists():
        shutil.rmtree(folder, ignore_errors=True)
        if not run.step(f"{name}: configure", 120, ["meson", "setup", str(folder), *options], env):
            return False
    targets = wanted(folder) if wanted else []
    return run.step(name, 420, ["ninja", "-C", str(folder), "-j", str(JOBS), *targets], env)


def check_format(run):
    tool = shutil.which(f"clang-format-{CLANG_FORMAT}") or shutil.which("clang-format")
    version = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout
    if f"version {CLANG_FORMAT}." not in version:
        run.skipped.append(f"clang-format: this is {version.strip()}, "
                           f"the tree is in the form of {CLANG_FORMAT}")
        return
    files = [str(p) for folder in ("include", "src", "tools", "tests", "fuzz", "bench")
             for p in sorted((ROOT / folder).rglob("*.[ch]"))]
    run.step("clang-format", 60, [tool, "--dry-run", "-Werror", *files])


def check_scripts(run):
    files = [p for folder in ("scripts", ".ci", "bench") for p in sorted((ROOT / folder).glob("*"))]
    scripts = [p for p in files
               if p.is_file() and re.match(rb"#!/bin/(ba)?sh\n", p.read_bytes())]
    run.step("shellcheck", 60, ["shellcheck", *map(str, scripts)])


def meson_tests(run, name, folder, *options):
    patience = "20" if run.mode == "long" else "2"
    argv = ["meson", "test", "-C", str(folder), "--no-rebuild", "--print-errorlogs",
            "--num-processes", str(TESTS_AT_ONCE), "--timeout-multiplier", patience, *options]
    run.suite(name, 360, argv, folder / "meson-logs/testlog.junit.xml")


def threaded_tests(folder):
    """The tests in which threads could meet, {name: program}: not those that have only one."""
    listed = subprocess.run(["meson", "introspect", "--tests", str(folder)], check=True,
                            capture_output=True, text=True).stdout
    # The last three have many threads, but take minutes here, and job_convert meets the same code.
    alone = ("format_", "codec", "cli_", "image_fresh", "crash_", "fault_", "cost_", "model_alone",
             "engine_judges", "job_convert_same", "job_convert_inplace", "job_convert_faults",
             "storage_undo", "storage_syscalls", "check_cuts", "check_repair", "engine_limits")
    return {t["name"]: os.path.relpath(t["cmd"][0], folder) for t in json.loads(listed)
            if not t["name"].startswith(alone) and not t["suite"][0].endswith(":style")}


def threaded_programs(folder):
    return sorted(set(threaded_tests(folder).values()))


def python_tests(run, name, folder):
    report = RESULTS / f"pytest-{folder.name}.xml"
    argv = [sys.executable, "-m", "pytest", "-q", "-ra", "-n", str(TESTS_AT_ONCE), "-p",
            "no:cacheprovider", f"--junitxml={report}", "--basetemp", str(RESULTS / "tmp")]
    if run.mode == "quick":
        argv += ["-m", "not slow"]
    run.suite(name, 480, [*argv, "tests", "dev"], report, {"QCOW2_BUILD": str(folder)})


def fuzz(run):
    factor = 10 if run.mode == "long" else 1
    targets = sorted(p for p in (CLANG / "fuzz").glob("fuzz_*") if p.is_file())
    # Those that open whole images run longest, and first.
    plan = sorted((20 if "open" in p.name else 3, p) for p in targets)[::-1]
    if not plan:
        run.failed.append("fuzzing: there are no targets")
    run.say(f"fuzzing: {len(plan)} targets")

    made = CLANG / "seeds"
    if not run.step("fuzzing: seeds", 60, [sys.executable, "fuzz/make_seeds.py",
                                           str(made / "fuzz_open")]):
        return

    def one(seconds, target):
        corpus = CLANG / "corpus" / target.name
        crashes = CLANG / "crashes"
        for folder in (corpus, crashes):
            folder.mkdir(parents=True, exist_ok=True)
        seeds = [str(p) for p in [ROOT / "fuzz/corpus" / target.name, made / target.name]
                 if p.is_dir()]
        argv = [str(target), f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048",
                "-print_final_stats=1", f"-artifact_prefix={crashes}/{target.name}-",
                str(corpus), *seeds]
        code = run.command(target.name, seconds + 60, argv, shown=40)
        text = (RESULTS / f"{target.name}.log").read_text(errors="replace")
        runs = re.search(r"stat::number_of_executed_units: *(\d+)", text)
        if code == 0 and runs and int(runs.group(1)) > 0:
            run.passed.append(f"fuzzing: {target.name}")
            run.say(f"  {target.name}: {runs.group(1)} inputs in {seconds} s")
        else:
            run.failed.append(f"fuzzing: {target.name}")

    with ThreadPoolExecutor(JOBS) as pool:
        for job in [pool.submit(one, seconds * factor, target) for seconds, target in plan]:
            job.result()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", dest="mode", action="store_const", const="quick")
    parser.add_argument("--long", dest="mode", action="store_const", const="long")
    run = Run(parser.parse_args().mode or "full")
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        sys.exit(f"scripts/test: missing though the packages are there: {', '.join(missing)}")
    shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir()

    if build(run, "gcc, ASan, UBSan", "gcc, gold", ASAN, SANITIZED):
        check_format(run)
        check_scripts(run)
        meson_tests(run, "unit tests", ASAN)
        python_tests(run, "Python tests", ASAN)
    if run.mode == "long" and build(run, "gcc, ASan, UBSan, without io_uring", "gcc, gold", THREADS,
                                    [*SANITIZED, "-During=disabled"]):
        meson_tests(run, "unit tests without io_uring", THREADS)
        python_tests(run, "Python tests without io_uring", THREADS)
    if run.mode != "quick":
        # What people build; the optimizer finds warnings of its own.
        build(run, "gcc, release", "gcc", RELEASE,
              ["-Dwerror=true", "-Dbuildtype=release", "-Dtests=false"])
        if build(run, "gcc, TSan", "gcc, gold", TSAN, [*OPTIONS, "-Db_sanitize=thread"],
                 threaded_programs):
            meson_tests(run, "unit tests under TSan", TSAN, *threaded_tests(TSAN))
        if build(run, "clang, libFuzzer", "clang", CLANG,
                 [*SANITIZED, "-Db_lundef=false", "-Dfuzz=true", "-Dtests=false"]):
            fuzz(run)
    return run.finish()


if __name__ == "__main__":
    sys.exit(main())
