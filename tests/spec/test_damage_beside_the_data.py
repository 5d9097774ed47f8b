# SPDX-License-Identifier: MIT
"""
Damage in what reading doesn't need: the data come out all the same, with a warning where the
reader can see the damage. Encrypted images are the other way round: nothing comes out.
"""
import struct

import pytest

from lib import forged
from lib.hostile import Judge
from lib.qcow2img import Image
from lib.reading import converts_to, same_info
from lib.run import command, qemu_img, tool
from lib.sparse import Sparse, same_files

u32, u64 = struct.Struct(">I").pack, struct.Struct(">Q").pack


def complete(rng):
    image = Image(3 << 20, rng=rng)
    forged.fill(rng, image, range(20))
    image.snapshot("1", "first")
    forged.fill(rng, image, range(5))
    image.snapshot("2", "second")
    image.normal(0, forged.noise(rng, image.cs))
    for name in ("b0", "b1"):
        image.bitmap(name, 16, ones=[1, 5])
    return image


def data_come_out(image, built, work, warned):
    path = built.save(forged.path_of(work, "image.qcow2"))
    converts_to(image.truth(), path, work, warnings=warned, timeout=10)
    info = tool("info", "--output=json", path, timeout=10).succeeded()
    assert bool(info.warnings()) == warned, info.describe()
    assert info.json()["virtual-size"] == image.size
    Judge(work).all(path, image.truth())


# The directory entry: offset of a member, what is put there.
BITMAP_DAMAGE = {
    "table misaligned": (0, u64(12345)), "table at 0": (0, u64(0)),
    "table beyond everything": (0, u64(1 << 60)), "no entries": (8, u32(0)),
    "too many entries": (8, u32(0xffffffff)), "unknown flags": (12, u32(0x80)),
    "unknown type": (16, b"\x07"), "granularity 2^64": (17, b"\x40"),
    "granularity 2^0": (17, b"\x00"), "no name": (18, b"\0\0"), "name too long": (18, b"\xff\xff"),
    "extra data to nowhere": (20, u32(0xffffff00)), "noise": (0, b"\xa7" * 32),
}


@pytest.mark.parametrize("name", BITMAP_DAMAGE)
def test_a_broken_bitmap_directory(name, work, rng):
    image = complete(rng)
    built = image.build()
    at, data = BITMAP_DAMAGE[name]
    built.patch(built.where["bitmaps"] + at, data)
    path = built.save(forged.path_of(work, "image.qcow2"))
    out = tool("convert", "-O", "raw", path, work / "out.raw", timeout=10).succeeded()
    assert not out.sentences()
    image.truth().assert_same(work / "out.raw")
    Judge(work).all(path, image.truth())


def test_eight_bad_bytes_in_a_bitmap_directory_are_warned_of(work, rng):
    """The case for which others refuse the whole image."""
    image = complete(rng)
    built = image.build()
    built.patch(built.where["bitmaps"] + 16, b"\xff" * 8)
    assert qemu_img("info", built.save(forged.path_of(work, "x.qcow2"))).code == 1
    data_come_out(image, built, work, warned=True)


@pytest.mark.parametrize("member", range(4))
def test_a_bitmaps_extension_that_lies(member, work, rng):
    off, size = [(0, 4), (4, 4), (8, 8), (16, 8)][member]
    for value in (0, 1, 0xfffffff8, (1 << 8 * size) - 1):
        image = complete(rng)
        image.feature_names, image.rng = False, None
        built = image.build()
        assert built.file.read(112, 4) == u32(0x23852875)
        old = built.file.read(120 + off, size)
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "big")
        if data != old:
            data_come_out(image, built.patch(120 + off, data), work, warned=True)


SNAPSHOT_DAMAGE = {
    "L1 misaligned": (0, u64(777)), "L1 beyond everything": (0, u64(1 << 62)),
    "L1 too big": (8, u32(0xffffffff)), "ID too long": (12, b"\xff\xff"),
    "name too long": (14, b"\xff\xff"), "extra data too long": (36, u32(0xffffffff)),
    "extra data of 1025 bytes": (36, u32(1025)), "noise": (0, b"\x93" * 40),
    "disk size absurd": (48, u64((1 << 64) - 1)), "VM state absurd": (40, u64((1 << 64) - 1)),
}


@pytest.mark.parametrize("name", SNAPSHOT_DAMAGE)
def test_a_broken_snapshot_table(name, work, rng):
    image = complete(rng)
    built = image.build()
    at, data = SNAPSHOT_DAMAGE[name]
    built.patch(built.where["snapshots"] + at, data)
    path = built.save(forged.path_of(work, "image.qcow2"))
    out = tool("convert", "-O", "raw", path, work / "out.raw", timeout=10).succeeded()
    assert not out.sentences()
    image.truth().assert_same(work / "out.raw")
    Judge(work).all(path, image.truth())
    # Reading that snapshot fails cleanly or gives what was there.
    result = tool("convert", "-l", "first", "-O", "raw", path, work / "first.raw", timeout=10)
    if result.ended_well().code:
        result.refused()
    elif any("L1 table" in w for w in result.warnings()):
        Sparse(image.size).assert_same(work / "first.raw")
    else:
        image.truth(0).assert_same(work / "first.raw")


