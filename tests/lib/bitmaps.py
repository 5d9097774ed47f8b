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


def _ask(server, name, socket):
    """nbdinfo's answer; the socket's file is there before anybody listens."""
    words = [_program("nbdinfo"), "--json", f"--map=qemu:dirty-bitmap:{name}",
             f"nbd+unix:///?socket={socket}"]
    end = time.monotonic() + 20
    while True:
        asked = subprocess.run(words, capture_output=True, timeout=20, text=True)
        if asked.returncode == 0:
            return asked.stdout
        assert server.poll() is None, server.communicate(timeout=20)[1]
        assert time.monotonic() < end, asked.stderr
        time.sleep(0.01)


def dirty(path, name):
    """The dirty ranges, joined: [(offset, length), ...]."""
    with tempfile.TemporaryDirectory(prefix="bitmaps-") as folder:
        socket = os.path.join(folder, "s")
        server = subprocess.Popen([_program("qemu-nbd"), "-r", "-t", "-f", "qcow2", "-B", name,
                                   "-k", socket, str(path)], stderr=subprocess.PIPE, text=True)
        try:
            out = _ask(server, name, socket)
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
