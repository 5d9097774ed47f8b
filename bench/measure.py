# SPDX-License-Identifier: MIT
"""Times one command against another, turn and turn about, and what it took of the machine."""
import mmap
import os
import statistics
import subprocess
import time
from pathlib import Path


REPORT = "{report}"  # in a command: the file for the figures of a program that times itself


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


def room_for(data_bytes):
    """The memory that whoever copies so many bytes can want."""
    return data_bytes + data_bytes // 4


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

    def once(self, argv, output=None, repeat=1, ready=None):
        """
        Runs argv `repeat` times. The file that it made last is removed before, off the clock.
        ready: bytes of memory that it can want, where they are fewer than most commands'.
        """
        if output is not None and os.path.exists(output):
            os.remove(output)
        # What the run before left to be written would slow this one down.
        os.sync()
        if output is not None:
            touch_memory(self.ready if ready is None else ready)
        return self.timed(argv, output, repeat)

    def timed(self, argv, output=None, repeat=1):
        if REPORT in argv:
            return self.told(argv)
        done = subprocess.run([self.program, self.report, str(repeat), *argv],
                              stderr=subprocess.PIPE, text=True, errors="replace")
        if done.returncode:
            raise Failed(f"{' '.join(argv)}: exit code {done.returncode}: {done.stderr.strip()}")
        seconds, cpu, memory = self.report.read_text().split()
        size = None if output is None else os.stat(output).st_blocks * 512
        return Sample(float(seconds) / repeat, float(cpu) / repeat, int(memory), size)

    def told(self, argv):
        """A limit that leaves out of its time what isn't the limit; it writes what spawn.c does."""
        argv = [str(self.report) if word == REPORT else word for word in argv]
        done = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise Failed(f"{' '.join(argv)}: exit code {done.returncode}: {done.stderr.strip()}")
        seconds, cpu, memory = self.report.read_text().split()
        return Sample(float(seconds), float(cpu), int(memory), None)


class Row:
    """
    What is compared: our command, theirs, and the file that each makes, if it makes one. Aims:
    theirs ÷ ours is at least `target`, and ours ÷ limit at most `within` if that is given. With
    `no_larger` our file may not be larger than theirs, either. `floor` is a second limit: the
    slower of the two counts in each round. Theirs runs in the first `theirs_rounds` only, where it
    takes too long to be waited for again and again. `ready` is the stopwatch's. A quick run leaves
    out what is `thorough`, and sets `patience`: after so many seconds no other round begins.
    """

    patience = float("inf")

    def __init__(self, name, ours, theirs, output=None, repeat=1, rounds=3, target=1.0, limit=None,
                 within=None, verify=None, floor=None, no_larger=False, theirs_rounds=None,
                 ready=None, thorough=False):
        self.name = name
        self.thorough = thorough
        self.ready = ready
        self.commands = {"ours": ours, "theirs": theirs}
        if limit is not None:
            self.commands["limit"] = limit
        if floor is not None:
            self.commands["floor"] = floor
        self.output = output
        self.repeat = repeat
        self.rounds = rounds
        self.theirs_rounds = rounds if theirs_rounds is None else theirs_rounds
        self.target = target
        self.within = within
        self.no_larger = no_larger
        self.verify = verify
        self.samples = {side: [] for side in self.commands}

    def sides(self, number):
        """Who runs in a round, in what order: everybody is first, second and last in turn."""
        sides = list(self.commands)
        sides = sides[number % len(sides):] + sides[:number % len(sides)]
        return [s for s in sides if s != "theirs" or number < self.theirs_rounds]

    def numbers(self):
        """Those of the rounds, as long as there is patience for one more."""
        end = time.monotonic() + self.patience
        for number in range(self.rounds):
            if number == 0 or time.monotonic() < end:
                yield number

    def run(self, stopwatch, say):
        for number in self.numbers():
            for side in self.sides(number):
                sample = self.once(side, stopwatch)
                self.samples[side].append(sample)
                say(f"{self.name}: round {number + 1} of {self.rounds}: {side} "
                    f"{sample.seconds:.3f} s")
                if number == 0 and side == "ours" and self.verify:
                    self.verify()
        self.clean()

    def once(self, side, stopwatch):
        return stopwatch.once(self.commands[side], self.output, self.repeat, self.ready)

    def clean(self):
        if self.output is not None and os.path.exists(self.output):
            os.remove(self.output)

    def median(self, side, what):
        values = [getattr(s, what) for s in self.samples.get(side, [])]
        values = [v for v in values if v is not None]
        return statistics.median(values) if values else None

    def ratios(self):
        """Theirs ÷ ours, round by round."""
        theirs = self.samples["theirs"]
        return [theirs[n % len(theirs)].seconds / o.seconds
                for n, o in enumerate(self.samples["ours"])]

    def ratio(self):
        return statistics.median(self.ratios())

    def spread(self):
        """The smallest and the largest ratio of a round: how much to believe the median."""
        return min(self.ratios()), max(self.ratios())

    def limits(self):
        """The seconds that count as the limit, round by round; none if there is no limit."""
        slowest = self.samples.get("floor", self.samples.get("limit", []))
        return [max(a.seconds, b.seconds) for a, b in
                zip(self.samples.get("limit", []), slowest)]

    def limit(self):
        return statistics.median(self.limits()) if self.limits() else None

    def over_limit(self):
        """The median over the rounds of ours ÷ limit, or None."""
        if not self.limits():
            return None
        return statistics.median(o.seconds / seconds for o, seconds in
                                 zip(self.samples["ours"], self.limits()))

    def short(self):
        """Which aims the row doesn't reach: words for people, none if all is well."""
        words = []
        if self.ratio() < self.target:
            words.append("BELOW")
        if self.within and self.over_limit() > self.within:
            words.append("ABOVE")
        if self.no_larger and self.median("ours", "size") > self.median("theirs", "size"):
            words.append("LARGER")
        return words

    def as_dict(self):
        return {
            "name": self.name, "commands": self.commands, "repeat": self.repeat,
            "target": self.target, "ratio": self.ratio(), "spread": self.spread(),
            "within": self.within, "limit": self.limit(), "over_limit": self.over_limit(),
            "short": self.short(),
            "samples": {side: [s.as_dict() for s in samples]
                        for side, samples in self.samples.items()},
        }
