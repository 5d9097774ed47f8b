# SPDX-License-Identifier: MIT
"""Times one command against another, turn and turn about, and what it took of the machine."""
import mmap
import os
import statistics
import subprocess
from pathlib import Path


class Failed(Exception):
    """A command didn't do its work: there is nothing to time."""


class Sample:
    """One run of one command: seconds on the clock and of CPU, peak memory in KiB."""

    def __init__(self, seconds, cpu, memory, size):
        self.seconds = seconds
        self.cpu = cpu
        self.memory = memory
        self.size = size

    def as_dict(self):
        return dict(vars(self))


def touch_memory(size):
    """
    Uses that much memory and frees it. A virtual machine may have given its free memory back to
    the host, and whoever writes to it first then waits for the host: not what is measured here.
    """
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size = min(size, available * 3 // 4)
    step = bytes(b"\1" * (1 << 20))
    with mmap.mmap(-1, size) as memory:
        for _ in range(size // len(step)):
            memory.write(step)


class Stopwatch:
    """
    Starts commands through the small program spawn.c, which is built here. A command that makes a
    file finds `ready` bytes of memory that are free and were in use just before.
    """

    def __init__(self, folder, ready):
        self.ready = ready
        folder.mkdir(parents=True, exist_ok=True)
        self.program = str(folder / "spawn")
        self.report = folder / "spawn.report"
        source = Path(__file__).resolve().parent / "spawn.c"
        subprocess.run(["cc", "-O2", "-D_GNU_SOURCE", str(source), "-o", self.program], check=True)

    def once(self, argv, output=None, repeat=1):
        """Runs argv `repeat` times. The file that it made last is removed before, off the clock."""
        if output is not None and os.path.exists(output):
            os.remove(output)
        # What the run before left to be written would slow this one down.
        os.sync()
        if output is not None:
            touch_memory(self.ready)
        return self.timed(argv, output, repeat)

    def timed(self, argv, output=None, repeat=1):
        done = subprocess.run([self.program, self.report, str(repeat), *argv],
                              stderr=subprocess.PIPE, text=True, errors="replace")
        if done.returncode:
            raise Failed(f"{' '.join(argv)}: exit code {done.returncode}: {done.stderr.strip()}")
        seconds, cpu, memory = self.report.read_text().split()
        size = None if output is None else os.stat(output).st_blocks * 512
        return Sample(float(seconds) / repeat, float(cpu) / repeat, int(memory), size)


class Row:
    """
    What is compared: our command, theirs, and the file that each makes, if it makes one. Aims:
    theirs ÷ ours is at least `target`, and ours ÷ limit at most `within` if that is given.
    """

    def __init__(self, name, ours, theirs, output=None, repeat=1, rounds=3, target=1.0, limit=None,
                 within=None, verify=None):
        self.name = name
        self.commands = {"ours": ours, "theirs": theirs}
        if limit is not None:
            self.commands["limit"] = limit
        self.output = output
        self.repeat = repeat
        self.rounds = rounds
        self.target = target
        self.within = within
        self.verify = verify
        self.samples = {side: [] for side in self.commands}

    def run(self, stopwatch, say):
        for number in range(self.rounds):
            # Who goes first changes each round, so that neither always finds the warmer machine.
            sides = list(self.commands)
            if number % 2:
                sides.reverse()
            for side in sides:
                sample = stopwatch.once(self.commands[side], self.output, self.repeat)
                if number == 0 and side == "ours" and self.verify:
                    self.verify()
                self.samples[side].append(sample)
                say(f"{self.name}: round {number + 1} of {self.rounds}: {side} "
                    f"{sample.seconds:.3f} s")
        if self.output is not None and os.path.exists(self.output):
            os.remove(self.output)

    def median(self, side, what):
        values = [getattr(s, what) for s in self.samples.get(side, [])]
        values = [v for v in values if v is not None]
        return statistics.median(values) if values else None

    def ratio(self):
        """The median over the rounds of theirs ÷ ours."""
        return statistics.median(t.seconds / o.seconds for o, t in
                                 zip(self.samples["ours"], self.samples["theirs"]))

    def spread(self):
        """The smallest and the largest ratio of a round: how much to believe the median."""
        ratios = [t.seconds / o.seconds for o, t in
                  zip(self.samples["ours"], self.samples["theirs"])]
        return min(ratios), max(ratios)

    def over_limit(self):
        """The median over the rounds of ours ÷ limit, or None."""
        if "limit" not in self.samples:
            return None
        return statistics.median(o.seconds / b.seconds for o, b in
                                 zip(self.samples["ours"], self.samples["limit"]))

    def reached(self):
        return self.ratio() >= self.target and not (
            self.within and self.over_limit() > self.within)

    def as_dict(self):
        return {
            "name": self.name, "commands": self.commands, "repeat": self.repeat,
            "target": self.target, "ratio": self.ratio(), "spread": self.spread(),
            "within": self.within, "over_limit": self.over_limit(),
            "samples": {side: [s.as_dict() for s in samples]
                        for side, samples in self.samples.items()},
        }
