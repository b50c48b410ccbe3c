"""What is declared, pinned, packed and started by make fits together."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import detectron2_wheel

ROOT = Path(__file__).parents[1]


def pins(python_version: str) -> dict[str, str]:
    """Pinned versions for that Python, by canonical name."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            marker, name = requirement.marker, requirement.name.lower().replace("_", "-")
            if marker is None or marker.evaluate({"python_version": python_version}):
                assert name not in found, f"{name} is pinned twice for Python {python_version}"
                found[name] = str(requirement.specifier).removeprefix("==")
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of what is packed, where building leaves its files."""
    found = [Version(each.version) for each in distributions(name="setuptools")]
    if not found or found[0] < Version("70.1"):
        pytest.skip("needs a setuptools that builds wheels by itself")
    copy = tmp_path_factory.mktemp("tree")
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "configs", copy / "configs")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "projects", copy / "projects", ignore=ignore)
    return copy


def run(*command: object, **options) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tree) -> Path:
    """A folder with the wheel's content."""
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", tree / "dist")
    run(sys.executable, "-m", "pip", "wheel", *options, tree)
    (wheel,) = (tree / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tree / "site")
    return tree / "site"


USE = """
import sys
from pathlib import Path
import lrformer
from lrformer.config import find_config
for file in (Path(lrformer.__file__), find_config("ade20k/lrformer_t.yaml")):
    assert Path(sys.argv[1]) in file.parents, file
assert lrformer.load_cfg("ade20k/lrformer_t.yaml").MODEL.SEM_SEG_HEAD.NUM_CLASSES == 150
"""


def test_an_installed_wheel_has_every_config(installed, tmp_path):
    there = installed / "lrformer" / "configs"
    found = {str(file.relative_to(there)) for file in there.glob("**/*") if file.is_file()}
    assert found == {str(p.relative_to(ROOT / "configs")) for p in ROOT.glob("configs/**/*.yaml")}
    environment = os.environ | {"PYTHONPATH": str(installed)}
    run(sys.executable, "-c", USE, installed, cwd=tmp_path, env=environment)


def test_an_installed_wheel_has_what_the_report_is_made_of(installed):
    folder = "lrformer/report/templates"
    found = {file.name for file in (installed / folder).iterdir()}
    assert found == {file.name for file in (ROOT / "projects/LRFormer" / folder).iterdir()}


def test_a_source_distribution_has_every_config(tree):
    run(sys.executable, "setup.py", "--quiet", "sdist", cwd=tree)
    (sdist,) = (tree / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    configs = [name for name in names if name.startswith("configs/") and name.endswith(".yaml")]
    assert len(configs) == len(list(ROOT.glob("configs/**/*.yaml")))


@pytest.mark.parametrize("python_version", ["3.10", "3.11", "3.13"])
def test_pins_satisfy_what_is_declared(installed, python_version):
    pinned = pins(python_version)
    assert (pinned["torch"], pinned["torchvision"]) == ("2.14.1", "0.29.1")
    (metadata,) = installed.glob("lrformer-*.dist-info/METADATA")
    lines = re.findall("^Requires-Dist: (.+)$", metadata.read_text(), re.MULTILINE)
    for requirement in map(Requirement, [*lines, *detectron2_wheel.REQUIRES]):
        # What `make setup` installs: the core and the extra "dev".
        where = {"extra": "dev", "python_version": python_version}
        if requirement.marker is None or requirement.marker.evaluate(where):
            assert requirement.specifier.contains(pinned[requirement.name.lower()]), requirement


def run_make(*arguments: str) -> subprocess.CompletedProcess:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    command = ["make", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_make_lists_its_targets():
    listed = re.findall(r"^make ([\w-]+) ", run_make().stdout, re.MULTILINE)
    tests = ["test", "test-matrix", "test-lowest"]
    assert listed == ["help", "setup", "demo", *tests, "audit", "lint", "format", "clean"]


def test_make_without_a_usable_python_says_so(tmp_path):
    missing = run_make("setup", "PYTHON=python-nowhere", f"VENV={tmp_path}/venv")
    assert missing.returncode != 0 and "there is no python-nowhere" in missing.stderr

    old = tmp_path / "python2"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 || exit 1\n')
    old.chmod(0o755)
    result = run_make("setup", f"PYTHON={old}", f"VENV={tmp_path}/venv")
    assert result.returncode != 0 and "is Python 3.9.1" in result.stderr
    assert not (tmp_path / "venv").exists()
