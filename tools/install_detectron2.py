"""Install detectron2 where there is neither a compiler nor a matching ready-made build.

detectron2's authors publish nothing on the Python package registry. This tool has pip fetch the
one distribution of its sources that is there, builds a pure-Python wheel from it
(``detectron2_wheel.py`` says how) and installs that. A detectron2 that is already there is left
alone.

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

from detectron2_wheel import SOURCE_WHEEL, VERSION, WheelError, build_wheel

SOURCE_REQUIREMENT = "geoai-detectron2==0.4"
# Without these pip would look for a wheel of this platform, and find none.
SOURCE_TAGS = ("--platform", "win_amd64", "--python-version", "37")
SOURCE_TAGS += ("--implementation", "cp", "--abi", "cp37m")


class InstallError(Exception):
    """What went wrong and what to do, for the person at the terminal."""


def _run_pip(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _last_lines(output: str, count: int = 8) -> str:
    return "\n".join("  " + line for line in output.strip().splitlines()[-count:])


def download_wheel(folder: Path) -> Path:
    """Have pip download the original wheel into ``folder`` and return its path.

    Raises:
        InstallError: pip could not download it; carries what pip said.
    """
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


def check_writable(folders: Sequence[Path]) -> None:
    """Raise :class:`InstallError` if a file cannot be created in one of ``folders``."""
    for folder in folders:
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InstallError(
                f"cannot install into {folder}: {error.strerror}. Nothing was changed.\n"
                "Use a virtual environment (python3 -m venv .venv, then .venv/bin/python "
                "tools/install_detectron2.py), or make that folder writable."
            ) from error


def _run_python(code: str) -> subprocess.CompletedProcess:
    # Elsewhere than in the current folder, where a clone of detectron2 would be taken for it.
    with tempfile.TemporaryDirectory() as empty:
        return subprocess.run(
            [sys.executable, "-c", code], check=False, cwd=empty, capture_output=True, text=True
        )


def installed_detectron2() -> str | None:
    """Version and folder of the detectron2 that this Python imports; None if there is none.

    Raises:
        InstallError: one is there but cannot be imported.
    """
    found = _run_python(
        "import importlib.util; spec = importlib.util.find_spec('detectron2');"
        "print(spec.origin or '' if spec else '')"
    )
    origin = found.stdout.strip()
    if found.returncode != 0 or not origin:
        return None
    folder = os.path.dirname(origin)
    imported = _run_python(
        "import detectron2, detectron2.layers; print(getattr(detectron2, '__version__', 'unknown'))"
    )
    if imported.returncode != 0:
        raise InstallError(
            f"there is a detectron2 in {folder}, but importing it fails:\n"
            f"{_last_lines(imported.stderr, 4)}\nRepair it, or remove it "
            f"({sys.executable} -m pip uninstall detectron2) and run this again."
        )
    return f"detectron2 {imported.stdout.split()[-1]} in {folder}"


def install_wheel(wheel: Path, constraint: Path | None = None) -> str:
    """Install ``wheel`` and what it requires with pip; ``constraint`` is a pip constraints file.

    Returns:
        What :func:`installed_detectron2` says of it.

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
        if result.returncode != 0:
            raise InstallError(
                f"pip could not install {wheel.name}. It said:\n{_last_lines(result.stdout)}\n"
                "detectron2 was not installed."
            )
        try:
            installed = installed_detectron2()
        except InstallError as error:
            raise InstallError(f"{error}\n(It was just installed, and is now removed.)") from error
        if installed is None:
            raise InstallError(f"pip reported success, but {sys.executable} finds no detectron2")
    finally:
        if installed is None:
            for folder in made:
                shutil.rmtree(folder, ignore_errors=True)
    return installed


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


def _build(args: argparse.Namespace, folder: Path, out: Path) -> Path:
    if args.wheel is None:
        print(f"Downloading {SOURCE_REQUIREMENT} with pip", flush=True)
    return build_wheel(args.wheel or download_wheel(folder), out)


def _main(args: argparse.Namespace) -> None:
    if importlib.util.find_spec("pip") is None:
        raise InstallError(
            f"{sys.executable} has no pip. Add it with: {sys.executable} -m ensurepip"
        )
    with tempfile.TemporaryDirectory(prefix="detectron2-") as name:
        folder = Path(name)
        if args.out is not None:
            try:
                args.out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InstallError(
                    f"cannot make the folder {args.out}: {error.strerror}"
                ) from error
            check_writable([args.out])
            print(f"Built {_build(args, folder, args.out)}")
            return

        for module in ("torch", "torchvision"):
            if importlib.util.find_spec(module) is None:
                raise InstallError(
                    f"{sys.executable} has no {module}, which detectron2 runs on. Install torch "
                    "and torchvision first (`make setup` does all of it)."
                )
        installed = installed_detectron2()
        if installed is not None:
            print(f"Using the {installed}, which is already installed.")
            return
        check_writable([Path(sysconfig.get_path(key)) for key in ("purelib", "platlib")])
        if args.constraint is not None and not args.constraint.is_file():
            raise InstallError(f"there is no constraints file {args.constraint}")
        wheel = _build(args, folder, folder)
        print(f"Installing {wheel.name}", flush=True)
        print(f"Installed {install_wheel(wheel, args.constraint)}, a pure-Python build.")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    args = _parse_arguments(argv)
    if sys.version_info < (3, 10):  # noqa: UP036
        found = ".".join(map(str, sys.version_info[:3]))
        print(f"error: Python 3.10 or newer is needed; this is {found}", file=sys.stderr)
        return 1
    try:
        _main(args)
    except (InstallError, WheelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
