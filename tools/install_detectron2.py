"""Install detectron2 where there is neither a compiler nor a matching ready-made build.

detectron2's authors publish nothing on the Python package registry. This tool has pip fetch the
one distribution of its sources that is there, builds a pure-Python wheel from it
(``detectron2_wheel.py`` says how) and installs that. A detectron2 that is already there is left
alone. The exit code is 0, or 2 where something has to be mended first.

Runs on the standard library alone, with any Python >= 3.10 that has pip and PyTorch.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from detectron2_wheel import SOURCE_WHEEL, VERSION, InstallError, build_wheel

SOURCE_REQUIREMENT = "geoai-detectron2==0.4"
# Without these pip would look for a wheel of this platform, and find none.
SOURCE_TAGS = ("--platform", "win_amd64", "--python-version", "37")
SOURCE_TAGS += ("--implementation", "cp", "--abi", "cp37m")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    try:
        _install(_parse_arguments(argv))
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Install a pure-Python detectron2, unless one is importable already."
    )
    parser.add_argument(
        "--wheel", type=Path, metavar="FILE", help=f"use this copy of {SOURCE_WHEEL}; no download"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="only build the wheel, into this folder"
    )
    parser.add_argument(
        "--constraint", type=Path, metavar="FILE", help="pip constraints for the dependencies"
    )
    return parser.parse_args(argv)


def _install(args: argparse.Namespace) -> None:
    needed = ("pip",) if args.out else ("pip", "torch", "torchvision")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise InstallError(
            f"{sys.executable} has no {' and no '.join(missing)}; install that first (`make setup` "
            "does all of it)"
        )
    if args.constraint is not None and not args.constraint.is_file():
        raise InstallError(f"there is no constraints file {args.constraint}")
    if not args.out and (installed := installed_detectron2()):
        print(f"Using the {installed}, which is already installed.")
        return
    folders = [args.out] if args.out else map(sysconfig.get_path, ("purelib", "platlib"))
    check_writable(map(Path, folders))
    with tempfile.TemporaryDirectory(prefix="detectron2-") as temporary:
        source = args.wheel or download_wheel(Path(temporary))
        wheel = build_wheel(source, args.out or Path(temporary))
        if args.out:
            print(f"Built {wheel}")
            return
        print(f"Installing {wheel.name}", flush=True)
        print(f"Installed {install_wheel(wheel, args.constraint)}, a pure-Python build.")


def check_writable(folders: Sequence[Path]) -> None:
    """Make the folders; raise :class:`InstallError` if a file cannot be created in one of them."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InstallError(
                f"cannot write to {folder}: {error.strerror}. Nothing was changed.\n"
                "Use a virtual environment (python3 -m venv .venv, then .venv/bin/python "
                "tools/install_detectron2.py), or make that folder writable."
            ) from error


def installed_detectron2() -> str | None:
    """Version and folder of the detectron2 that this Python imports; None if there is none.

    Raises:
        InstallError: one is there but cannot be imported.
    """
    found = _run_python(
        "import importlib.util; print(importlib.util.find_spec('detectron2').origin, flush=True);"
        "import detectron2, detectron2.layers; print(getattr(detectron2, '__version__', 'unknown'))"
    )
    origin = found.stdout.partition("\n")[0]
    if origin in ("", "None"):  # there is none, or only a folder of that name
        return None
    folder = os.path.dirname(origin)
    if found.returncode != 0:
        raise InstallError(
            f"there is a detectron2 in {folder}, but importing it fails:\n"
            f"{_last_lines(found.stderr, 4)}\nRepair it, or remove it "
            f"({sys.executable} -m pip uninstall detectron2) and run this again."
        )
    return f"detectron2 {found.stdout.split()[-1]} in {folder}"


def download_wheel(folder: Path) -> Path:
    """Have pip download the original wheel into ``folder``; its path, or InstallError."""
    print(f"Downloading {SOURCE_REQUIREMENT} with pip", flush=True)
    result = _run_pip(
        *("download", "--no-deps", "--only-binary=:all:", *SOURCE_TAGS),
        *("--dest", str(folder), SOURCE_REQUIREMENT),
    )
    wheel = folder / SOURCE_WHEEL
    if result.returncode != 0 or not wheel.is_file():
        raise InstallError(
            f"pip could not download {SOURCE_REQUIREMENT}. It said:\n{_last_lines(result.stdout)}\n"
            "Check the network and pip's index settings, or copy "
            f"{SOURCE_WHEEL} here from a machine that has them and give it with --wheel."
        )
    return wheel


def install_wheel(wheel: Path, constraint: Path | None = None) -> str:
    """Install ``wheel`` and what it requires with pip; what :func:`installed_detectron2` says.

    Raises:
        InstallError: pip failed, or what it installed cannot be imported. detectron2 is then
            removed again; dependencies that pip had already installed stay.
    """
    site_packages = Path(sysconfig.get_path("purelib"))
    made = [site_packages / "detectron2", site_packages / f"detectron2-{VERSION}.dist-info"]
    made = [folder for folder in made if not folder.exists()]
    pinned = () if constraint is None else ("--constraint", str(constraint))
    installed = None
    try:
        result = _run_pip("install", *pinned, str(wheel))
        installed = installed_detectron2() if result.returncode == 0 else None
        if installed is None:
            raise InstallError(
                f"pip did not install {wheel.name}. It said:\n{_last_lines(result.stdout)}"
            )
    finally:
        if installed is None:
            for folder in made:
                shutil.rmtree(folder, ignore_errors=True)
    return installed


def _run_pip(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _run_python(code: str) -> subprocess.CompletedProcess:
    # Elsewhere than in the current folder, where a clone of detectron2 would be taken for it.
    with tempfile.TemporaryDirectory() as empty:
        return subprocess.run(
            [sys.executable, "-c", code], check=False, cwd=empty, capture_output=True, text=True
        )


def _last_lines(output: str, count: int = 8) -> str:
    return "\n".join("  " + line for line in output.strip().splitlines()[-count:])


if __name__ == "__main__":
    sys.exit(main())
