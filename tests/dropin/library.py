# SPDX-License-Identifier: MIT
"""
The images that the cases name, made once by the real programs. `.needs/NAME` lists the files that
go with an image: its backing and data files.
"""
import struct

from lib.run import qemu_img, qemu_io

MADE = {}


def image(name, *needs):
    def keep(make):
        MADE[name] = (make, needs)
        return make
    return keep


def create(folder, name, *words, size="4M", fmt="qcow2"):
    qemu_img("create", "-q", "-f", fmt, *words, name, *[size] * bool(size),
             cwd=folder).succeeded()


def io(folder, name, *commands, fmt="qcow2"):
    qemu_io(name, *commands, fmt=fmt, cwd=folder)


def plain(name, *words, size="4M", commands=("write -P 1 0 256k", "write -P 2 1M 192k")):
    def make(folder):
        create(folder, name, *words, size=size)
        if commands:
            io(folder, name, *commands)
    image(name)(make)


plain("empty.qcow2", commands=())
plain("a.qcow2")
plain("v2.qcow2", "-o", "compat=0.10")
plain("odd.qcow2", "-o", "cluster_size=4k,refcount_bits=1,extended_l2=off,lazy_refcounts=on")
plain("ext.qcow2", "-o", "extended_l2=on,compression_type=zstd",
      commands=("write -P 1 0 20k", "write -z 64k 8k", "write -P 3 1M 1M"))
plain("zeros.qcow2", commands=("write -z 0 1M", "write -P 0 1M 1M", "write -z -u 2M 1M"))
plain("packed.qcow2", commands=("write -c -P 5 0 64k", "write -c -P 6 64k 64k",
                                "write -P 7 1M 64k"))
plain("big.qcow2", size="20G", commands=("write -P 9 10G 64k",))


@image("a.raw")
def raw(folder):
    create(folder, "a.raw", fmt="raw")
    io(folder, "a.raw", "write -P 1 0 256k", "write -P 2 1M 192k", fmt="raw")


@image("small.raw")
def small_raw(folder):
    create(folder, "small.raw", fmt="raw", size="1000000")
    io(folder, "small.raw", "write -P 4 0 4k", fmt="raw")


@image("text")
def text(folder):
    (folder / "text").write_text("This is no image at all.\n" * 100)


@image("nothing")
def nothing(folder):
    (folder / "nothing").write_bytes(b"")


@image("top.qcow2", "a.qcow2")
def top(folder):
    create(folder, "top.qcow2", "-b", "a.qcow2", "-F", "qcow2", size=None)
    io(folder, "top.qcow2", "write -P 8 64k 64k", "write -z 1M 64k")


@image("over.qcow2", "top.qcow2", "a.qcow2")
def over(folder):
    create(folder, "over.qcow2", "-b", "top.qcow2", "-F", "qcow2", size="6M")
    io(folder, "over.qcow2", "write -P 9 5M 64k")


@image("onraw.qcow2", "a.raw")
def onraw(folder):
    create(folder, "onraw.qcow2", "-b", "a.raw", "-F", "raw", size=None)


@image("orphan.qcow2")
def orphan(folder):
    create(folder, "orphan.qcow2", "-u", "-b", "gone.qcow2", "-F", "qcow2")


@image("noformat.qcow2", "a.qcow2")
def noformat(folder):
    create(folder, "noformat.qcow2", "-u", "-b", "a.qcow2", "-F", "qcow2")
    data = bytearray((folder / "noformat.qcow2").read_bytes())
    at = data.index(struct.pack(">II", 0xe2792aca, 5))
    data[at:at + 4] = struct.pack(">I", 0x12345678)
    (folder / "noformat.qcow2").write_bytes(data)


@image("data.qcow2", "data.raw")
def data_file(folder):
    create(folder, "data.qcow2", "-o", "data_file=data.raw,data_file_raw=on")
    io(folder, "data.qcow2", "write -P 1 0 128k")


@image("snaps.qcow2")
def snaps(folder):
    create(folder, "snaps.qcow2")
    for number, name in enumerate(("one", "two", "1", "one"), 1):
        io(folder, "snaps.qcow2", f"write -P {number} {number * 64}k 64k")
        qemu_img("snapshot", "-c", name, "snaps.qcow2", cwd=folder).succeeded()


@image("bitmaps.qcow2")
def bitmaps(folder):
    create(folder, "bitmaps.qcow2")
    for words in (["--add", "-g", "64k"], ["--add", "--disable"]):
        name = "b0" if "-g" in words else "b1"
        qemu_img("bitmap", *words, "bitmaps.qcow2", name, cwd=folder).succeeded()
    io(folder, "bitmaps.qcow2", "write -P 1 0 64k")


def patched(name, source, at, data, size=0):
    @image(name)
    def make(folder):
        content = bytearray((folder / source).read_bytes())
        content[at:at + len(data)] = data
        content += bytes(max(0, size - len(content)))
        (folder / name).write_bytes(content)


patched("leak.qcow2", "a.qcow2", 0x20000 + 2 * 30, struct.pack(">H", 1), size=31 << 16)
patched("low.qcow2", "a.qcow2", 0x20000 + 2 * 5, struct.pack(">H", 0))
patched("copied.qcow2", "a.qcow2", 0x40000, struct.pack(">Q", 0x50000))
patched("marked.qcow2", "a.qcow2", 72, struct.pack(">Q", 2))
patched("dirty.qcow2", "odd.qcow2", 72, struct.pack(">Q", 1))
patched("future.qcow2", "a.qcow2", 72, struct.pack(">Q", 1 << 40))
patched("version9.qcow2", "a.qcow2", 4, struct.pack(">I", 9))
patched("badl1.qcow2", "a.qcow2", 0x30000, struct.pack(">Q", 0x8000000000040001 + 0x200))
patched("shortl1.qcow2", "a.qcow2", 36, struct.pack(">I", 0))
patched("hugecluster.qcow2", "a.qcow2", 20, struct.pack(">I", 40))


def build(folder):
    folder.mkdir(parents=True)
    (folder / ".needs").mkdir()
    for name, (make, needs) in MADE.items():
        make(folder)
        (folder / ".needs" / name).write_text("\n".join(needs))
    (folder / ".needs/data.raw").write_text("")
