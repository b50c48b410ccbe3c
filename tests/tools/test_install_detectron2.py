"""A user gets a detectron2 that imports, or one clear message and nothing half installed."""

import base64
import csv
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from email.parser import BytesParser
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

import detectron2_wheel
import install_detectron2
from detectron2_wheel import InstallError, build_wheel

SOURCES = {
    "detectron2/__init__.py": b'import math\r\n\r\n__version__ = "0.4"\r\n',
    "detectron2/data/load.py": b"a = np.bool\r\nb = [np.bool, np.bool_, np.int64]\r\n",
    "detectron2/model_zoo/configs/Base.yaml": b"VERSION: 2\r\n",
    "detectron2/_C.cp37-win_amd64.pyd": b"\x00compiled\r\n",
    "geoai_detectron2-0.4.dist-info/LICENSE": b"Apache License\r\n",
    "geoai_detectron2-0.4.dist-info/METADATA": b"Name: geoai-detectron2\n",
}


@pytest.fixture(autouse=True)
def packages(monkeypatch):
    """All are there. To ask for pip would change setuptools in this process."""
    monkeypatch.setattr(install_detectron2.importlib.util, "find_spec", lambda name: name)


@pytest.fixture
def source_wheel(tmp_path: Path) -> Path:
    """A small wheel with the layout, line ends and compiled module of the real one."""
    wheel = tmp_path / detectron2_wheel.SOURCE_WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in SOURCES.items():
            archive.writestr(name, content)
    return wheel


def build(source: Path, out: Path) -> Path:
    out.mkdir()
    return build_wheel(source, out, hashlib.sha256(source.read_bytes()).hexdigest())


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_sources_are_rewritten_with_lf_and_without_the_compiled_module(source_wheel, tmp_path):
    files = contents(build(source_wheel, tmp_path / "out"))
    load = files["detectron2/data/load.py"].decode()
    assert load.startswith("a = bool\nb = [bool, np.bool_, np.int64]\n")
    assert load.splitlines()[-1].startswith("# Changed by LRFormer's") and "NumPy 1.24" in load
    assert files["detectron2/model_zoo/configs/Base.yaml"] == b"VERSION: 2\n"
    assert not any(name.endswith(".pyd") for name in files)
    assert b"NotImplementedError" in files["detectron2/_C.py"]
    assert not any(b"\r" in content for content in files.values())


def test_wheel_is_one_that_installers_accept(source_wheel, tmp_path):
    wheel = build(source_wheel, tmp_path / "out")
    name, version, _, tags = parse_wheel_filename(wheel.name)
    assert name == "detectron2" and [str(tag) for tag in tags] == ["py3-none-any"]
    files = contents(wheel)
    assert f'__version__ = "{version}"' in files["detectron2/__init__.py"].decode()

    info = f"detectron2-{version}.dist-info"
    rows = list(csv.reader(io.StringIO(files[f"{info}/RECORD"].decode())))
    assert sorted(row[0] for row in rows) == sorted(files)
    for path, digest, size in rows:
        if path != f"{info}/RECORD":
            expected = base64.urlsafe_b64encode(hashlib.sha256(files[path]).digest()).decode()
            assert (digest, size) == (f"sha256={expected.rstrip('=')}", str(len(files[path])))

    metadata = BytesParser().parsebytes(files[f"{info}/METADATA"])
    assert metadata["Name"] == "detectron2" and metadata["License"] == "Apache-2.0"
    assert metadata["Version"] == str(version)
    assert files[f"{info}/LICENSE"] == b"Apache License\n"
    assert detectron2_wheel.COMMIT in metadata.get_payload()
    required = {Requirement(line).name.lower() for line in metadata.get_all("Requires-Dist")}
    assert {"fvcore", "iopath", "omegaconf", "hydra-core", "pycocotools"} <= required
    # pip must not exchange the PyTorch that is there for another build.
    assert not required & {"torch", "torchvision", "black"}

    os.utime(source_wheel, (0, 0))
    assert build(source_wheel, tmp_path / "again").read_bytes() == wheel.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--wheel", detectron2_wheel.SOURCE_WHEEL], detectron2_wheel.SOURCE_SHA256),
        (["--wheel", "none.whl"], "none.whl: No such file"),
        (["--constraint", "none.txt"], "none.txt"),
        # Without the network.
        ([], "could not download geoai-detectron2==0.4"),
    ],
)
def test_what_a_user_can_mend_is_said_and_nothing_is_built(
    source_wheel, tmp_path, monkeypatch, capsys, arguments, said
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert install_detectron2.main([*arguments, "--out", "out"]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        ("__version__ = '0.6'", 0, "Using the detectron2 0.6 in {}"),
        ("raise ImportError('undefined symbol')", 2, "undefined symbol"),
    ],
)
def test_installed_detectron2_is_never_overwritten(tmp_path, content, code, said):
    package = tmp_path / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text(content)
    (package / "layers.py").touch()
    result = subprocess.run(
        [sys.executable, install_detectron2.__file__],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
    )
    output = result.stdout + result.stderr
    assert result.returncode == code and said.format(package) in output and str(package) in output


