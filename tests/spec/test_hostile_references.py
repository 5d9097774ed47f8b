# SPDX-License-Identifier: MIT
"""
Names of other files inside an image: circles, protocols, things that aren't files. They end in a
sentence; nothing is opened that a stranger could want to be opened.
"""
import os
import socket
import time

import pytest

from lib import forged
from lib.hostile import Judge
from lib.qcow2img import Image
from lib.run import tool
from lib.sparse import Sparse

VERBS = [["map"], ["convert", "-O", "raw"], ["compare"]]


def overlay(work, name, backing_name, fmt="qcow2", rng=None, size=1 << 20):
    image = Image(size, backing_name=backing_name, backing_format=fmt, feature_names=False)
    if rng:
        image.normal(1, forged.noise(rng, image.cs))
    return image.save(forged.path_of(work, name))


def refused_by_all(path, work, *words, cwd="/"):
    for verb in VERBS:
        rest = {"convert": [str(work / "out.raw")], "compare": [path]}.get(verb[0], [])
        result = tool(*verb, path, *rest, timeout=10, cwd=cwd)
        result.refused(*words, code=2 if verb[0] == "compare" else 1)
        assert not (work / "out.raw").exists()
    # Information about the one file needs no other.
    tool("info", path, timeout=10, cwd=cwd).succeeded()


def test_an_image_that_is_its_own_backing_file(work):
    path = overlay(work, "self.qcow2", "self.qcow2")
    refused_by_all(path, work)
    tool("info", "--backing-chain", path, timeout=10).refused()


def test_two_images_in_a_circle(work):
    first = overlay(work, "a.qcow2", "b.qcow2")
    overlay(work, "b.qcow2", "a.qcow2")
    refused_by_all(first, work)
    tool("info", "--backing-chain", first, timeout=10).refused()


def test_a_circle_through_links(work):
    os.mkdir(work / "deep")
    path = overlay(work, "deep/a.qcow2", "../link.qcow2")
    os.symlink("deep/a.qcow2", work / "link.qcow2")
    refused_by_all(path, work)
    os.unlink(work / "link.qcow2")
    os.link(path, work / "link.qcow2")
    refused_by_all(path, work)
    # Each name is a new one, and longer, but the file is always the same.
    os.symlink(".", work / "deep/here")
    path = overlay(work, "deep/c.qcow2", "here/c.qcow2")
    refused_by_all(path, work)


def test_a_circle_of_links_only(work):
    os.symlink("y", work / "x")
    os.symlink("x", work / "y")
    refused_by_all(overlay(work, "a.qcow2", "x"), work)


def test_an_image_that_is_its_own_data_file(work):
    """Nonsense, but no circle: the guest reads the image's own bytes, or nothing."""
    for name in ("a.qcow2", "./a.qcow2"):
        image = Image(1 << 20, data_file=name, feature_names=False)
        image.normal(0, b"x")
        image.build().save(forged.path_of(work, "a.qcow2"))
        Judge(work, cwd=work).all("a.qcow2")


def test_a_chain_deeper_than_the_limit(work):
    for n in range(1100):
        image = Image(512, cluster_bits=9, feature_names=False,
                      backing_name=f"{n - 1}" if n else None, backing_format="qcow2" if n else None)
        image.save(forged.path_of(work, str(n)))
    refused_by_all(forged.path_of(work, "1099"), work, "1024")
    tool("convert", "-O", "raw", work / "500", work / "out.raw").succeeded()
    Sparse(512).assert_same(work / "out.raw")


PROTOCOLS = ["json:{\"driver\":\"file\",\"filename\":\"base.raw\"}", "json:", "json:{",
             "nbd://127.0.0.1:1/x", "nbd:unix:/tmp/x", "fd:0", "file://base.raw", "http://[::1]/x",
             "https://[::1]/x", "ftp://x/", "ssh://x/y", "rbd:x/y", "iscsi://x/y/0",
             "host_device:/dev/zero", "blkdebug::base.raw", "fat:rw:.", "vvfat:/", "null-co://",
             "unknown:base.raw", ":base.raw", "base.raw:", "a:b"]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_names_with_protocols_are_refused(name, work):
    Sparse(1 << 20).save(work / "base.raw")
    Sparse(1 << 20).save(work / "a:b")
    for fmt in ("raw", None):
        refused_by_all(overlay(work, "image.qcow2", name, fmt), work)


