# SPDX-License-Identifier: MIT
"""qcow2 info of LUKS images: what the real program tells of the same header, and damage to it."""
import json
import os
import struct
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zoo  # noqa: E402
from lib.once import made_once  # noqa: E402
from lib.run import qemu_img, tool  # noqa: E402
from lib.seed import long_run, sample  # noqa: E402

MAGIC = b"LUKS\xba\xbe"
EXTENSION = struct.pack(">II", 0x0537BE77, 16)
ACTIVE = struct.pack(">II", 0x00AC71F3, 4321)


def derived(work, *words):
    """qemu-img measures how fast keys are derived, and now and then gives up on a busy machine."""
    for _ in range(20):
        result = qemu_img(*words, cwd=work)
        if "Unable to get accurate CPU usage" not in result.err:
            break
    result.succeeded()


def luks(work, options="", name="disk.qcow2", also=()):
    options = ",".join(f"encrypt.{o}" if o.startswith(("cipher", "hash", "ivgen")) else o
                       for o in options.split(",") if o)
    derived(work, "create", "-q", "-f", "qcow2", *zoo.SECRET, *also, "-o",
            "encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10"
            + ("," if options else "") + options, name, "10M")
    return name


@pytest.fixture(scope="session", name="image")
def _image(tmp_path_factory):
    """The bytes of a plain one: making it costs seconds of key derivation."""
    return Path(made_once(tmp_path_factory, "luks", luks), "disk.qcow2").read_bytes()


def transplanted(work, image, *words):
    """
    A new image that is given the header of the encrypted one. The extension that says where comes
    first in its area, and the name of the backing file moves with what is there already.
    """
    qemu_img("create", "-q", "-f", "qcow2", *words, "disk.qcow2", "10M", cwd=work).succeeded()
    data = bytearray(Path(work, "disk.qcow2").read_bytes())
    cluster = 1 << struct.unpack_from(">I", data, 20)[0]
    area = 72 if data[7] == 2 else struct.unpack_from(">I", data, 100)[0]
    assert not any(data[cluster - 24:cluster])
    data += bytes(-len(data) % cluster)
    start, length = struct.unpack_from(">QQ", image, image.index(EXTENSION) + 8)
    data[area:cluster] = (EXTENSION + struct.pack(">QQ", len(data), length)
                          + data[area:cluster - 24])
    data[32:36] = struct.pack(">I", 2)
    backing = struct.unpack_from(">Q", data, 8)[0]
    data[8:16] = struct.pack(">Q", backing + 24 if backing else 0)
    Path(work, "disk.qcow2").write_bytes(data + image[start:start + length])
    return "disk.qcow2"


@pytest.fixture
def name(work, image):
    Path(work, "disk.qcow2").write_bytes(image)
    return "disk.qcow2"


def patch(work, name, *patches, base=MAGIC):
    """Pairs of an offset from the LUKS header (or another mark) and bytes."""
    start = Path(work, name).read_bytes().index(base)
    for off, data in patches:
        zoo.patch(work, name, start + off, data)


def named(off, text):
    return off, text.encode().ljust(32, b"\0")


def equal(name, work, *words):
    for output in ("human", "json"):
        ours = tool("info", *words, f"--output={output}", name, cwd=work).succeeded()
        theirs = qemu_img("info", *words, f"--output={output}", name, cwd=work).succeeded()
        text = ours.out
        if output == "human" and "--backing-chain" in words:
            text = text.partition("\n\n")[2]  # behind the chain at a glance
        assert text == theirs.out, ours.describe() + "\n" + theirs.describe()
        assert ours.err == "", ours.describe()
        assert "cipher" in ours.out, ours.describe()
    return json.loads(ours.out)


def encrypt(described):
    return described["format-specific"]["data"]["encrypt"]


CIPHERS = [
    ("cipher-alg=aes-128,hash-alg=sha1", "aes-128", "xts", "plain64", "sha1"),
    ("hash-alg=sha512,ivgen-alg=plain", "aes-256", "xts", "plain", "sha512"),
    ("cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha1",
     "aes-128", "cbc", "essiv", "sha1"),
]


