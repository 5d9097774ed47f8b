# SPDX-License-Identifier: MIT
"""qcow2 io as qemu-io: the same scripts through both, on raw disks."""
import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from io_oracle import Pair, raw, script  # noqa: E402

RAW = ["-f", "raw", "disk.raw"]


@pytest.fixture
def pair(work):
    def make(folder):
        raw(folder)
        Path(folder, "five").write_text("12345")
        Path(folder, "empty").write_text("")
    return Pair(work, make)


def test_what_is_written_is_read(pair):
    pair.run(*RAW, *script([
        "write -P 0xab 0 64k", "read -P 0xab 0 64k", "read -P 0xac 0 64k", "w 1 1", "r -v 0 40",
        "w -P 010 511 1000", "r -vP 8 509 24", "writev 4096 512 1k", "readv -v 4090 3 16 5",
        "readv -C 0 512", "readv -q 0 512 1k", "writev -C 0 512 512", "writev -q 0 512",
        "readv -P 0xcd 4096 512 1k", "w -P 0xFF 10485248 512", "r -P 255 10485248 512",
        "w -s five 100 13", "r -v 99 16", "w 0 0", "r 0 0", "r 10M 0", "length", "map", "info",
        "w -z 4096 512", "r -P 0 4096 512", "w -zu 8k 64k", "w -zn 1M 64k", "w -zf 2M 512",
        "w -f 3M 512", "writev -f 3M 512", "flush", "w -C 0 512", "r -C 0 1k", "w -q 0 512",
        "r -q 0 512", "r -Cv 0 16", "w -p 0 512", "r -p 0 512", "r 0 512 -v", "r -vqP 1 0 1",
        "discard 0 64k", "discard -C 0 512", "discard -q 0 512", "discard 1 1000"]))