def test_no_connection_is_made_for_a_name(work):
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    server.setblocking(False)
    port = server.getsockname()[1]
    for name in (f"nbd://127.0.0.1:{port}/x", f"nbd:127.0.0.1:{port}",
                 f"http://127.0.0.1:{port}/x"):
        refused_by_all(overlay(work, "image.qcow2", name, "raw"), work)
    with pytest.raises(BlockingIOError):
        server.accept()
    server.close()


def odd_file(kind, work):
    path = work / "odd"
    if kind == "directory":
        os.mkdir(path)
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.close()
    elif kind == "endless device":
        return "/dev/zero"
    elif kind == "terminal":
        return "/dev/tty"
    elif kind == "not there":
        return str(work / "nothing/here")
    elif kind == "a file as a folder":
        path.write_bytes(b"")
        return f"{path}/base"
    return str(path)


ODD = ["directory", "FIFO", "socket", "endless device", "terminal", "not there",
       "a file as a folder"]


@pytest.mark.parametrize("fmt", ["raw", "qcow2", None])
@pytest.mark.parametrize("kind", ODD)
def test_backing_files_that_are_no_files(kind, fmt, work):
    refused_by_all(overlay(work, "image.qcow2", odd_file(kind, work), fmt), work)


@pytest.mark.parametrize("kind", ODD)
def test_data_files_that_are_no_files(kind, work):
    image = Image(1 << 20, data_file=odd_file(kind, work), feature_names=False)
    image.normal(0, b"x")
    path = forged.path_of(work, "image.qcow2")
    image.build().save(path)
    refused_by_all(path, work)


@pytest.mark.parametrize("kind", ["directory", "FIFO", "socket", "not there"])
def test_images_that_are_no_files(kind, work):
    name = odd_file(kind, work)
    for verb in (["info"], ["map"], ["dump"], ["convert", "-O", "raw"]):
        rest = [work / "out.raw"] if verb[0] == "convert" else []
        start = time.monotonic()
        tool(*verb, name, *rest, timeout=10).refused()
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("fmt", ["", "vmdk", "qcow", "QCOW2", "raw ", "nbd", "x" * 15])
def test_unknown_backing_formats_are_refused(fmt, work):
    Sparse(1 << 20).save(work / "base.raw")
    image = Image(1 << 20, backing_name="base.raw", feature_names=False)
    image.extension(0xe2792aca, fmt.encode())
    path = image.save(forged.path_of(work, "image.qcow2"))
    if fmt:
        refused_by_all(path, work)
    else:
        Judge(work).all(path)


def test_a_raw_backing_file_is_not_taken_for_an_image(work, rng):
    """A guest can write a header into its disk. Its recorded format is what counts."""
    inner = Image(1 << 20, backing_name="/etc/hostname", backing_format="raw", feature_names=False)
    raw = inner.build().file
    raw.truncate(1 << 20)
    raw.save(work / "base.raw")
    path = overlay(work, "image.qcow2", "base.raw", "raw")
    tool("convert", "-O", "raw", path, work / "out.raw").succeeded()
    raw.assert_same(work / "out.raw")


def test_names_with_odd_bytes_are_shown_harmlessly(work):
    for name in (b"a\nqcow2: all is well", b"\x1b[31mred", b"\xff\xfe\x80", b"a\0b", b"\0",
                 b"..", b"/", b".", b" "):
        image = Image(1 << 20, backing_name="x" * len(name), backing_format="raw",
                      feature_names=False)
        built = image.build()
        path = built.patch(built.where["name"], name).save(forged.path_of(work, "image.qcow2"))
        for words in (["info"], ["map"], ["info", "--output=json"],
                      ["info", "--backing-chain"], ["dump", "header"]):
            words = [words[0], path, *words[1:]] if words[0] == "dump" else [*words, path]
            result = tool(*words, timeout=10).ended_well()
            assert "\x1b" not in result.out + result.err, result.describe()
            assert len(result.sentences()) <= 1, result.describe()
            assert result.code in (0, 1), result.describe()
