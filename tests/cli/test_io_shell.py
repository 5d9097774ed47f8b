# SPDX-License-Identifier: MIT
"""qcow2 io by its own name: what it says beyond qemu-io's words, its options, its help."""
import os
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from io_oracle import Pair, drop_in, raw, script  # noqa: E402
from lib.run import SANITIZER_ENV, command, tool  # noqa: E402


def io(work, *words, **how):
    return tool("io", *words, cwd=work, **how).ended_well()


def commands(work):
    names = re.findall(r"^(\w+)(?= .*-- )", io(work, "-c", "help").succeeded().out, re.M)
    assert {"read", "aio_flush", "truncate", "reopen"} <= set(names)
    return names


def test_the_reason_of_a_failure_is_told(work):
    raw(work)
    result = io(work, "-f", "raw", "disk.raw", "-c", "w 20M 512", "-c", "r -b 0 512",
                "-c", "w -c 0 512", "-c", "truncate -m metadata 20M")
    assert result.code == 1
    assert result.out == ("write failed: Input/output error\nread failed: Operation not supported\n"
                          "write failed: Operation not supported\n")
    sentences = result.err.splitlines()
    assert len(sentences) == 4 and all(s.startswith("qcow2: ") for s in sentences)
    assert "20971520" in sentences[0] and "10485760" in sentences[0]
    assert "VM state" in sentences[1] and "compressed" in sentences[2]


def test_without_a_terminal_there_is_no_prompt(work):
    raw(work)
    Path(work, "in").write_text("length\nread 0 512\nfoo\n")
    result = io(work, "disk.raw", "-r", stdin=Path(work, "in"))
    assert result.code == 1 and result.out.startswith("10 MiB\nread 512/512 bytes")
    assert "io>" not in result.out


def test_quiet_leaves_errors(work):
    raw(work)
    result = io(work, "-q", "-f", "raw", "disk.raw", "-c", "w 0 512", "-c", "r -v 0 512",
                "-c", "aio_read 0 1", "-c", "discard 0 512", "-c", "r -P 1 0 1", "-c", "length")
    assert result.code == 1
    assert result.out == "Pattern verification failed at offset 0, 1 bytes\n10 MiB\n"


def test_help_tells_every_option_of_a_command(work):
    for name in commands(work):
        text = io(work, "-c", f"help {name}").succeeded().out
        first, rest = text.split("\n", 1)
        letters = "".join(re.findall(r"\[-(\w+)\]", first)) + "".join(re.findall(r"-(\w) ", first))
        for letter in letters.replace("a", ""):
            assert re.search(rf"-{letter}\b", rest), (letter, text)
        assert max(map(len, text.splitlines())) <= 110


def test_names_and_versions(work):
    assert io(work, "-V").succeeded().out == tool("--version").out
    program = drop_in(work)
    run = lambda *words: command(program, *words, cwd=work, env=SANITIZER_ENV)  # noqa: E731
    assert re.fullmatch(r"qemu-io version 7\.2\.\d+ \(qcow2 [\d.]+\)\n", run("--version").out)
    assert run("--help").out.startswith("Usage: qemu-io [OPTION]... [FILE]\n")
    result = run("--frob")
    assert result.code == 1 and result.out == ""
    assert result.err == ("qemu-io: unrecognized option '--frob'\n"
                          "Try 'qemu-io --help' for more information\n")


def test_a_guess_is_told_and_kept(work):
    raw(work)
    Path(work, "head").write_bytes(b"QFI\xfb\0\0\0\3")
    result = io(work, "disk.raw", "-c", "w -s head 0 8", "-c", "reopen", "-c", "w -s head 0 8")
    assert result.code == 1 and result.out == 2 * "write failed: Operation not permitted\n"
    lines = result.err.splitlines()
    assert len(lines) == 3 and lines[0].startswith("qcow2: warning: ") and "guess" in lines[0]
    assert all("qcow2 image" in line and "-f raw" in line for line in lines[1:])
    assert Path(work, "disk.raw").read_bytes()[:8] == bytes(8)


def test_opening_fails_with_the_sentence_of_the_library(work):
    result = io(work, "nowhere", "-c", "length").refused("nowhere", "No such file")
    assert result.out == ""
    io(work, "-f", "vmdk", "x", "-c", "length").refused("vmdk")
    zoo.create(work, "top.qcow2", "-u", "-b", "missing", "-F", "qcow2", "1M")
    io(work, "-r", "top.qcow2", "-c", "length").refused("top.qcow2", "missing")
    opened = io(work, "--image-opts", "-r", "-c", "alloc 0 1M",
                "driver=qcow2,file.filename=top.qcow2,backing=").succeeded()
    assert opened.out == "0/1048576 bytes allocated at offset 0 bytes\n"


READ = ["map", "alloc 0 1M", "alloc 64k 512k", "alloc 1 3", "length", "info", "r 0 64k",
        "r -v 65500 80", "readv -v 131000 100 5 41", "r -P 0 0 1M", "r -q 0 1M", "r 1M 1",
        "aio_read -v 196600 16", "aio_flush", "w 0 1", "discard 0 1"]


@pytest.mark.parametrize("make", zoo.READABLE)
def test_images_are_read_as_qemu_io_reads_them(make, work):
    names = []
    pair = Pair(work, lambda folder: names.append(make(folder)))
    name = names[0]
    pair.run("-r", name, *script(READ))
    pair.run("-rU", "-f", "raw" if name.endswith("raw") else "qcow2", name, *script(READ))
    if name.endswith(".qcow2"):
        pair.run("--image-opts", "-r", f"driver=qcow2,file.filename={name}", *script(READ))
        pair.run("-c", f"open -r -o cache-size=1M,l2-cache-size=64k {name}", *script(READ))
