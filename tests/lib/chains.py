# SPDX-License-Identifier: MIT
"""
Chains of images made by the real tools from a random choice of kinds, and equal copies of them for
two programs to work on.
"""
import os
import shutil

from lib.run import qemu_img, qemu_io

KIB = 1 << 10

# What a layer may be: options of `create`, and whether clusters of it may be compressed.
KINDS = {
    "plain": ("cluster_size=65536", True),
    "small": ("cluster_size=512,refcount_bits=64", True),
    "4k-zstd": ("cluster_size=4096,compression_type=zstd", True),
    "large": ("cluster_size=2097152", False),
    "v2": ("compat=0.10,cluster_size=4096", True),
    "lazy": ("lazy_refcounts=on,cluster_size=4096", True),
    "subclusters": ("extended_l2=on,cluster_size=65536", False),
    "tiny-subclusters": ("extended_l2=on,cluster_size=16384", True),
    "data-file": ("data_file={name}.data,cluster_size=4096", False),
}


def image_name(index):
    return f"layer{index}"


def write_layer(work, rng, name, fmt, size, packs, n=8):
    """Compressed clusters, then data, zeros and discards at odd places."""
    commands = []
    if packs and fmt != "raw":  # the real tool compresses only what isn't allocated yet
        places = rng.sample(range(size // (64 * KIB)), 3)
        commands += [f"write -c -P {off % 250 + 1} {off * 64 * KIB} 64k" for off in places]
    for _ in range(n):
        off = rng.randrange(size // 512) * 512
        length = min(512 * rng.randrange(1, 400), size - off)
        kind = rng.choice(["write", "write", "write -z", "write -z -u", "discard"])
        words = f"-P {rng.randrange(1, 255)} " if kind == "write" else ""
        commands.append(f"{kind} {words}{off} {length}")
    # a quiet stretch that is zero, and one that is data, whatever the dice said
    commands += [f"write -z {size // 4096 * 512} 64k", f"write -P 77 {size // 2048 * 512} 5k"]
    qemu_io(name, *commands, fmt=fmt, cwd=work)


def make_chain(work, rng, kinds, sizes, first=0, below=None):
    """
    Layers from the lowest up, the first of which may be "raw". below: (name, format) of what they
    stand on. Returns their names.
    """
    names = []
    for i, (kind, size) in enumerate(zip(kinds, sizes)):
        name = image_name(first + i)
        fmt = "raw" if kind == "raw" else "qcow2"
        words = []
        if below:
            words += ["-b", below[0], "-F", below[1]]
        if kind != "raw":
            words += ["-o", KINDS[kind][0].format(name=name)]
        qemu_img("create", "-q", "-f", fmt, *words, name, str(size), cwd=work).succeeded()
        write_layer(work, rng, name, fmt, size, fmt == "raw" or KINDS[kind][1])
        below = (name, fmt)
        names.append(name)
    return names


def copies(work, *folders):
    """The files of a folder once more in folders beside it."""
    result = []
    for folder in folders:
        path = os.path.join(str(work), folder)
        os.mkdir(path)
        for entry in os.scandir(work):
            if entry.is_file():
                shutil.copy(entry.path, path)
        result.append(path)
    return result


def raw_of(folder, name, out, fmt="qcow2"):
    """What an image reads as, told by the real tool."""
    path = os.path.join(str(folder), out)
    qemu_img("convert", "-f", fmt, "-O", "raw", name, path, cwd=folder).succeeded()
    return path


def facts(folder, name):
    """What `info` tells of an image, without what depends on where its data lie."""
    info = qemu_img("info", "--output=json", "-U", name, cwd=folder).json()
    return {k: v for k, v in info.items() if k not in ("actual-size", "dirty-flag", "children")}