@pytest.mark.parametrize("options, cipher, mode, ivgen, hash_name", sample("ciphers", CIPHERS, 1))
def test_ciphers_and_hashes_are_told_as_by_qemu_img(options, cipher, mode, ivgen, hash_name, work):
    told_as_made(luks(work, options), work, cipher, mode, ivgen, hash_name)


def test_the_usual_cipher_and_hash_are_told_as_by_qemu_img(name, work):
    told_as_made(name, work, "aes-256", "xts", "plain64", "sha256")


def told_as_made(name, work, cipher, mode, ivgen, hash_name):
    found = encrypt(equal(name, work))
    assert (found["cipher-alg"], found["cipher-mode"], found["ivgen-alg"], found["hash-alg"]) == \
        (cipher, mode, ivgen, hash_name)
    assert ("ivgen-hash-alg" in found) == (ivgen == "essiv")


@pytest.mark.parametrize("options", ["cluster_size=512", "cluster_size=2M,extended_l2=on",
                                     "compat=0.10", "data_file=data.raw"])
def test_the_header_is_found_in_every_kind_of_image(options, image, work):
    equal(transplanted(work, image, "-o", options), work)
    if long_run():
        Path(work, "disk.qcow2").unlink()
        equal(luks(work, options), work)


@pytest.mark.parametrize("patches", [
    [(108, struct.pack(">I", 48))],  # aes-192: qemu-img reads it only
    [(108, struct.pack(">I", 24)), named(40, "cbc-plain64")],
    [(108, struct.pack(">I", 32)), named(40, "cbc-essiv:md5"), named(72, "ripemd160")],
    [(108, struct.pack(">I", 32)), named(40, "ecb-plain64"), named(72, "sha384")],
    [(108, struct.pack(">I", 16)), named(40, "ctr-plain64")],
    [named(8, "serpent")],
    [(108, struct.pack(">I", 16)), named(8, "twofish"), named(40, "cbc-plain64")],
    [(108, struct.pack(">I", 16)), named(8, "cast5"), named(40, "cbc-plain64")],
    [named(40, "xts-essiv:sha256")],
    [named(40, "xts-plain:sha1")],
    [(168, b"u" * 40)],
    [(168, bytes(40))],
    [(164, b"\xff" * 4), (212, b"\xff" * 4)],
    [(104, b"\xff" * 4)],
    [(104, b"\xff" * 4), (208 + 48 * 7 + 40, struct.pack(">I", 0xf0000000))],
    [(208 + 48 * i, ACTIVE) for i in range(8)],
    [(208, struct.pack(">I", 0xdead))],
])
def test_headers_of_other_programs_are_told_as_by_qemu_img(patches, name, work):
    patch(work, name, *patches)
    equal(name, work)


def test_added_passphrases_are_active_slots(name, work):
    derived(work, "amend", *zoo.SECRET, "--object", "secret,id=s1,data=new", "--image-opts",
            "driver=qcow2,encrypt.key-secret=s0,file.filename=" + name, "-o",
            "encrypt.state=active,encrypt.new-secret=s1,encrypt.iter-time=10,encrypt.keyslot=5")
    slots = encrypt(equal(name, work))["slots"]
    assert [slot["active"] for slot in slots] == [i in (0, 5) for i in range(8)]


def test_every_layer_of_a_chain_has_its_own(name, image, work):
    if long_run():
        luks(work, "cipher-alg=aes-128", "base.qcow2")
        name = luks(work, also=("-u", "-b", "base.qcow2", "-F", "qcow2"))
    else:
        patch(work, name, (108, struct.pack(">I", 32)))
        Path(work, name).rename(Path(work, "base.qcow2"))
        name = transplanted(work, image, "-u", "-b", "base.qcow2", "-F", "qcow2")
    layers = equal(name, work, "--backing-chain")
    assert [encrypt(layer)["cipher-alg"] for layer in layers] == ["aes-256", "aes-128"]


