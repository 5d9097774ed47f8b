# SPDX-License-Identifier: MIT
"""File systems that share blocks, and which blocks of a file are shared."""
import fcntl
import os
import struct

from lib import mount
from lib.run import command

FS_IOC_FIEMAP = 0xc020660b
FIEMAP_SYNC = 1
LAST, UNWRITTEN, SHARED = 1, 0x800, 0x2000
HEAD, EXTENT = "=QQIIII", "=QQQQQIIII"
BATCH = 500
MAKE = {"xfs": (320, ["mkfs.xfs", "-q", "-m", "reflink=1"]),
        "btrfs": (128, ["mkfs.btrfs", "-q", "-m", "single"])}


def mounted(kind, folder):
    """One that is made and mounted: a generator for a fixture."""
    size, make = MAKE[kind]
    return mount.mounted(folder, size << 20, *make)


def extents(path):
    """(offset, place on the disk, length, flags) of each extent of the file."""
    found, start = [], 0
    with open(path, "rb") as f:
        while not found or not found[-1][3] & LAST:
            ask = struct.pack(HEAD, start, (1 << 64) - 1 - start, FIEMAP_SYNC, 0, BATCH, 0)
            room = bytearray(ask + bytes(struct.calcsize(EXTENT) * BATCH))
            fcntl.ioctl(f, FS_IOC_FIEMAP, room)
            count = struct.unpack_from(HEAD, room)[3]
            for i in range(count):
                e = struct.unpack_from(EXTENT, room, struct.calcsize(HEAD) + i * 56)
                found.append((e[0], e[1], e[2], e[5]))
            if count == 0:
                break
            start = found[-1][0] + found[-1][2]
    return found


def own_bytes(path):
    """What was written for this file alone."""
    return sum(length for _, _, length, flags in extents(path)
               if not flags & (SHARED | UNWRITTEN))


def shared_bytes(path):
    return sum(length for _, _, length, flags in extents(path) if flags & SHARED)


def free_bytes(folder):
    command("sync", "-f", folder).succeeded()
    s = os.statvfs(folder)
    return s.f_bavail * s.f_frsize
