# SPDX-License-Identifier: MIT
"""
Known defects of QEMU's writer, each with what shows that ours doesn't have it. The real programs
are the judges.
"""
import json

import pytest

from lib.run import qemu_img, qemu_io, tool

K = 1024


def create(path, *options, size="1M"):
    words = ["-o", ",".join(options)] if options else []
    qemu_img("create", "-q", "-f", "qcow2", *words, path, size).succeeded()
    return path


def io(path, *commands):
    script = [word for c in commands for word in ("-c", c)]
    result = tool("io", "-f", "qcow2", *script, path).succeeded()
    assert "failed" not in result.out + result.err, result.describe()
    return result


def sound(path):
    qemu_img("check", "-f", "qcow2", path).succeeded()


def clusters_of(path):
    text = qemu_img("check", "--output=json", "-f", "qcow2", path).out
    return json.loads(text).get("allocated-clusters", 0)


@pytest.mark.parametrize("between", [(), ("flush",), ("flush", "flush")])
@pytest.mark.parametrize("free", ["discard 0 64k", "write -z -u 0 64k", "write -P 9 0 64k"])
def test_compressed_data_are_not_packed_into_a_cluster_that_was_freed(work, free, between):
    """QEMU goes on packing where it was, though that cluster is somebody else's by now."""
    path = create(work / "disk")
    io(path, "write -c -P 1 0 64k", *between, free, *between, "write -P 2 64k 64k",
       "write -c -P 3 128k 64k", "write -P 4 192k 64k", "write -c -P 5 256k 64k")
    first = 9 if "-P 9" in free else 0
    qemu_io(path, f"read -P {first} 0 64k", "read -P 2 64k 64k", "read -P 3 128k 64k",
            "read -P 4 192k 64k", "read -P 5 256k 64k")
    sound(path)


def test_compressed_data_are_not_packed_into_a_snapshot(work):
    path = create(work / "disk")
    io(path, "write -c -P 1 0 64k")
    qemu_img("snapshot", "-c", "s", path).succeeded()
    io(path, "write -c -P 2 64k 64k", "discard 0 64k", "flush", "write -P 3 128k 64k",
       "write -c -P 4 192k 64k")
    qemu_io(path, "read -P 0 0 64k", "read -P 2 64k 64k", "read -P 3 128k 64k",
            "read -P 4 192k 64k")
    sound(path)
    qemu_img("snapshot", "-a", "s", path).succeeded()
    qemu_io(path, "read -P 1 0 64k", "read -P 0 64k 192k")
    sound(path)


@pytest.mark.parametrize("commands", [
    ["discard 0 8M"], ["discard 3M 1M", "flush", "discard 0 64k"], ["write -z -u 0 8M"],
    ["truncate 16M", "truncate 8M"],
])
def test_what_maps_nothing_makes_no_tables(work, commands):
    """QEMU makes L2 tables for areas that have none, to say in them that there is nothing."""
    path = create(work / "disk", "cluster_size=4k", size="8M")
    if commands[0].startswith("write"):
        # zeros over nothing are said with a flag, which needs a table; over v2 they need none
        path = create(work / "disk", "cluster_size=4k,compat=0.10", size="8M")
    before = path.stat().st_size
    io(path, *commands)
    assert path.stat().st_size <= before + 8 * K  # a table that moved
    assert clusters_of(path) == 0
    sound(path)


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
@pytest.mark.parametrize("size", [100 * K, 64 * K + 512, 128 * K - 512])
def test_what_a_shrink_cut_off_stays_away(work, compat, size):
    """QEMU leaves the rest of the last cluster, and a disk that grows again shows it."""
    path = create(work / "disk", f"compat={compat}")
    io(path, "write -P 7 0 1M")
    tool("io", "-f", "qcow2", "-c", f"truncate {size}", path)
    assert json.loads(qemu_img("info", "--output=json", path).out)["virtual-size"] == size
    io(path, "truncate 1M")
    qemu_io(path, f"read -P 7 0 {size}", f"read -P 0 {size} {1024 * K - size}")
    sound(path)
