# SPDX-License-Identifier: MIT
"""
Names of images: options of drivers, JSON, protocols in front of a path; the rules and breakpoints
of blkdebug. The same names are given to qemu-io, and what is said and done has to be the same.
"""
import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from io_oracle import Pair, raw, script  # noqa: E402
from lib.run import qemu_img, tool  # noqa: E402

DEBUG = "driver=qcow2,file.driver=blkdebug,file.image.filename=a.qcow2"
RAW_DEBUG = "driver=raw,file.driver=blkdebug,file.image.filename=a.raw"

CONFIGS = {
    "once": '[inject-error]\nevent = "write_aio"\nerrno = "28"\nonce = "on"\n',
    "unknown": '[foo]\na = "1"\n', "nothing": "bad\n", "tight": '[inject-error]\nevent="none"\n',
    "two": '# twice\n[set-state]\nevent = "read_aio"\nnew_state = "2"\n\n'
           '[inject-error "x"]\nevent = "write_aio"\nstate = "2"\nsector = "3"\n',
}


def make(folder):
    zoo.create(folder, "a.qcow2", "1M")
    raw(folder, "a.raw", 1 << 20)
    raw(folder, "b.raw", 1 << 20, b"backing!")
    for name, text in CONFIGS.items():
        Path(folder, name).write_text(text)


@pytest.fixture
def pair(work):
    return Pair(work, make)


LISTS = [
    "driver=null-co,size=1M,read-zeroes=on", "driver=qcow2", "foo", "driver=file,filename=a.qcow2",
    "driver=qcow2,file.filename=a.qcow2,foo=bar", "driver=qcow2,file.driver=nosuch",
    "driver=raw,offset=512,size=1024,file.filename=a.raw", "driver=qcow2,file=a.qcow2",
    "driver=raw,offset=512,size=1025,file.filename=a.raw", "driver=qcow2,file.filename=nosuch",
    "driver=raw,offset=512,size=100M,file.filename=a.raw", "driver=qcow2,file.driver=file",
    "driver=raw,offset=1024,file.filename=a.raw", "driver=qcow2,file.driver=blkdebug",
    f"{DEBUG},file.inject-error.0.event=bad", f"{DEBUG},file.align=3", f"{DEBUG},file.foo=1",
    f"{DEBUG},file.inject-error.0.event=l2_load,file.inject-error.0.errno=bad",
    f"{DEBUG},file.inject-error.1.event=read_aio", f"{DEBUG},file.inject-error.0.iotype=read",
    f"{DEBUG},file.inject-error.0.event=none,file.inject-error.0.iotype=x",
    f"{DEBUG},file.config=nosuch", f"{DEBUG},file.max-transfer=100,file.align=4096",
    "driver=qcow2,file.filename=a.qcow2,backing.driver=raw,backing.file.filename=b.raw",
    "driver=qcow2,file.filename=a.qcow2,backing.file.filename=b.raw,backing.foo=1",
    "driver=qcow2,file.filename=a.qcow2,data-file.filename=b.raw",
    "driver=qcow2,file.filename=a.qcow2,l2-cache-entry-size=1000",
    "driver=qcow2,file.filename=a.qcow2,overlap-check=bad",
    "driver=qcow2,file.filename=a.qcow2,overlap-check.template=all,overlap-check=none",
    "driver=qcow2,file.filename=a.qcow2,overlap-check=none,overlap-check.active-l2=on",
    "driver=raw,size=512,file.driver=null-co,file.size=1M,file.foo=5",
]

NAMES = [
    "file:a.qcow2", "null-co://", "nosuch:a.qcow2", "json:[1]", 'json:{"driver":"qcow2"',
    'json:{"driver":"nosuch"}', "json:", "blkdebug::a.qcow2", "blkdebug:a.qcow2",
    "blkdebug:once:a.qcow2", "blkdebug:unknown:a.qcow2", "blkdebug:nothing:a.qcow2",
    "blkdebug:tight:a.qcow2", "blkdebug:two:a.qcow2",
    'json:{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}',
    'json:{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"},"foo":1}',
    'json:{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2","foo":1}}',
    'json:{"driver":"qcow2","file":{"driver":"blkdebug","image":"x"}}',
    'json:{"driver":"qcow2","backing":null,"file.filename":"a.qcow2"}',
]


