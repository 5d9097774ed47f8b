#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Makes a page of what bench/run measured: a bar for each row, on a logarithmic scale, and a table
with every figure. The page needs nothing beside it.

  bench/report.py BENCH.JSON REPORT.HTML
"""
import html
import json
import math
import statistics
import sys
from pathlib import Path

WIDTH, BAR, LEFT = 960, 22, 330  # pixels
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em;
       color: #1b1f24; background: #fff }
svg { width: 100%; height: auto }
svg text { font: 12px system-ui, sans-serif; fill: #1b1f24 }
.scale { stroke: #d0d7de } .even { stroke: #57606a }
.reached { fill: #2f81f7 } .short { fill: #d1702a } .spread { stroke: #1b1f24 }
.aim { stroke: #1a7f37; stroke-width: 2 }
table { border-collapse: collapse; font-size: 13px } .wide { overflow-x: auto }
th, td { text-align: right; padding: .2em .6em; border-bottom: 1px solid #d0d7de;
         white-space: nowrap }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 16em }
td.short { fill: none; color: #b35900; font-weight: 600 }
@media (prefers-color-scheme: dark) {
  body { color: #e6edf3; background: #0d1117 } svg text { fill: #e6edf3 }
  .scale { stroke: #30363d } .spread { stroke: #e6edf3 }
  th, td { border-color: #30363d } td.short { color: #f0883e }
}
"""


def median(row, side, what):
    values = [s[what] for s in row["samples"].get(side, []) if s[what] is not None]
    return statistics.median(values) if values else None


def reached(row):
    return not row["short"]


class Scale:
    """Of ratios, to pixels; from below the smallest to above the largest power of two."""

    def __init__(self, rows):
        values = [v for r in rows for v in (*r["spread"], r["target"], 1)]
        self.low = math.floor(math.log2(min(values)))
        self.high = max(math.ceil(math.log2(max(values))), self.low + 1)

    def x(self, ratio):
        part = (math.log2(ratio) - self.low) / (self.high - self.low)
        return LEFT + part * (WIDTH - LEFT - 60)

    def marks(self):
        step = max(1, (self.high - self.low) // 9)
        return [2.0 ** n for n in range(self.low, self.high + 1) if n % step == 0]


def bar(scale, row, y):
    name, ratio = html.escape(row["name"]), row["ratio"]
    ends = sorted([scale.x(1), scale.x(ratio)])
    low, high = (scale.x(v) for v in row["spread"])
    aim = scale.x(row["target"])
    middle = y + BAR / 2
    figure_x = max(ends[1], high) + 6
    if -6 < aim - figure_x < 30:
        figure_x = aim + 6
    return (
        f'<text x="{LEFT - 8}" y="{middle + 4}" text-anchor="end">{name}</text>'
        f'<rect class="{"reached" if reached(row) else "short"}" x="{ends[0]:.1f}" y="{y + 4}" '
        f'width="{max(1, ends[1] - ends[0]):.1f}" height="{BAR - 8}">'
        f'<title>{name}: {ratio:.2f}, aim {row["target"]:g}</title></rect>'
        f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
        f'<line class="aim" x1="{aim:.1f}" x2="{aim:.1f}" y1="{y + 2}" y2="{y + BAR - 2}"/>'
        f'<text x="{figure_x:.1f}" y="{middle + 4}">{ratio:.3g}</text>')


def plot(rows):
    scale = Scale(rows)
    height = BAR * len(rows) + 30
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" '
             'aria-label="How many times as long as ours theirs takes, row by row">']
    for mark in scale.marks():
        x = scale.x(mark)
        parts.append(f'<line class="{"even" if mark == 1 else "scale"}" x1="{x:.1f}" x2="{x:.1f}" '
                     f'y1="0" y2="{height - 20}"/><text x="{x:.1f}" y="{height - 5}" '
                     f'text-anchor="middle">{mark:g}</text>')
    parts += [bar(scale, row, n * BAR) for n, row in enumerate(rows)]
    return "\n".join([*parts, "</svg>"])


def figure(value, form):
    return "" if value is None else format(value, form)


def line(row):
    def of(what, form, factor=1.0):
        pair = [median(row, side, what) for side in ("ours", "theirs")]
        return " : ".join(figure(v and v * factor, form) for v in pair) if any(pair) else ""

    def cell(text, word=None):
        if word in row["short"]:
            return f'<td class="short">{text} {word}</td>'
        return f"<td>{text}</td>"

    over = figure(row["over_limit"], ".2f")
    if row["within"]:
        over += f" of {row['within']:g}"
    low, high = row["spread"]
    cells = [cell(f"{row['ratio']:.2f}", "BELOW"), cell(f"{row['target']:g}"),
             cell(f"{low:.2f} to {high:.2f}"), cell(over, "ABOVE"), cell(of("seconds", ".4f")),
             cell(figure(row["limit"], ".4f")), cell(of("cpu", ".3f")),
             cell(of("memory", ".1f", 1 / 1024)), cell(of("size", ".1f", 2.0 ** -20), "LARGER")]
    short = "" if reached(row) else ' class="short"'
    return f"<tr><td{short}>{html.escape(row['name'])}</td>{''.join(cells)}</tr>"


def page(bench):
    rows, about = bench["rows"], bench["machine"]
    good = sum(reached(r) for r in rows)
    heads = ["row", "theirs ÷ ours", "aim", "rounds", "ours ÷ limit", "s, ours : theirs",
             "s, limit", "CPU s", "peak MiB", "output MiB"]
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>libqcow2 beside qemu-img</title>
<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>
<h1>libqcow2 beside qemu-img</h1>
<p>{html.escape(about["cpu"])}, {about["cores"]} cores, Linux {html.escape(about["kernel"])},
{html.escape(about["qemu-img"])}; {about["date"]}, {"full" if bench["full"] else "quick"} run.
{good} of {len(rows)} rows reach their aim.</p>
<p>How many times as long as ours theirs takes: median of the rounds, their range as a line, the aim
as a green mark. Orange: an aim isn't reached, and the table says which: BELOW the aim of theirs ÷
ours, ABOVE that of ours ÷ limit, an output that is LARGER than theirs. What may be concluded is in
<code>bench/README.md</code>.</p>
{plot(rows)}
<h2>Every figure</h2>
<div class="wide"><table><tr>{"".join(f"<th>{h}</th>" for h in heads)}</tr>
{chr(10).join(line(r) for r in rows)}
</table></div></body></html>
"""


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    Path(sys.argv[2]).write_text(page(json.loads(Path(sys.argv[1]).read_text())),
                                 encoding="utf-8")


if __name__ == "__main__":
    main()
