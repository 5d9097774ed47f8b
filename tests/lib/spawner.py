# SPDX-License-Identifier: MIT
"""
Runs commands for the tests and measures each one. A program of its own, because what wait4 tells
as a child's peak memory is never below that of the process that forked it: this one stays small.

Reads one JSON request a line from standard input and answers each with one JSON line:
  request  {"argv", "env", "cwd", "stdin", "stdout", "stderr", "timeout",
            "limits": {"AS": bytes, "FSIZE": bytes}}
  answer   {"status": exit code or -signal, "rss": peak in bytes, "seconds", "timed_out"}
A command that takes too long is killed with all that it started, and so is what a command leaves
behind. SIGXFSZ is ignored (Python does that, children inherit it): a file that would pass the limit
FSIZE gives an error of the write, as a full disk does.
"""
import json
import os
import resource
import select
import signal
import sys
import time


def file_actions(request):
    create = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return [(os.POSIX_SPAWN_OPEN, 0, request["stdin"], os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, request["stdout"], create, 0o600),
            (os.POSIX_SPAWN_OPEN, 2, request["stderr"], create, 0o600)]


def kill_group(pid):
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def run(request):
    os.chdir(request["cwd"])
    start = time.monotonic()
    argv = request["argv"]
    pid = os.posix_spawnp(argv[0], argv, request["env"], file_actions=file_actions(request),
                          setpgroup=0)
    for name, limit in request["limits"].items():
        # The command may run already, but it hasn't got far.
        resource.prlimit(pid, getattr(resource, "RLIMIT_" + name), (limit, limit))
    pidfd = os.pidfd_open(pid)
    try:
        done, _, _ = select.select([pidfd], [], [], request["timeout"])
    finally:
        os.close(pidfd)
    # Also after a normal end: a child that was left running must not outlive its test.
    kill_group(pid)
    _, status, usage = os.wait4(pid, 0)
    return {"status": os.waitstatus_to_exitcode(status), "rss": usage.ru_maxrss * 1024,
            "seconds": time.monotonic() - start, "timed_out": not done}


def main():
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = run(request)
        except OSError as e:
            answer = {"error": f"{request['argv'][0]}: {e}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