def test_lists_of_options_mean_what_they_mean_to_qemu_io(pair):
    for options in LISTS:
        pair.run("--image-opts", options, "-c", "length", "-c", "r -v 0 16")


def test_names_mean_what_they_mean_to_qemu_io(pair):
    for name in NAMES:
        pair.run("-r", name, "-c", "length")


def test_rules_hit_what_they_hit_in_qemu_io(pair):
    pair.run("blkdebug:once:a.qcow2", *script(["w 0 64k", "w 0 64k", "r 0 64k"]))
    pair.run("-f", "raw", "blkdebug:two:a.raw", *script(
        ["w 1k 1k", "r 0 512", "w 0 1k", "w 1k 1k", "w 1536 512"]))
    for rules in (
            "file.inject-error.0.event=none,file.inject-error.0.iotype=write,"
            "file.inject-error.1.event=read_aio,file.inject-error.1.sector=7",
            "file.set-state.0.event=write_aio,file.set-state.0.new_state=2,"
            "file.inject-error.0.event=read_aio,file.inject-error.0.state=2,"
            "file.inject-error.0.once=on",
            "file.inject-error.0.event=none,file.inject-error.0.iotype=write-zeroes",
            "file.max-transfer=512,file.inject-error.0.event=none,file.inject-error.0.sector=5,"
            "file.inject-error.0.iotype=read"):
        pair.run("--image-opts", f"{RAW_DEBUG},{rules}", *script(
            ["w 0 512", "r 0 512", "w 0 512", "r 3k 1k", "r 0 4k", "w -z 0 512", "r 0 512"]))


def test_breakpoints_stop_and_resume_as_in_qemu_io(pair):
    stop = ["break write_aio A", "aio_write -P 1 64k 64k", "wait_break A"]
    pair.run("blkdebug::a.qcow2", *script(
        stop + ["aio_write -P 2 256k 64k", "sleep 300", "resume A", "aio_flush"]))
    pair.run("blkdebug::a.qcow2", *script(
        stop + ["resume A", "aio_flush", "remove_break A", "resume A", "break x A"]))
    pair.run("a.qcow2", *script(["break write_aio A", "resume A", "remove_break A"]))
    pair.run("blkdebug::a.qcow2", *script(
        ["break write_aio A", "remove_break A", "w 0 64k", "aio_write 64k 64k", "aio_flush"]))


def test_what_can_never_stop_is_an_error_and_what_stopped_ends_with_the_shell(pair):
    shell = tool("io", "blkdebug::a.qcow2", *script(
        ["break write_aio A", "wait_break A", "aio_write 0 64k", "wait_break A"]), cwd=pair.ours)
    assert "Could not wait for request A" in shell.succeeded(1).out
    assert "wrote 65536/65536" in shell.out


