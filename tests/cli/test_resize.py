# SPDX-License-Identifier: MIT
"""qcow2 resize beyond what qemu-img resize does; tests/dropin compares the two."""
from lib.run import qemu_img, qemu_io, tool


def test_a_dry_run_tells_what_would_be_lost(work):
    qemu_img("create", "-q", "-f", "qcow2", "a.qcow2", "4M", cwd=work).succeeded()
    qemu_io("a.qcow2", "write -P 1 0 100k", "write -P 2 2M 100k", cwd=work)
    before = (work / "a.qcow2").read_bytes()
    r = tool("resize", "--dry-run", "--shrink", "a.qcow2", "1M", cwd=work).succeeded()
    assert r.out == ("The disk would lose its last 3 MiB (3145728 bytes), of which 128 KiB "
                     "(131072 bytes) hold data.\n")
    r = tool("resize", "--dry-run", "a.qcow2", "+1M", cwd=work).succeeded()
    assert r.out == "The disk would become 1 MiB (1048576 bytes) larger. Nothing would be lost.\n"
    assert (work / "a.qcow2").read_bytes() == before