def test_a_snapshot_table_that_ends_too_soon_is_warned_of(work, rng):
    image = complete(rng)
    built = image.build()
    data_come_out(image, built.patch(60, u32(65536)), work, warned=True)


def test_a_snapshot_table_outside_the_file_is_warned_of(work, rng):
    image = complete(rng)
    built = image.build().patch(64, u64(1 << 50))
    data_come_out(image, built, work, warned=True)


def test_damaged_refcounts_do_not_stop_reading(work, rng):
    image = complete(rng)
    table, block = image.build().where["reftable"], image.build().where["refblock"]
    damages = [(table, u64(0)), (table, u64(512)), (table, u64((1 << 64) - 1)),
               (block, bytes(2000)), (block, b"\xff" * 2000)]
    for off, data in damages:
        path = image.build().patch(off, data).save(forged.path_of(work, "image.qcow2"))
        out = tool("convert", "-O", "raw", path, work / "out.raw", "--force",
                   timeout=10).succeeded()
        assert not out.sentences()
        image.truth().assert_same(work / "out.raw")


def test_a_refcount_table_that_is_nowhere_does_not_stop_reading(work, rng):
    image = complete(rng)
    for off, data in ((48, u64(0)), (48, u64(513)), (48, u64(1 << 63)), (56, u32(0)),
                      (56, u32(0xffffffff))):
        path = image.build().patch(off, data).save(forged.path_of(work, "image.qcow2"))
        out = tool("convert", "-O", "raw", path, work / "out.raw", "--force",
                   timeout=10).succeeded()
        assert not out.sentences()
        image.truth().assert_same(work / "out.raw")


def encrypted_by_qemu(work, kind):
    secret = "secret,id=s0,data=very secret"
    path = str(work / f"{kind}.qcow2")
    more = ["-o", "encrypt.iter-time=10"] if kind == "luks" else []
    for _ in range(20):
        made = qemu_img("create", "-q", "--object", secret, "-f", "qcow2",
                        "-o", f"encrypt.format={kind}", "-o", "encrypt.key-secret=s0", *more,
                        path, "1M")
        # It measures how fast the machine is, which a busy one sometimes doesn't let it do.
        if "CPU usage" not in made.err:
            break
    made.succeeded()
    spec = f"driver=qcow2,encrypt.key-secret=s0,file.filename={path}"
    write_encrypted(spec, secret)
    return path


def write_encrypted(spec, secret):
    command("qemu-io", "--object", secret, "--image-opts", "-c", "write -P 65 0 512k",
            spec).succeeded()


@pytest.mark.parametrize("kind", ["aes", "luks"])
def test_encrypted_images_give_no_ciphertext(kind, work):
    path = encrypted_by_qemu(work, kind)
    tool("convert", "-O", "raw", path, work / "out.raw").refused("encrypt")
    assert not (work / "out.raw").exists()
    tool("compare", path, path).refused("encrypt", code=2)
    same_info(path)
    for part in ("header", "extensions", "l1"):
        tool("dump", path, part).succeeded()


@pytest.mark.parametrize("method", [1, 2])
@pytest.mark.parametrize("version", [2, 3])
def test_no_field_makes_ciphertext_readable(version, method, work, rng):
    image = Image(1 << 20, version=version, crypt_method=method)
    image.normal(0, forged.noise(rng, image.cs))
    image.compressed(1, forged.squeezable(rng, image.cs))
    path = image.save(forged.path_of(work, "image.qcow2"))
    for fmt in ("raw", "qcow2"):
        tool("convert", "-O", fmt, path, work / "out").refused("encrypt")
        assert not (work / "out").exists()


def test_an_encrypted_backing_file_is_refused(work):
    encrypted_by_qemu(work, "aes")
    top = Image(1 << 20, backing_name="aes.qcow2", backing_format="qcow2").save(
        forged.path_of(work, "top.qcow2"))
    tool("convert", "-O", "raw", top, work / "out.raw").refused("encrypt")


def test_bitmaps_that_were_lost_are_no_obstacle(work, rng):
    """The extension is there, but a writer that didn't know it has been at the image."""
    image = complete(rng)
    built = image.build().patch(88, u64(0))
    path = built.save(forged.path_of(work, "image.qcow2"))
    tool("convert", "-O", "raw", path, work / "out.raw").succeeded()
    qemu_img("convert", "-O", "raw", path, work / "theirs.raw").succeeded()
    same_files(work / "theirs.raw", work / "out.raw")
    same_info(path)
