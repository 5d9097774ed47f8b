# SPDX-License-Identifier: MIT
"""
What an embedder gets: `meson install` lays down library, header, pkg-config file and tool, and a
program of theirs, C99 or C++, builds against them with nothing but what pkg-config says.
"""
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("QCOW2_BUILD", ROOT / "build"))
PROGRAM = """
#include <qcow2.h>
#include <stdio.h>

int main(void)
{
	struct qcow2_error err;
	struct qcow2_image *image = NULL;
	struct qcow2_open_options options = QCOW2_OPEN_OPTIONS_INIT;
	struct qcow2_create_options create = QCOW2_CREATE_OPTIONS_INIT;
	struct qcow2_convert_options convert = QCOW2_CONVERT_OPTIONS_INIT;
	struct qcow2_info info = QCOW2_INFO_INIT;
	struct qcow2_policy policy = QCOW2_POLICY_INIT;

	(void)create, (void)convert, (void)info;
	options.policy = &policy;
	if (qcow2_open(&image, "/nowhere/disk.qcow2", &options, &err) == 0)
		return 1;
	printf("%s: %s\\n", qcow2_version(), err.message);
	return 0;
}
"""


def run(*argv, **env):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True,
                          env={**os.environ, **env})
    assert done.returncode == 0, f"{argv}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The root folder that `meson install` filled."""
    root = tmp_path_factory.mktemp("installed")
    run("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", DESTDIR=str(root))
    return root


@pytest.fixture(scope="module")
def option():
    """The build folder's options by name."""
    listed = json.loads(run("meson", "introspect", "--buildoptions", BUILD))
    return {o["name"]: o["value"] for o in listed}


def only(root, pattern):
    found = sorted(root.rglob(pattern))
    assert len(found) == 1, found
    return found[0]


def exported(library, *flags):
    lines = run("nm", "--dynamic", "--defined-only", *flags, library).splitlines()
    return [line.split()[-1] for line in lines if line.split()[-2] != "A"]


def declared():
    header = re.sub(r"/\*.*?\*/", "", (ROOT / "include/qcow2.h").read_text(), flags=re.S)
    return set(re.findall(r"^[a-z][\w\s*]*?\b(qcow2_\w+)\(", header, flags=re.M))


def test_everything_is_there(installed):
    assert only(installed, "qcow2.h").read_bytes() == (ROOT / "include/qcow2.h").read_bytes()
    assert only(installed, "libqcow2.a").stat().st_size > 0
    assert only(installed, "libqcow2.so.0.*").is_file()
    assert only(installed, "libqcow2.so.0").is_symlink()
    assert only(installed, "libqcow2.so").is_symlink()
    assert run(only(installed, "bin/qcow2"), "--version").startswith("qcow2 ")
    for page in (ROOT / "docs/man").glob("*.scd"):
        assert ".TH" in only(installed, f"share/man/man1/{page.stem}").read_text()
    for path in ("bash-completion/completions/qcow2", "zsh/site-functions/_qcow2",
                 "fish/vendor_completions.d/qcow2.fish"):
        assert "qcow2" in only(installed, f"share/{path}").read_text()
    for name in ("qemu-img", "qemu-io"):
        face = only(installed, "libexec/libqcow2") / name
        assert f"{installed}{os.readlink(face)}" == str(only(installed, "bin/qcow2"))


def test_the_library_exports_what_the_header_declares_and_no_more(installed):
    library = only(installed, "libqcow2.so.0.*")
    symbols = {s.split("@")[0] for s in exported(library)}
    assert symbols - declared() == set(), "exported, but not in qcow2.h"
    assert declared() - symbols == set(), "in qcow2.h, but not exported"


def test_every_symbol_has_a_version(installed):
    library = only(installed, "libqcow2.so.0.*")
    bare = [s for s in exported(library, "--with-symbol-versions") if "@@LIBQCOW2_" not in s]
    assert bare == []


@pytest.mark.parametrize("static", [False, True], ids=["shared", "static"])
@pytest.mark.parametrize("compiler,suffix,standard",
                         [("gcc", "c", "c99"), ("g++", "cpp", "c++11")])
def test_a_program_builds_with_what_pkg_config_says(installed, option, tmp_path, compiler, suffix,
                                                    standard, static):
    pc = only(installed, "libqcow2.pc")
    env = {"PKG_CONFIG_PATH": str(pc.parent), "PKG_CONFIG_SYSROOT_DIR": str(installed)}
    wanted = ["--cflags", "--libs"] + ["--static"] * static
    flags = run("pkg-config", *wanted, "libqcow2", **env).split()
    if static:
        flags = [str(only(installed, "libqcow2.a")) if f == "-lqcow2" else f for f in flags]
    if option["b_sanitize"] != "none":
        flags.append(f"-fsanitize={option['b_sanitize']}")
    source = tmp_path / f"program.{suffix}"
    source.write_text(PROGRAM)
    program = tmp_path / "program"
    run(compiler, f"-std={standard}", "-pedantic-errors", "-Wall", "-Wextra", "-Werror",
        "-Wno-missing-field-initializers", source, "-o", program, *flags)
    library = only(installed, "libqcow2.so.0").parent
    said = run(program, LD_LIBRARY_PATH=str(library))
    assert re.fullmatch(r"\d+\.\d+\.\d+: .*/nowhere/disk\.qcow2.*: No such file or directory\n",
                        said)