@pytest.mark.parametrize("commands", [
    ["r", "r 0", "r 0 1 2", "r -P", "w", "w 0", "readv 0", "writev", "discard", "discard 0",
     "aio_read 0", "aio_write", "aio_flush x", "flush x", "length x", "map x", "alloc",
     "alloc 0 1 2", "truncate", "truncate 1 2 3 4", "sleep", "sleep 1 2", "sigraise", "break a",
     "resume", "wait_break", "remove_break", "help a b", "info x", "close x"],
    ["r -Z 0 1", "w -r 0 1", "read -a 0 1", "writev -z 0 1", "readv -x 0 1", "discard -z 0 1",
     "aio_read -x 0 1", "aio_write -c 0 1", "reopen -x", "open -x", "truncate -x 1", "r 0 -1",
     "reopen -o", "reopen x", "readv 0 1 -P"],
    ["r abc 1", "r 0 abc", "r -- 0 -1", "r -- -1 10", "r 0 3G", "r 0 2G", "r 0 2147483647",
     "r 9223372036854775807 1", "r 18446744073709551615 1", "r 99999999999999999999 1", "r 8E 1",
     "r 1.5k 0x10", "r 1b 1K", "r 1kB 1", "r +5 1", "w 0 3G", "w -z 0 3G", "w -zn 0 3G",
     "discard 0 3G", "discard x 1", "discard 0 x", "discard -- 0 1", "writev 0 x", "writev x 1",
     "readv 0 3G", "readv 0 1536M 1536M", "readv 0 -- -1", "alloc x", "alloc 0 x", "alloc 8E 1",
     "alloc -1", "sleep x", "sleep 1.5", "sleep 1k", "sleep 0x1", "sleep ''", "sigraise x",
     "sigraise 500", "sigraise 9999999999", "sigraise 1x", "truncate x", "truncate -m foo 1"],
    ["r -P 256 0 512", "r -P -1 0 512", "r -P x 0 512", "w -P 0x 0 512", "w -P 1k 0 1",
     "w -P '' 0 1", "w -P 09 0 1", "w -P 0xfff 0 1", "r -P x -Z 0 1", "r -s x -P 0 0 1",
     "r -l x -P 0 0 1", "r -s 4 0 512", "r -l 4 0 512", "r -P 0 -s 4 0 512",
     "r -P 0 -s 4 -l 509 0 512", "r -P 0 -s 600 -l 1 0 512", "r -P 0 -l 600 0 512",
     "r -P 0 -s 0 -l 0 0 512", "r -P 0 -s 512 0 512", "r -P 0 -s 513 0 512", "r -P 1 0 512",
     "r -P 1 -s 2 -l 5 0 512", "aio_write -P x 0 1"],
    ["w -u 0 1k", "w -n 0 1k", "w -u -n 0 1", "w -z -P 1 0 1k", "w -s five -P 1 0 512",
     "w -z -s five 0 512", "w -c -f 0 64k", "w -b -z 0 512", "w -bc -z 0 1", "w -fb 0 1",
     "w -zu -P 1 -f 1 x", "w -b -z -c 1 x", "w -u -c -f 1 x", "w -ns x 0 1", "w -s nofile 0 1",
     "w -s nofile 1 x", "w -s nofile x 1", "w -s empty 0 1", "w -s . 0 1", "w -c 0 3", "w -c 1 1",
     "w -c x 1", "w -c 0 64k", "w -b 0 512", "r -b 0 512", "w -b 0 1", "r -b 1 0", "r -b 0 1",
     "w -bc 0 512", "aio_write -z 0 1 2", "aio_write -u 0 1", "aio_write x 1", "aio_read 0 x",
     "aio_write -z x 1", "aio_write -i x y", "aio_read -i 0 x", "aio_write -iz 0 1 2"],
    ["r 20M 512", "w 20M 512", "r 10485759 2", "w 10485759 2", "discard 20M 5", "discard 10M 1",
     "w -z 20M 5", "readv 11M 1", "writev 11M 1", "r 11M 0", "w 11M 0", "discard 11M 0",
     "w -z 11M 0", "readv 11M 0", "aio_read 11M 1", "aio_write 11M 1", "aio_write -z 11M 1",
     "r 9223372036854774784 1", "w -c 20M 512", "alloc 0", "alloc 0 1M", "alloc 20M",
     "alloc 0 20M", "alloc 10M 0", "alloc 0 0", "alloc 0 7E", "alloc 8388607T", "alloc 1 1"],
    ["foo", "foo bar", "", "  ", "#hi", "r 0 512; r 0 512", "r  0   512 ", "r\t0 512", "r 0 512\n",
     "help foo", "?", "help", "help help", "help map", "help flush", "help length", "q", "q x",
     "quit", "break a b", "resume a", "remove_break a", "sigraise 0", "reopen -r -w",
     "reopen -rw", "reopen -c foo", "reopen -o foo=bar", "reopen -o cache.direct=foo",
     "reopen -c none -o cache.direct=off", "reopen -r -o read-only=on", "reopen -o driver=raw",
     "reopen", "reopen -o lazy-refcounts=on", "reopen -o discard=foo", "open disk.raw",
     "open -r", "open a b", "open", "open -t foo x", "open -d foo x", "open -i foo x"],
])
def test_each_word_that_can_be_wrong(pair, commands):
    pair.each(RAW, commands)


def test_commands_without_an_image(pair):
    for c in ("length", "read 0 1", "w", "w 1 1", "info", "close", "map", "flush", "aio_flush",
              "aio_write 0 1", "truncate 0", "sleep 1", "alloc 0", "reopen", "discard 0 1",
              "help map", "break a b", "remove_break a", "foo", "sigraise 0", "open", "open -r",
              "open a b", "open -o driver=raw", "q"):
        pair.run("-c", c)
        pair.run(*RAW, "-c", "close", "-c", c)


def test_traces(pair):
    for words in (["-T", "foo"], ["-T", "foo", "--trace", "enable=bar,file=log"],
                  ["-T", "bogus=1"], ["-T", "file=gone/log"]):
        pair.run(*words, *RAW, "-c", "length")
    assert Path(pair.ours, "log").exists()


def test_a_failed_command_is_remembered(pair):
    for commands in (["foo", "r 0 1"], ["r 0 1", "q", "foo"], ["foo", "q", "r 0 1"],
                     ["r -P 1 0 1", "r 0 1"], ["r 20M 1", "length"], ["aio_read 20M 1"],
                     ["aio_read -P 1 0 1"], ["aio_read -qP 1 0 1"]):
        pair.run(*RAW, *script(commands))


