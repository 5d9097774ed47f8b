# SPDX-License-Identifier: MIT
"""qcow2 snapshot: what it prints, its exit codes and what it refuses, beside qemu-img snapshot."""
import re
import shutil

import pytest

from lib.run import qemu_img, qemu_io, tool

DATE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


def image(work, name="a.qcow2", size="1M", **options):
    words = [w for k, v in options.items() for w in ("-o", f"{k}={v}")]
    qemu_img("create", "-q", "-f", "qcow2", *words, name, size, cwd=work).succeeded()
    return name


def pair(work, **options):
    """Two images that are the same, for theirs and for ours."""
    image(work, "theirs.qcow2", **options)
    shutil.copy(work / "theirs.qcow2", work / "ours.qcow2")


def timeless(text):
    return re.sub(DATE, "DATE", text)


def both(*words, work):
    """The same command with both: the same exit code and, but for times, the same output."""
    ours = tool("snapshot", *words, "ours.qcow2", cwd=work).ended_well()
    theirs = qemu_img("snapshot", *words, "theirs.qcow2", cwd=work)
    described = ours.describe() + "\n" + theirs.describe()
    assert (ours.code, timeless(ours.out)) == (theirs.code, timeless(theirs.out)), described
    assert bool(ours.err) == bool(theirs.err), described
    return ours, theirs


def is_clean(name, work):
    qemu_img("check", "-f", "qcow2", name, cwd=work).succeeded()


def names(name, work):
    return [s["name"] for s in tool("snapshot", "list", "--output=json", name, cwd=work).json()]


def test_every_action_prints_what_qemu_img_prints(work):
    pair(work)
    for words in (["-l"], ["-c", "one"], ["-l"], ["-c", "one"], ["-c", "1"], ["-c", ""],
                  ["-l"], ["-q", "-l"], ["-U", "-l"], ["-a", "one"], ["-a", "3"], ["-a", "none"],
                  ["-d", "none"], ["-d", "2"], ["-d", "one"], ["-l"], ["-d", ""], ["-q", "-c", "x"],
                  ["-l"]):
        ours, theirs = both(*words, work=work)
        assert ours.err.replace("qcow2: ", "") == theirs.err.replace("qemu-img: ", "")
    is_clean("ours.qcow2", work)


def test_an_id_is_looked_for_before_a_name(work):
    pair(work)
    for path in ("ours.qcow2", "theirs.qcow2"):
        qemu_io(work / path, "write -P 1 0 64k")
    for words in (["-c", "2"], ["-c", "1"]):
        both(*words, work=work)
        for path in ("ours.qcow2", "theirs.qcow2"):
            qemu_io(work / path, "write -P 2 0 64k")
    both("-a", "1", work=work)  # the one named "2"
    for path in ("ours.qcow2", "theirs.qcow2"):
        qemu_io(work / path, "read -P 1 0 64k")
    both("-d", "1", work=work)  # the one named "1"
    assert names("ours.qcow2", work) == ["2"]


def test_words_do_what_letters_do(work):
    name = image(work)
    for words in (["create", "one"], ["create", "two"], ["apply", "one"], ["delete", "one"]):
        assert tool("snapshot", *words, name, cwd=work).succeeded().out == ""
    assert names(name, work) == ["two"]
    text = tool("snapshot", "list", name, cwd=work).succeeded().out
    assert text == tool("snapshot", "-l", name, cwd=work).out
    assert text == tool("snapshot", name, cwd=work).out
    is_clean(name, work)


def test_a_file_may_be_named_like_an_action(work):
    image(work, "list")
    tool("snapshot", "-c", "x", "list", cwd=work).succeeded()
    assert "x" in tool("snapshot", "list", cwd=work).succeeded().out


def test_the_list_as_json(work):
    name = image(work)
    assert tool("snapshot", "--output=json", name, cwd=work).json() == []
    tool("snapshot", "-c", "one", name, cwd=work).succeeded()
    listed = tool("snapshot", "--output=json", name, cwd=work).json()
    assert listed == qemu_img("info", "--output=json", name, cwd=work).json()["snapshots"]


@pytest.mark.parametrize("words,said", [
    ([], "one image file"), (["a", "b"], "one image file"), (["list", "a", "b"], "'list FILE'"),
    (["create", "a"], "'create NAME FILE'"), (["-c", "x"], "one image file"),
    (["-c", "x", "-l", "a"], "only one of"), (["-c", "x", "-c", "y", "a"], "only one of"),
    (["-a", "x", "delete", "y", "a"], "one image file"),
])
def test_wrong_usage_is_told(words, said, work):
    result = tool("snapshot", *words, cwd=work).ended_well()
    assert result.code == 1 and said in result.err.splitlines()[0], result.describe()
    assert "--help" in result.err.splitlines()[1]


