# SPDX-License-Identifier: MIT
"""
A folder for each damage: damage.py there pokes a sound image, and says what is found, what a repair
leaves, and what the guest reads afterwards. Every code of the catalogue has one; dev/tidy.py looks.

  IMAGE     options of lib.victims.victim (extras: with snapshots and bitmaps; default without)
  make(rng) another image instead (lib.qcow2img.Image)
  damage(p) pokes it: p is a lib.checking.Patcher
  FOUND     code -> how many (None: some); with those that follow from the damage
  NOTES     codes of notes that are told
  WITH_LEAKS  it is what a repair of leaks finds, which then changes nothing
  places(p) words that the sentences about it have: offsets
  LEFT      what remains after a repair of everything, and WHY
  ZEROS     guest clusters that read as zeros after the repair; all else reads as before
  THEIRS    what qemu-img's check says of the repaired image, if it isn't "clean": and why

What holds for all of them: a check changes nothing; a repair of leaks changes no corruption, and
frees nothing where damage may hide references; a second check finds what the first repair left,
and the repair can be taken back byte for byte.
"""
import json
import os
import runpy
from pathlib import Path

import pytest

from lib import forged
from lib.checking import Patcher, check, qemu_check
from lib.run import qemu_img, tool
from lib.victims import victim

HERE = Path(__file__).resolve().parent
NAMES = sorted(p.parent.name for p in HERE.glob("*/damage.py"))


class Damage:
    def __init__(self, name, work, rng):
        self.work, self.script = work, runpy.run_path(str(HERE / name / "damage.py"))
        options = {"extras": False, **self.get("IMAGE", {})}
        if options.get("data_file"):
            options["data_file"] = forged.path_of(work, "data")
        if options.get("backing_name"):
            (work / options["backing_name"]).write_bytes(b"below" * 100)
        make = self.get("make")
        self.image = make(rng) if make else victim(rng, **options)
        self.p = Patcher(self.image, self.image.build())
        if self.p.built.data_file:
            self.p.built.data_file.save(forged.path_of(work, "data"))
        self.get("damage")(self.p)
        self.path = forged.path_of(work, "image.qcow2")
        self.save()

    def get(self, name, default=None):
        return self.script.get(name, default)

    def save(self):
        self.p.built.save(self.path)

    def bytes(self):
        return Path(self.path).read_bytes()


@pytest.fixture
def damage(request, work, rng):
    return Damage(request.param, work, rng)


def each(names=None):
    return pytest.mark.parametrize("damage", names or NAMES, indirect=True)


def same(found, expected):
    """None expects any number."""
    return found.keys() == expected.keys() and all(
        n is None or found[code] == n for code, n in expected.items())


def is_error(code):
    return code != "leak"


@each()
def test_what_is_found(damage):
    before = damage.bytes()
    answer = check(damage.path)
    assert same(answer.found(), damage.get("FOUND")), answer.describe()
    notes = damage.get("NOTES", [])
    told = tool("check", "--list-findings", "--output=json").json()
    kinds = {row["code"]: row["severity"] for row in told}
    code = Path(damage.script["__file__"]).parent.name.split(".")[0]
    assert code in kinds
    told_first = check(damage.path, "leaks") if damage.get("WITH_LEAKS") else answer
    assert code in notes or code in told_first.found(), answer.describe()
    assert (kinds[code] == "note") == (code in notes)
    for words in damage.get("places", lambda p: [])(damage.p):
        assert words in answer.result.err, answer.describe()
    assert damage.bytes() == before


@each()
def test_leaks_are_given_back_only_where_nothing_is_hidden(damage):
    found = damage.get("FOUND")
    answer = check(damage.path, "leaks")
    again = check(damage.path)
    errors = {code: n for code, n in found.items() if is_error(code)}
    left = {code: n for code, n in again.found().items() if is_error(code)}
    # Flags follow the counts that were lowered.
    for flags in ("l1-copied", "l2-copied"):
        errors.pop(flags, 0)
        left.pop(flags, 0)
    assert same(left, errors), answer.describe()
    if again["hides-references"] or answer["check-errors"]:
        assert same({"leak": again["leaks"]}, {"leak": found.get("leak", 0)}), again.describe()
    else:
        assert again["leaks"] == 0, again.describe()


def assert_reads(damage):
    """What the guest sees is what it was, but for what the damage took."""
    if damage.get("ZEROS") is None:
        return
    truth = damage.image.truth()
    for index in damage.get("ZEROS"):
        off = index % (damage.image.size // damage.image.cs) * damage.image.cs
        truth.zero(off, damage.image.cs)
    out = forged.path_of(damage.work, "out.raw")
    tool("convert", "-f", "qcow2", "-O", "raw", damage.path, out, cwd=damage.work).succeeded()
    truth.assert_same(out)
    if not damage.get("THEIRS"):
        qemu_img("convert", "-f", "qcow2", "-O", "raw", damage.path, out,
                 cwd=damage.work).succeeded()
        truth.assert_same(out)


@each()
def test_a_repair_and_what_it_leaves(damage):
    before, left = damage.bytes(), damage.get("LEFT", {})
    assert bool(left) == bool(damage.get("WHY")), "what is left has a reason"
    repaired = tool("check", "-r", "all", "--keep-undo", "image.qcow2",
                    cwd=damage.work).ended_well()
    again = check(damage.path)
    assert same(again.found(), left), f"{repaired.describe()}\n{again.describe()}"
    assert repaired.code == again.code or left, repaired.describe()
    if not left:
        assert repaired.code == 0, repaired.describe()
        theirs = qemu_check(damage.path)
        assert theirs.code == 0 or damage.get("THEIRS"), theirs.describe()
        assert damage.bytes()[72:80] == before[72:79] + bytes([before[79] & ~3])
        assert_reads(damage)
    # The same again changes nothing, but for what can't be repaired, which is said again.
    done = damage.bytes()
    tool("check", "-r", "all", "--no-undo", "image.qcow2", cwd=damage.work).ended_well()
    assert damage.bytes() == done
    if done != before:
        tool("check", "--undo-apply", "image.qcow2.undo", cwd=damage.work).succeeded()
        assert damage.bytes() == before
    assert not os.path.exists(damage.path + ".undo")


def test_what_stays_is_in_the_manual_page():
    page = (HERE.parents[1] / "docs/man/qcow2-check.1.scd").read_text()
    stays = page[page.index("What stays as it is"):page.index("# MEMORY")]
    left = {name.split(".")[0] for name in NAMES
            if "WHY" in runpy.run_path(str(HERE / name / "damage.py"))}
    assert left and not [code for code in left if f"*{code}*" not in stays]


def test_every_code_has_a_folder():
    told = json.loads(tool("check", "--list-findings", "--output=json").succeeded().out)
    assert {name.split(".")[0] for name in NAMES} == {row["code"] for row in told}
