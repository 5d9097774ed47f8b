# SPDX-License-Identifier: MIT
"""What is dirty in a bitmap, as the real qemu-nbd exports it and nbdinfo reads it."""
import json
import os
import shutil
import subprocess
import tempfile
import time

from lib.run import PACKAGES, qemu_img


def _program(name):
    path = shutil.which(name)
    assert path, f"{name} is missing: install {PACKAGES[name]}"
    return path


def dirty(path, name):
    """The dirty ranges, joined: [(offset, length), ...]."""
    with tempfile.TemporaryDirectory(prefix="bitmaps-") as folder:
        socket = os.path.join(folder, "s")
        server = subprocess.Popen([_program("qemu-nbd"), "-r", "-t", "-f", "qcow2", "-B", name,
                                   "-k", socket, str(path)], stderr=subprocess.PIPE, text=True)
        try:
            end = time.monotonic() + 20
            while not os.path.exists(socket) and server.poll() is None and time.monotonic() < end:
                time.sleep(0.005)
            assert server.poll() is None, server.communicate(timeout=20)[1]
            out = subprocess.run(
                [_program("nbdinfo"), "--json", f"--map=qemu:dirty-bitmap:{name}",
                 f"nbd+unix:///?socket={socket}"],
                stdout=subprocess.PIPE, timeout=20, check=True).stdout
        finally:
            server.kill()  # it only reads, and needn't wait for anybody
            server.communicate(timeout=20)
    joined = []
    for e in json.loads(out):
        if not e["type"] & 1:
            continue
        if joined and sum(joined[-1]) == e["offset"]:
            joined[-1] = (joined[-1][0], joined[-1][1] + e["length"])
        else:
            joined.append((e["offset"], e["length"]))
    return joined


def listed(path):
    """Name, granularity and flags of each bitmap, as qemu-img lists them."""
    info = qemu_img("info", "-U", "--output=json", path).json()["format-specific"]["data"]
    return [(b["name"], b["granularity"], sorted(b["flags"])) for b in info.get("bitmaps", [])]


def granules(ranges, granularity, size):
    """The dirty ranges of a bitmap in which these ranges of a disk were written."""
    bits = sorted({n for off, length in ranges if length
                   for n in range(off // granularity, (off + length - 1) // granularity + 1)})
    joined = []
    for n in bits:
        off, end = n * granularity, min((n + 1) * granularity, size)
        if joined and sum(joined[-1]) == off:
            joined[-1] = (joined[-1][0], end - joined[-1][0])
        else:
            joined.append((off, end - off))
    return joined