def test_what_cant_have_snapshots_is_refused(work):
    (work / "raw").write_bytes(bytes(1 << 20))
    image(work, "ext.qcow2", data_file="data")
    for name in ("raw", "ext.qcow2"):
        before = (work / name).read_bytes()
        assert tool("snapshot", "-l", name, cwd=work).succeeded().out == ""
        for words in (["-c", "x"], ["-a", "x"], ["-d", "x"]):
            tool("snapshot", *words, name, cwd=work).refused("snapshot 'x'")
        assert (work / name).read_bytes() == before


def test_refcounts_without_room_refuse_and_change_nothing(work):
    name = image(work, refcount_bits=1)
    qemu_io(work / name, "write -P 5 0 128k")
    tool("snapshot", "-c", "x", name, cwd=work).refused(
        "Could not create snapshot 'x'", "as many references (1)")
    assert names(name, work) == []
    is_clean(name, work)
    qemu_io(work / name, "read -P 5 0 128k")


def test_two_bits_hold_two_snapshots(work):
    name = image(work, refcount_bits=2)
    qemu_io(work / name, "write -P 5 0 128k")
    for n in "ab":
        tool("snapshot", "-c", n, name, cwd=work).succeeded()
    tool("snapshot", "-c", "c", name, cwd=work).refused("references (3)")
    assert names(name, work) == ["a", "b"]
    is_clean(name, work)


def test_a_long_name_is_refused(work):
    name = image(work)
    tool("snapshot", "-c", "n" * 255, name, cwd=work).succeeded()
    tool("snapshot", "-c", "n" * 256, name, cwd=work).refused("at most 255 bytes")
    assert names(name, work) == ["n" * 255]
    assert qemu_img("snapshot", "-d", "n" * 255, name, cwd=work).succeeded().out == ""


def test_odd_bytes_in_names(work):
    pair(work)
    for odd in (b"tab\there", b"nine\xff\xfe", "übung".encode(), b"%s%n", b"-l", b"a,b=c", b" "):
        for words in ((b"-c", odd), (b"-a", odd)):
            tool("snapshot", *words, "ours.qcow2", cwd=work).succeeded()
            qemu_img("snapshot", *words, "theirs.qcow2", cwd=work).succeeded()
    # each reads the other's
    (work / "ours.qcow2").rename(work / "x")
    (work / "theirs.qcow2").rename(work / "ours.qcow2")
    (work / "x").rename(work / "theirs.qcow2")
    listed = [qemu_img("snapshot", "-l", name, cwd=work).out
              for name in ("ours.qcow2", "theirs.qcow2")]
    assert timeless(listed[0]) == timeless(listed[1])
    assert "\t" not in tool("snapshot", "-l", "ours.qcow2", cwd=work).succeeded().out
    for odd in (b"nine\xff\xfe", b"tab\there"):
        both("-d", odd, work=work)


def test_driver_options_name_the_image(work):
    name = image(work)
    opts = f"driver=qcow2,file.filename={name}"
    tool("snapshot", "--image-opts", "-c", "x", opts, cwd=work).succeeded()
    assert "x" in tool("snapshot", "--image-opts", "-l", opts, cwd=work).succeeded().out
    tool("snapshot", "--image-opts", "-l", "driver=qcow2", cwd=work).refused("must be specified")
    tool("snapshot", "--image-opts", "-f", "qcow2", "-l", opts, cwd=work).refused("exclusive")
    tool("snapshot", "--image-opts", "-l", f"driver=vmdk,file.filename={name}",
         cwd=work).refused("vmdk")


def test_sharing_is_for_listing_only(work):
    name = image(work)
    tool("snapshot", "-U", "-c", "x", name, cwd=work).refused("-U")
    with open(work / name, "rb") as f:
        assert f.read(4) == b"QFI\xfb"
    assert names(name, work) == []


def test_a_damaged_snapshot_table_isnt_an_empty_list(work):
    name = image(work)
    tool("snapshot", "-c", "x", name, cwd=work).succeeded()
    with open(work / name, "r+b") as f:
        f.seek(64)
        f.write((1 << 62).to_bytes(8, "big"))
    result = tool("snapshot", "-l", name, cwd=work).ended_well()
    assert result.code == 1 and "snapshot" in result.err, result.describe()
    tool("snapshot", "-c", "y", name, cwd=work).refused("snapshot")