def test_requests_that_run_beside_the_shell(pair):
    pair.run(*RAW, *script([
        "aio_write -P 1 0 1k", "aio_flush", "aio_read -v 0 16", "aio_flush",
        "aio_read -P 1 0 1k 1k", "aio_flush", "aio_read -P 1 0 512 512", "aio_flush",
        "aio_write -C 0 1k 3", "aio_flush", "aio_write -q 0 1k", "aio_flush", "aio_read -Cv 0 16",
        "aio_flush", "aio_write -f 0 1k", "aio_flush", "aio_write 20M 1k", "aio_flush",
        "aio_read 20M 1k", "aio_flush", "aio_write -z 20M 1k", "aio_flush", "aio_write -i 0 1",
        "aio_read -i 0 1", "aio_write -q -z 0 512", "aio_flush", "r -P 0 0 512"]))
    pair.run(*RAW, "-c", "aio_write -P 2 0 1k")
    pair.run(*RAW, "-c", "aio_write -P 3 0 1k", "-c", "quit")
    pair.run(*RAW, "-c", "aio_write -P 4 0 1k", "-c", "close")
    pair.run(*RAW, "-c", "aio_write -P 5 0 1k", "-c", "reopen -r", "-c", "r -P 5 0 1k")


def test_a_crowd_of_requests(pair):
    commands = [f"aio_write -q -P {i % 256} {i * 4096} 4k" for i in range(400)]
    pair.run(*RAW, *script([*commands, "aio_flush",
                            *(f"aio_read -q -P {i % 256} {i * 4096} 4k" for i in range(400)),
                            "aio_flush", "aio_read -q -P 1 0 16", "aio_flush"]))


@pytest.mark.parametrize("options", [[], ["-d", "unmap"], ["-d", "ignore"], ["-d", "off"]])
def test_discard(pair, options):
    pair.run(*options, *RAW, *script(["w -P 1 0 1M", "discard 64k 64k", "r -P 1 64k 64k",
                                      "reopen -o discard=ignore", "discard 256k 64k",
                                      "r -P 1 256k 64k", "reopen -c none", "discard 512k 64k",
                                      "r -P 1 512k 64k"]))


def test_truncate(pair):
    pair.run(*RAW, *script(["truncate 20M", "length", "truncate 1M", "length", "truncate 0",
                            "length", "map", "alloc 0", "r 0 0", "r 0 1", "truncate 512",
                            "length", "truncate -m off 2M", "truncate -m full 3M",
                            "truncate -m falloc 4M", "length", "truncate -m metadata 5M",
                            "truncate -m falloc 1M", "length"]))
    pair.run(*RAW, "-c", "truncate 1", "-c", "length", "-c", "truncate 0")


def test_read_only(pair):
    pair.run("-r", *RAW, *script([
        "w 0 1", "discard 0 512", "truncate 1M", "w -z 0 512", "flush", "aio_write 0 1",
        "writev 0 1", "info", "length", "w", "w x y", "r 0 512", "reopen -w", "w 0 512",
        "reopen -r", "w 0 512"]))


def test_open_close_reopen(pair):
    pair.run(*script([
        "open -o driver=raw disk.raw", "length", "open -o driver=raw disk.raw", "close", "close",
        "open nofile", "length", "open -r -o driver=raw disk.raw", "w 0 512", "info", "close",
        "open -n -o driver=raw disk.raw", "r 0 512", "close", "open a b", "open -o driver=raw",
        "open -o driver=raw,file.filename=disk.raw", "length", "close",
        "open -o driver=raw,file.filename=disk.raw disk.raw", "open -o driver=foo disk.raw",
        "open -o driver=raw,foo=bar disk.raw", "open -k -o driver=raw disk.raw",
        "open -kn -o driver=raw disk.raw", "close", "open -U -o driver=raw disk.raw",
        "open -rU -o driver=raw disk.raw", "close", "open -o driver=raw,file.driver=foo disk.raw",
        "open -o driver=raw,read-only=on disk.raw", "info", "close",
        "open -rC -o driver=raw disk.raw", "open -o driver=raw,lazy-refcounts=on disk.raw",
        "open -o driver=raw,cache.direct=x disk.raw", "open -o driver=raw,discard=x disk.raw",
        "open -d unmap -t writethrough -i threads -o driver=raw disk.raw", "w 0 512", "close",
        "open -C -o driver=raw,detect-zeroes=on,node-name=a,cache.no-flush=on disk.raw",
        "r 0 512"]))
    pair.run(*RAW, *script([
        "reopen -r", "w 0 512", "reopen -w", "w 0 512", "reopen -c none", "r 0 512",
        "reopen -c writeback -r", "length", "reopen -o cache.direct=on", "r 0 1",
        "reopen -o discard=unmap,detect-zeroes=unmap", "reopen -o foo=x", "length"]))