def told_and_the_rest_is_shown(name, work, *words):
    for output in ("human", "json"):
        result = tool("info", f"--output={output}", name, cwd=work).succeeded()
        assert len(result.warnings()) == 1, result.describe()
        assert len(result.err.splitlines()) == 1, result.describe()
        for word in (name, "LUKS header", *(words if output == "human" else ())):
            assert word in result.warnings()[0], result.describe()
        if output == "json":
            described = json.loads(result.out)
            assert encrypt(described) == {"format": "luks"}
            assert described["virtual-size"] == 10 << 20 and described["encrypted"]
        else:
            assert "    encrypt:\n        format: luks\n    corrupt: false\n" in result.out


@pytest.mark.parametrize("off, data, words", [
    (0, b"X", ["no LUKS magic number"]),
    (6, b"\0\2", ["version 2, expected 1"]),
    (8, b"a" * 32, ["cipher name isn't terminated"]),
    (40, b"xts\0", ['cipher mode "xts"', "expected a mode and an IV generator"]),
    (40, b"-plain64\0", ['cipher mode "-plain64"']),
    (40, b"cbc-\0", ['cipher mode "cbc-"']),
    (40, b"cbc-:sha256\0", ['cipher mode "cbc-:sha256"']),
    (40, b"cbc-essiv\0", ['"cbc-essiv"', "no hash"]),
    (40, b"cbc-essiv:\0", ['"cbc-essiv:"', "no hash"]),
    (40, b"\x1b]0;x\x07\0", ["\\x1b]0;x\\x07"]),
    (104, bytes(4), ["payload at sector 0"]),
    (108, b"\xff" * 4, ["key of 4294967295 bytes"]),
    (164, bytes(4), ["no digest iterations"]),
    (208 + 48 * 3, bytes(4), ["key slot 3", "state 0x00000000"]),
])
def test_a_damaged_header_is_told_and_the_rest_is_shown(off, data, words, name, work):
    patch(work, name, (off, data))
    assert qemu_img("info", name, cwd=work).code == 1
    told_and_the_rest_is_shown(name, work, *words)


def test_a_file_that_ends_inside_the_header(name, work):
    start = Path(work, name).read_bytes().index(MAGIC)
    for left in (591, 0):
        os.truncate(Path(work, name), start + left)
        told_and_the_rest_is_shown(name, work, f"{left} bytes at 0x{start:x}", "expected 592")


@pytest.mark.parametrize("off, value, words", [
    (8, 1 << 62, ["0 bytes at 0x4000000000000000"]),
    (8, (1 << 64) - (1 << 16), ["0 bytes at 0xffffffffffff0000"]),
    (16, 591, ["591 bytes", "at least 592"]),
    (16, 0, ["0 bytes", "at least 592"]),
])
def test_a_pointer_to_nowhere(off, value, words, name, work):
    patch(work, name, (off, struct.pack(">Q", value)), base=EXTENSION)
    told_and_the_rest_is_shown(name, work, *words)


def test_an_image_that_does_not_say_where_its_header_is(name, work):
    patch(work, name, (0, struct.pack(">I", 0x12345678)), base=EXTENSION)
    told_and_the_rest_is_shown(name, work, "doesn't say where")


def test_names_are_harmless_to_a_terminal(name, work):
    patch(work, name, named(72, "\x1b]0;hash\x07"), (168, b"\x1b\xff\x9b\0"))
    result = tool("info", name, cwd=work).succeeded()
    assert "hash alg: \\x1b]0;hash\\x07\n" in result.out, result.describe()
    assert "uuid: \\x1b\\xff\\x9b\n" in result.out, result.describe()
    assert encrypt(tool("info", "--output=json", name, cwd=work).json())["uuid"] == \
        "\x1b\ufffd\ufffd"


def test_unknown_ciphers_are_told_as_they_are_stored(name, work):
    """qemu-img refuses to open these."""
    patch(work, name, named(8, "camellia"), named(40, "lrw-benbi"), named(72, "whirlpool"))
    found = encrypt(tool("info", "--output=json", name, cwd=work).json())
    assert (found["cipher-alg"], found["cipher-mode"], found["ivgen-alg"], found["hash-alg"]) == \
        ("camellia-512", "lrw", "benbi", "whirlpool")