def test_every_verb_takes_them(work):
    make(work)
    opts = "driver=qcow2,file.filename=a.qcow2"
    name = 'json:{"driver":"qcow2","file":{"filename":"a.qcow2"}}'
    for verb in ("info", "map", "check"):
        plain = tool(verb, "a.qcow2", cwd=work).succeeded().out
        assert tool(verb, "file:a.qcow2", cwd=work).succeeded().out.replace("file:", "") == plain
        assert tool(verb, "--image-opts", opts, cwd=work).succeeded().out
        assert tool(verb, "--object", "secret,id=a,data=b", name, cwd=work).succeeded().out
    tool("compare", "--image-opts", opts, opts, cwd=work).succeeded()
    tool("convert", "--image-opts", "-O", "raw", opts, "c.raw", cwd=work).succeeded()
    tool("convert", "-n", "--target-image-opts", "a.qcow2", "driver=raw,file.filename=b.raw",
         cwd=work).succeeded()
    assert qemu_img("compare", "-f", "raw", "b.raw", "a.qcow2", cwd=work).succeeded()
    assert "-n" in tool("convert", "--target-image-opts", "a.qcow2", opts, cwd=work).err
    tool("map", "--image-opts", "-f", "qcow2", opts, cwd=work).refused("exclusive")
    tool("info", "nbd:unix:/tmp/x", cwd=work).refused("NBD")
    tool("info", "--object", "foo,id=a", "a.qcow2", cwd=work).refused("does not accept value 'foo'")
    tool("resize", "--image-opts", opts, "2M", cwd=work).succeeded()
    tool("amend", "--image-opts", "-o", "lazy_refcounts=on", opts, cwd=work).succeeded()
    facts = tool("info", "--output=json", "a.qcow2", cwd=work).json()
    assert facts["virtual-size"] == 2 << 20
    assert facts["format-specific"]["data"]["lazy-refcounts"] is True


def test_drivers_that_stand_on_an_image_are_refused_with_advice(work):
    make(work)
    below = "file.driver=qcow2,file.file.filename=a.qcow2"
    tool("resize", "--image-opts", f"driver=copy-on-read,{below}", "2M", cwd=work).refused(
        "'copy-on-read' isn't supported", "'rebase' copies")
    tool("map", "--image-opts", f"driver=compress,{below}", cwd=work).refused(
        "'compress' isn't supported", "'convert -c'")


def test_a_backing_file_is_replaced(work):
    make(work)
    opts = "driver=qcow2,file.filename=a.qcow2,backing.driver=raw,backing.file.filename=b.raw"
    shell = tool("io", "--image-opts", "-r", "-c", "r -v 0 8", opts, cwd=work).succeeded()
    assert "62 61 63 6b" in shell.out
    zoo.create(work, "c.qcow2", "-b", "b.raw", "-F", "raw", "1M")
    shell = tool("io", "--image-opts", "-r", "-c", "r -v 0 8",
                 "driver=qcow2,file.filename=c.qcow2,backing=", cwd=work).succeeded()
    assert "62 61 63 6b" not in shell.out


def test_the_same_names_inside_an_image_are_refused(work):
    make(work)
    for inner in ('json:{"driver":"raw","file":{"filename":"b.raw"}}', "blkdebug::b.raw",
                  "null-co://", "nbd:unix:x"):
        qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", inner, "-F", "raw", "t.qcow2", "1M",
                 cwd=work).succeeded()
        tool("map", "t.qcow2", cwd=work).refused("nothing else is followed")


@pytest.mark.parametrize("name", [
    "json:" + '{"a":' * 40 + "1" + "}" * 40, "json:" + "[" * 100000, "json:{" + '"a":1,' * 9,
    'json:{"driver":"raw","size":1e999,"file.filename":"a.raw"}', 'json:{"driver":"raw"}trailing',
    'json:{"driver":"raw","offset":99999999999999999999999,"file.filename":"a.raw"}',
    'json:{"file":[[["x"]]]}', "json:{'driver':'raw'}", "json:\0".rstrip("\0"), 'json:{"":1}',
    'json:{"driver":null}', "json:" + json.dumps({"a" * 2000: 1}), 'json:{"driver":{"driver":1}}',
    "blkdebug:" * 30 + "a.raw", "blkdebug:", "json:null",
])
def test_hostile_names_are_refused(name, work):
    make(work)
    result = tool("info", name, cwd=work).ended_well()
    assert result.code == 1 and result.err.startswith("qcow2: "), result.describe()


def test_of_two_members_of_one_name_the_last_counts(work):
    make(work)
    name = 'json:{"driver":"qcow2","driver":"raw","file":{"filename":"a.raw"}}'
    assert '"format": "raw"' in tool("info", "--output=json", name, cwd=work).succeeded().out