def test_folder_named_detectron2_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "detectron2").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def without_site_packages(code):
        return subprocess.run([sys.executable, "-Sc", code], capture_output=True, text=True)

    monkeypatch.setattr(install_detectron2, "_run_python", without_site_packages)
    assert install_detectron2.installed_detectron2() is None


@pytest.fixture
def empty_environment(tmp_path, monkeypatch):
    """No detectron2, and a site-packages of its own."""
    monkeypatch.setattr(install_detectron2, "installed_detectron2", lambda: None)
    monkeypatch.setattr(install_detectron2.sysconfig, "get_path", lambda key: str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("module", "function", "refuse", "said"),
    [
        (install_detectron2.importlib.util, "find_spec", lambda name: None, "has no pip and no"),
        (tempfile, "TemporaryFile", Mock(side_effect=OSError(30, "Read-only")), ": Read-only"),
    ],
)
def test_what_the_environment_lacks_is_found_before_anything_is_done(
    empty_environment, monkeypatch, capsys, module, function, refuse, said
):
    monkeypatch.setattr(install_detectron2, "_run_pip", None)
    monkeypatch.setattr(module, function, refuse)
    assert install_detectron2.main([]) == 2
    assert said in capsys.readouterr().err


def test_install_that_fails_midway_leaves_nothing(empty_environment, monkeypatch):
    def half_install(*arguments):
        (empty_environment / "detectron2").mkdir()
        (empty_environment / "detectron2" / "__init__.py").touch()
        return subprocess.CompletedProcess(arguments, 1, "ERROR: No space left on device")

    monkeypatch.setattr(install_detectron2, "_run_pip", half_install)
    with pytest.raises(InstallError, match="No space left on device"):
        install_detectron2.install_wheel(Path("detectron2.whl"))
    assert not list(empty_environment.iterdir())


def test_missing_operators_say_which_and_import_is_not_disturbed():
    source = detectron2_wheel.C_STAND_IN
    assert 'torch.library.Library("detectron2"' in source
    # The operators of the real name may be there already.
    exec(source.replace('Library("detectron2"', 'Library("stand_in"'), stand_in := {})
    looked_up = torch.ops.stand_in.nms_rotated  # as detectron2/layers/nms.py does
    with pytest.raises(NotImplementedError, match="nms_rotated is a compiled operator"):
        looked_up(torch.zeros(1, 5), torch.zeros(1), 0.5)
    with pytest.raises(NotImplementedError, match="box_iou_rotated is a compiled operator"):
        stand_in["box_iou_rotated"](1, 2)
    with pytest.raises(NotImplementedError, match="use_fast_impl=False"):
        stand_in["InstanceAnnotation"]()
    assert not stand_in["has_cuda"]()


def test_real_wheel_builds(tmp_path):
    try:
        source = install_detectron2.download_wheel(tmp_path)
    except InstallError as error:
        pytest.skip(f"needs the package index: {error}")
    files = contents(build_wheel(source, tmp_path))
    modules = {name: text.decode() for name, text in files.items() if name.endswith(".py")}
    assert len([name for name in modules if "model_zoo/configs" not in name]) == 158 + 1  # + _C
    noted = "".join(text.partition("\n# Changed by")[2] for text in modules.values())
    assert [why for why in detectron2_wheel.REWRITES if why not in noted] == []
    for name, text in modules.items():
        compile(text, name, "exec")
        code = text.partition("\n# Changed by")[0]
        for removed in ("Image.LINEAR", "np.float)", "np.int)", "np.bool)", "pkg_resources"):
            assert removed not in code, name
