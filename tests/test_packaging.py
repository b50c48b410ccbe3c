"""What is declared, pinned and started by make fits together."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def pins(python_version: str) -> dict[str, str]:
    """Pinned versions for that Python, by canonical name."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker and not requirement.marker.evaluate(
                {"python_version": python_version}
            ):
                continue
            name = requirement.name.lower().replace("_", "-")
            assert name not in found, f"{name} is pinned twice for Python {python_version}"
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            found[name] = specifier.version
    return found


@pytest.fixture(scope="module")
def declared(tmp_path_factory) -> list[Requirement]:
    """What `make setup` installs of setup.py's requirements: the core and the extra "dev"."""
    folder = tmp_path_factory.mktemp("egg")
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    text = (folder / "lrformer.egg-info" / "requires.txt").read_text()
    core, *extras = re.split(r"^\[(.+)\]\n", text, flags=re.MULTILINE)
    lines = core + dict(zip(extras[::2], extras[1::2], strict=True))["dev"]
    return [Requirement(line) for line in lines.splitlines() if line]


@pytest.mark.parametrize("python_version", ["3.10", "3.11", "3.13"])
def test_pins_satisfy_what_is_declared(declared, python_version):
    pinned = pins(python_version)
    assert (pinned["torch"], pinned["torchvision"]) == ("2.14.1", "0.29.1")
    for requirement in declared:
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), requirement


def test_dependencies_of_detectron2_are_pinned():
    import detectron2_wheel

    pinned = pins("3.11")
    for line in detectron2_wheel.REQUIRES:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), line


def run_make(*arguments: str) -> subprocess.CompletedProcess:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_make_lists_its_targets():
    listed = re.findall(r"^make (\w+) ", run_make().stdout, re.MULTILINE)
    assert listed == ["help", "setup", "demo", "test", "lint", "format", "clean"]


def test_make_without_a_usable_python_says_so(tmp_path):
    missing = run_make("setup", "PYTHON=python-nowhere", f"VENV={tmp_path}/venv")
    assert missing.returncode != 0 and "there is no python-nowhere" in missing.stderr

    old = tmp_path / "python2"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 || exit 1\n')
    old.chmod(0o755)
    result = run_make("setup", f"PYTHON={old}", f"VENV={tmp_path}/venv")
    assert result.returncode != 0 and "is Python 3.9.1" in result.stderr
    assert not (tmp_path / "venv").exists()
