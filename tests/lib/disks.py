# SPDX-License-Identifier: MIT
"""Raw disks with real contents, to be converted and looked at afterwards."""
import hashlib
import os
import shutil

from lib.run import REPO, command
from lib.sparse import Sparse

MIB = 1 << 20


def random_disk(path, size, rng, pieces=12):
    """Noise, repeated bytes, stored zeros and holes at odd places."""
    disk = Sparse(size)
    for _ in range(pieces):
        off = rng.randrange(max(1, size // 512)) * 512
        length = 512 * rng.randrange(1, 200)
        kind = rng.randrange(3)
        data = rng.randbytes(length) if kind else bytes([rng.randrange(1, 256)]) * length
        disk.write(off, data[:max(0, size - off)])
    disk.truncate(size)
    disk.save(path)
    with open(path, "r+b") as f:
        # Zeros that the file system holds as data.
        f.seek(rng.randrange(max(1, size // 4096)) * 4096)
        f.write(bytes(min(16384, max(0, size - f.tell()))))
    return disk


def ext4_disk(path, folder, rng, size=32 * MIB):
    """A disk with an ext4 file system and a real tree on it. Returns its SHA-256."""
    tree = os.path.join(str(folder), "tree")
    os.makedirs(os.path.join(tree, "empty/deep/down"))
    shutil.copytree(REPO / "src", os.path.join(tree, "src"))
    shutil.copytree(REPO / "tests", os.path.join(tree, "tests"),
                    ignore=shutil.ignore_patterns("__pycache__"))
    os.symlink("../src", os.path.join(tree, "empty/link"))
    for n in range(4):
        with open(os.path.join(tree, f"noise{n}"), "wb") as f:
            f.write(rng.randbytes(rng.randrange(MIB)))
    with open(os.path.join(tree, "holes"), "wb") as f:
        f.truncate(3 * MIB)
        f.seek(2 * MIB)
        f.write(b"in the middle")
    with open(path, "wb") as f:
        f.truncate(size)
    command("mkfs.ext4", "-q", "-F", "-d", tree, path).succeeded()
    shutil.rmtree(tree)
    return sha256(path)


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def file_system_is_clean(path):
    command("e2fsck", "-f", "-n", path).succeeded()
