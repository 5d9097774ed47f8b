# SPDX-License-Identifier: MIT
"""
Runs commands under a time limit and keeps what they printed, their exit and their peak memory.

`tool` is the qcow2 command of the build under test (QCOW2_BUILD, else build/ of the repository),
`qemu_img`, `qemu_io` and `command` are the programs it is compared with. A program that is missing
fails the test: nothing is skipped for want of a tool.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("QCOW2_BUILD", REPO / "build")).resolve()
TOOL = BUILD / "tools/qcow2"
PACKAGES = {"qemu-img": "qemu-utils", "qemu-io": "qemu-utils", "qemu-nbd": "qemu-utils",
            "nbdinfo": "libnbd-bin",
            "7z": "p7zip-full", "mkfs.ext4": "e2fsprogs", "e2fsck": "e2fsprogs", "zstd": "zstd",
            "mkfs.xfs": "xfsprogs", "mkfs.btrfs": "btrfs-progs"}
TIME_LIMIT = 60
SANITIZER_EXIT = 99
# Freed memory goes back soon, so that the peak says what the program needed.
SANITIZER_ENV = {
    "ASAN_OPTIONS": f"exitcode={SANITIZER_EXIT}:quarantine_size_mb=4:allocator_may_return_null=1:"
                    "detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": f"halt_on_error=1:exitcode={SANITIZER_EXIT}:print_stacktrace=1",
}
REPORTS = ("AddressSanitizer", "LeakSanitizer", "ThreadSanitizer", "UndefinedBehaviorSanitizer",
           "runtime error:", "Assertion ")


@dataclass
class Result:
    """What became of one command."""
    argv: list
    code: int  # exit code, or minus the signal that ended it
    out: str
    err: str
    rss: int  # peak resident memory in bytes
    seconds: float
    timed_out: bool

    def describe(self):
        how = "took too long" if self.timed_out else f"exit code {self.code}"
        return (f"{' '.join(map(str, self.argv))}\n  {how}, {self.seconds:.2f} s, "
                f"{self.rss >> 20} MiB\n  stdout: {self.out[:2000]}\n  stderr: {self.err[:4000]}")

    def ended_well(self):
        """No signal, hang, sanitizer report or failed assertion, whatever the exit code."""
        assert not self.timed_out, self.describe()
        assert self.code >= 0 and self.code != SANITIZER_EXIT, self.describe()
        assert not any(word in self.err for word in REPORTS), self.describe()
        return self

    def succeeded(self, code=0):
        self.ended_well()
        assert self.code == code, self.describe()
        return self

    def sentences(self):
        """The lines of standard error that are no warnings."""
        return [line for line in map(as_text, self.err.splitlines()) if not is_warning(line)]

    def warnings(self):
        return [line for line in map(as_text, self.err.splitlines()) if is_warning(line)]

    def refused(self, *words, code=1):
        """Failed as the tool promises to: exit 1 and one sentence, which holds these words."""
        self.ended_well()
        assert self.code == code, self.describe()
        lines = self.sentences()
        assert len(lines) == 1 and lines[0].startswith("qcow2: "), self.describe()
        assert lines[0].rstrip() == lines[0] and not lines[0].endswith("."), self.describe()
        assert len(lines[0]) > len("qcow2: ") + 8, self.describe()
        for word in words:
            assert word.lower() in lines[0].lower(), f"no '{word}' in: {self.describe()}"
        return self

    def json(self):
        self.succeeded()
        try:
            return json.loads(self.out)
        except ValueError as e:
            raise AssertionError(f"not JSON: {e}\n{self.describe()}") from e


def as_text(line):
    """A message that is an object, with --output=json, as it is without."""
    for kind, start in (("error", "qcow2: "), ("warning", "qcow2: warning: ")):
        if line.startswith(f'{{"{kind}": '):
            return start + json.loads(line)[kind]
    return line


def is_warning(line):
    return line.startswith("qcow2: warning:")


class Spawner:
    """The small process that starts our commands; see spawner.py."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="qcow2-test-")
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("spawner.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, argv, stdout, **request):
        out, err = stdout or f"{self.folder}/out", f"{self.folder}/err"
        request = {**request, "argv": [os.fsdecode(a) for a in argv], "stdout": os.fsdecode(out),
                   "stderr": err}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the process that starts commands has died"
        answer = json.loads(line)
        if "error" in answer:
            raise OSError(answer["error"])
        text = "" if stdout else Path(out).read_text(errors="surrogateescape")
        return Result(argv, answer["status"], text, Path(err).read_text(errors="surrogateescape"),
                      answer["rss"], answer["seconds"], answer["timed_out"])

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


_spawner = None


def close():
    global _spawner
    if _spawner:
        _spawner.close()
        _spawner = None


def sanitized():
    """Whether the tool was built with the address sanitizer, which needs more of everything."""
    return b"__asan_init" in TOOL.read_bytes()


def command(*argv, cwd="/", timeout=TIME_LIMIT, stdin="/dev/null", stdout=None, env=None,
            limits=None):
    """
    Runs a program. stdout: a file for its output, which then isn't in the result; limits: {"AS":
    bytes of address space, "FSIZE": bytes of a file}.
    """
    global _spawner
    argv = [a if isinstance(a, (str, bytes)) else str(a) for a in argv]
    if not shutil.which(argv[0]):
        package = PACKAGES.get(argv[0], argv[0])
        raise AssertionError(f"{argv[0]} is missing: apt-get install {package}")
    _spawner = _spawner or Spawner()
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC", **(env or {})}
    return _spawner.run(argv, stdout, cwd=str(cwd), stdin=str(stdin), timeout=timeout,
                        env=environment, limits=limits or {})


def tool(*argv, env=None, **how):
    """Runs the qcow2 command. Never raises for what it does; ask the result."""
    return command(TOOL, *argv, env={**SANITIZER_ENV, **(env or {})}, **how)


def qemu_img(*argv, **how):
    return command("qemu-img", *argv, **how)


def qemu_io(path, *commands, fmt="qcow2", options=(), **how):
    """
    Runs qemu-io commands on an image; all of them must have succeeded. The same is written as
    ever, but nobody waits for the disk.
    """
    script = [word for c in commands for word in ("-c", c)]
    result = command("qemu-io", "-t", "unsafe", *options, "-f", fmt, *script, path, **how)
    result.succeeded()
    assert "failed" not in result.out + result.err, result.describe()
    return result
