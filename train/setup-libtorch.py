#!/usr/bin/env python3
"""Puts a CPU libtorch of the one version that this project is bound to into a folder.

    train/setup-libtorch.py third_party/libtorch

There is no small libtorch package for Linux: the wheel on PyPI is the CUDA build, and with everything it asks for
it takes 4.7 GB. Its CPU half needs three wheels only (544 MB to download), and of those only the members named below
(0.5 GB on disk). They are checked against pinned hashes, unpacked beside the target and renamed into place, so the
target is whole or absent. A target that is whole already is left alone. Nothing outside the target is touched.

For a GPU, or on another platform, set LIBTORCH to a libtorch of the same version instead.
"""

import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile

VERSION = "2.11.0"

# The wheels for CPython 3.12 on x86-64 Linux, whatever Python runs this script: nothing in them is imported, and
# one set of files can be pinned by hash.
WHEELS = {
    "torch==2.11.0": "0f68f4ac6d95d12e896c3b7a912b5871619542ec54d3649cf48cc1edd4dd2756",
    "nvidia-cuda-runtime==13.0.96": "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
    "nvidia-cuda-cupti==13.0.85": "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
}
PLATFORMS = ["manylinux_2_28_x86_64", "manylinux_2_25_x86_64", "manylinux2014_x86_64"]

# What libtorch_cpu.so needs at run time, and the size of each in bytes. The two CUDA libraries are named by it even
# though a CPU program never calls them.
LIBRARIES = {
    "libtorch_cpu.so": 451209129,
    "libc10.so": 1498969,
    "libgomp.so.1": 254009,
    "libcudart.so.13": 704288,
    "libcupti.so.13": 4152208,
}

# Programs are linked with -ltorch, but the wheel's libtorch.so wants the CUDA half; a linker script stands in for it.
LINKER_SCRIPT = "INPUT(-ltorch_cpu -lc10)\n"

SPACE_NEEDED = 1_300_000_000


class Failure(Exception):
    """Something the reader can act on: what failed, and a hint."""


def say(text):
    print(f"libtorch: {text}", flush=True)


def fault(folder):
    """Why `folder` is not a whole libtorch of the right version; None if it is."""
    version = folder / "build-version"
    if not version.is_file():
        return "there is none"
    if version.read_text().strip() != VERSION:
        return f"it is version {version.read_text().strip()}, not {VERSION}"
    if (folder / "lib" / "libtorch_cuda.so").exists():
        return None  # A CUDA build put there on purpose.
    for name, size in LIBRARIES.items():
        path = folder / "lib" / name
        if not path.is_file():
            return f"`lib/{name}` is missing"
        if path.stat().st_size != size:
            return f"`lib/{name}` has {path.stat().st_size} bytes, not {size}"
    if not (folder / "lib" / "libtorch.so").is_file():
        return "`lib/libtorch.so` is missing"
    if not (folder / "include" / "torch").is_dir():
        return "`include/torch` is missing"
    return None


def download(folder):
    """Downloads the wheels into `folder`; pip checks the hashes and shows the progress."""
    wanted = folder / "wheels.txt"
    wanted.write_text("".join(f"{name} --hash=sha256:{digest}\n" for name, digest in WHEELS.items()))
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-cache-dir"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--python-version", "3.12"]
    command += ["--implementation", "cp", "--dest", str(folder), "--requirement", str(wanted)]
    for tag in PLATFORMS:
        command += ["--platform", tag]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode != 0:
        raise Failure(
            "pip could not download the wheels (its message is above)",
            "check the network, or a proxy or mirror in pip's own settings (PIP_INDEX_URL); then run the same again",
        )
    return sorted(folder.glob("*.whl"))


def unpack(wheels, target):
    """Unpacks the libraries and headers that a CPU program needs."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                path = pathlib.PurePosixPath(member.filename)
                if member.is_dir() or ".." in path.parts:
                    continue
                if path.name in LIBRARIES and "lib" in path.parts:
                    out = target / "lib" / path.name
                elif path.parts[:2] == ("torch", "include"):
                    out = target.joinpath(*path.parts[1:])
                else:
                    continue
                out.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, open(out, "wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    (target / "lib" / "libtorch.so").write_text(LINKER_SCRIPT)
    (target / "build-version").write_text(VERSION + "\n")


def replace(new, target):
    """Renames `new` to `target`, taking away what stood there."""
    old = new.parent / "replaced"
    if target.exists() or target.is_symlink():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if fault(target) is None:
            return  # Another setup was quicker, and its result is as good.
        raise


def setup(target):
    why = fault(target)
    if why is None:
        say(f"{VERSION} is in `{target}` already")
        return
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Failure(
            f"this script sets up x86-64 Linux only; this is {platform.machine()} {platform.system()}",
            f"set LIBTORCH to the folder of a libtorch {VERSION} for this platform",
        )
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode != 0:
        raise Failure("`python3 -m pip` does not start", "install it, for example `apt-get install python3-pip`")
    parent = target.parent
    parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(parent).free
    if free < SPACE_NEEDED:
        raise Failure(
            f"`{parent}` has {free / 1e9:.1f} GB free; {SPACE_NEEDED / 1e9:.1f} GB are needed while unpacking",
            f"make room, or set LIBTORCH to the folder of a libtorch {VERSION}",
        )
    say(f"setting up {VERSION} for CPU in `{target}` ({why}); 544 MB to download")
    with tempfile.TemporaryDirectory(prefix=".libtorch-", dir=parent) as scratch:
        scratch = pathlib.Path(scratch)
        wheels = download(scratch)
        new = scratch / "new"
        say("unpacking")
        unpack(wheels, new)
        for wheel in wheels:
            wheel.unlink()
        why = fault(new)
        if why is not None:
            raise Failure(f"the unpacked libtorch is not whole: {why}", "run the same again; if it stays, report it")
        replace(new, target)
    say(f"{VERSION} is ready in `{target}`")


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        setup(pathlib.Path(sys.argv[1]))
    except Failure as failure:
        what, hint = failure.args
        print(f"error: {what}\nhint: {hint}", file=sys.stderr)
        return 74
    except (OSError, zipfile.BadZipFile) as error:
        print(f"error: cannot set up libtorch: {error}", file=sys.stderr)
        return 74
    except KeyboardInterrupt:
        print("error: interrupted; nothing was changed", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