def test_options_of_the_program(pair):
    image = "driver=raw,file.filename=disk.raw"
    for words in (["-t", "foo"], ["-d", "foo"], ["-i", "foo"], ["-f", "foo"], ["-f", ""],
                  ["-k"], ["-i", "native"], ["-U"], ["-r", "-C"], ["-f", "qcow2"]):
        pair.run(*RAW, *words, "-c", "length")
    for words in (["-t", "none"], ["-t", "off"], ["-t", "writeback"], ["-t", "writethrough"],
                  ["-t", "directsync"], ["-t", "unsafe"], ["-n"], ["-m", "-n"], ["-k", "-n"],
                  ["-i", "threads"], ["-i", "io_uring"], ["-d", "ignore"], ["-d", "off"],
                  ["-d", "unmap"], ["-d", "on"], ["-C"], ["-rU"], ["-r"],
                  ["--cache", "writeback", "--aio", "threads"], ["--cache=none", "--discard=on"],
                  ["--object", "secret,id=x,data=y"]):
        pair.run(*words, *RAW, "-c", "r 0 512", "-c", "r 1 5", "-c", "length")
    for words in ([image], [image, "-r"], ["driver=raw,file.driver=file,file.filename=disk.raw"],
                  ["driver=raw"], ["disk.raw"], [image + ",foo=on"], [image, "-f", "raw"],
                  ["driver=raw,file.filename=nofile"], ["driver=foo,file.filename=disk.raw"],
                  ["driver=qcow2,file.filename=disk.raw"],
                  ["driver=raw,file.driver=foo,file.filename=disk.raw"]):
        pair.run("--image-opts", *words, "-c", "length", "-c", "info")
    for words in (["--object", "foo,id=x"], ["--object", "x"], ["nofile"], ["-f", "raw", "."]):
        pair.run(*words, "-c", "q")


def test_commands_from_standard_input(pair):
    for text in ("", "\n", "length", "length\n", "r 0 1\n\n  \nfoo\nr -P 1 0 1\nlength\n#c\n",
                 "r 0 1\nq\nlength\n", "aio_write 0 1k\naio_flush\nlength\n", "w 0 1\r\n",
                 "\tlength\nlength \n", "aio_write 0 1k\n"):
        pair.text(text, *RAW)
    pair.text("length\nfoo\n")
    pair.text("length\n", *RAW, "-c", "length")


def test_the_first_sector_of_a_guessed_disk(work):
    """It mustn't become the header of an image: the guest would choose the format."""
    def make(folder):
        raw(folder)
        Path(folder, "head").write_bytes(b"QFI\xfb\0\0\0\3")
        Path(folder, "luks").write_bytes(b"LUKS\xba\xbe\0\1")
        Path(folder, "vmdk").write_bytes(b"KDMV\1\0\0\0")
        Path(folder, "qed").write_bytes(b"QED\0")
    pair = Pair(work, make)
    pair.run("disk.raw", *script([
        "w -s head 0 512", "w -s head 0 1k", "w -s head 512 512", "w -s head 0 3", "w -s head 0 8",
        "w -s luks 0 512", "w -s vmdk 0 512", "w -s qed 0 4", "w -P 1 0 512", "r -v 0 16",
        "writev 0 1 2 509", "aio_write -P 2 0 512", "aio_flush", "discard 0 512",
        "w -z 0 512", "w -P 0x51 0 1", "r -v 0 16", "w -c 0 512"]))
    pair.run("disk.raw", *script(["aio_write -q -P 0 0 512", "aio_flush", "reopen -c none",
                                  "w -s head 0 512"]))
    pair.run("-r", "disk.raw", "-c", "length", "-c", "r 0 1")
    pair.run("--image-opts", "file.filename=disk.raw", "-c", "w -s head 0 512")
    pair.run("-c", "open disk.raw", "-c", "w -s head 0 512", "-c", "close",
             "-c", "open -o driver=raw disk.raw", "-c", "w -s head 0 512")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGABRT])
def test_ending_by_a_signal(pair, number):
    result = pair.run(*RAW, "-c", f"sigraise {number.value}", "-c", "length")
    assert result.code == -number and result.out == ""
    if number == signal.SIGABRT:
        pair.run(*RAW, "-c", "abort")
