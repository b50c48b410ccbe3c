"""A user gets a detectron2 that imports, or one clear message and nothing half installed."""

import base64
import csv
import errno
import hashlib
import io
import os
import subprocess
import sys
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

import detectron2_wheel
import install_detectron2
from detectron2_wheel import Rewrite, WheelError, build_wheel, rewrite_sources
from install_detectron2 import InstallError

TOOL = Path(install_detectron2.__file__)

SOURCES = {
    "detectron2/__init__.py": b"import math\r\n\r\n__version__ = '0.4'\r\n",
    "detectron2/data/load.py": b"a = np.bool\r\nb = [np.bool, np.bool_, np.int64]\r\n",
    "detectron2/model_zoo/configs/Base.yaml": b"VERSION: 2\r\n",
    "detectron2/_C.cp37-win_amd64.pyd": b"\x00compiled\r\n",
    "geoai_detectron2-0.4.dist-info/LICENSE": b"Apache License\r\n",
    "geoai_detectron2-0.4.dist-info/METADATA": b"Name: geoai-detectron2\n",
}
REWRITES = (
    Rewrite("no np.bool", r"\bnp\.bool\b", "bool", {"detectron2/data/load.py": 2}),
    Rewrite("tau", r"^import math$", "from math import tau", {"detectron2/__init__.py": 1}),
)


@pytest.fixture
def source_wheel(tmp_path: Path) -> Path:
    """A small wheel with the layout, line ends and compiled module of the real one."""
    wheel = tmp_path / detectron2_wheel.SOURCE_WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in SOURCES.items():
            archive.writestr(name, content)
    return wheel


def build(source: Path, out: Path, rewrites=REWRITES) -> Path:
    out.mkdir(exist_ok=True)
    return build_wheel(source, out, rewrites, hashlib.sha256(source.read_bytes()).hexdigest())


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def run_tool(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_sources_are_rewritten_with_lf_and_without_the_compiled_module(source_wheel, tmp_path):
    files = contents(build(source_wheel, tmp_path / "out"))

    load = files["detectron2/data/load.py"].decode()
    assert load.startswith("a = bool\nb = [bool, np.bool_, np.int64]\n")
    assert load.splitlines()[-1].startswith("# Changed by LRFormer's") and "no np.bool" in load
    assert files["detectron2/__init__.py"].startswith(b"from math import tau\n\n__version__")
    assert files["detectron2/model_zoo/configs/Base.yaml"] == b"VERSION: 2\n"
    assert not any(name.endswith(".pyd") for name in files)
    assert b"NotImplementedError" in files["detectron2/_C.py"]
    assert not any(b"\r" in content for content in files.values())


def test_wheel_is_one_that_installers_accept(source_wheel, tmp_path):
    wheel = build(source_wheel, tmp_path / "out")
    name, version, _, tags = parse_wheel_filename(wheel.name)
    assert name == "detectron2" and [str(tag) for tag in tags] == ["py3-none-any"]

    files = contents(wheel)
    info = f"detectron2-{version}.dist-info"
    rows = list(csv.reader(io.StringIO(files[f"{info}/RECORD"].decode())))
    assert sorted(row[0] for row in rows) == sorted(files)
    for path, digest, size in rows:
        if path != f"{info}/RECORD":
            expected = base64.urlsafe_b64encode(hashlib.sha256(files[path]).digest()).decode()
            assert (digest, size) == (f"sha256={expected.rstrip('=')}", str(len(files[path])))

    target = tmp_path / "target"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True)
    assert (target / "detectron2" / "_C.py").is_file()


def test_metadata_states_licence_origin_and_real_dependencies(source_wheel, tmp_path):
    files = contents(build(source_wheel, tmp_path / "out"))
    info = next(name.split("/")[0] for name in files if ".dist-info/" in name)
    metadata = BytesParser().parsebytes(files[f"{info}/METADATA"])

    assert metadata["Name"] == "detectron2" and metadata["License"] == "Apache-2.0"
    assert f"detectron2-{metadata['Version']}.dist-info" == info
    assert files[f"{info}/LICENSE"] == b"Apache License\n"
    origin = metadata.get_payload()
    assert "6700d784ff69c800dbc50abed341b20f806bddd2" in origin and source_wheel.name in origin
    required = {Requirement(line).name.lower() for line in metadata.get_all("Requires-Dist")}
    assert {"fvcore", "iopath", "omegaconf", "hydra-core", "pycocotools"} <= required
    # pip must not exchange the PyTorch that is there for another build.
    assert not required & {"torch", "torchvision", "black"}


def test_two_builds_have_the_same_bytes(source_wheel, tmp_path):
    first = build(source_wheel, tmp_path / "first")
    os.utime(source_wheel, (0, 0))
    second = build(source_wheel, tmp_path / "second")
    assert first.name == second.name and first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"a.py": "np.bool"}, "a.py: expected 2, found 1"),
        ({"a.py": "np.bool np.bool np.bool"}, "a.py: expected 2, found 3"),
        ({"a.py": "np.bool np.bool", "b.py": "np.bool"}, "b.py: expected 0, found 1"),
        ({"b.py": ""}, "a.py: expected 2, found 0"),
    ],
    ids=["fewer", "more", "elsewhere", "no such file"],
)
def test_rewrite_that_finds_other_counts_names_file_and_pattern(sources, expected):
    rewrite = Rewrite("no np.bool", r"\bnp\.bool\b", "bool", {"a.py": 2})
    with pytest.raises(WheelError) as error:
        rewrite_sources(sources, [rewrite])
    assert expected in str(error.value) and repr(rewrite.pattern) in str(error.value)


def test_unexpected_sources_leave_no_wheel(source_wheel, tmp_path):
    with pytest.raises(WheelError, match="nothing was built"):
        build(source_wheel, tmp_path / "out", detectron2_wheel.REWRITES)
    assert not list((tmp_path / "out").iterdir())


def test_wrong_hash_is_refused(source_wheel, tmp_path):
    result = run_tool("--wheel", source_wheel, "--out", tmp_path / "out")
    assert result.returncode == 1
    assert detectron2_wheel.SOURCE_SHA256 in result.stderr
    assert hashlib.sha256(source_wheel.read_bytes()).hexdigest() in result.stderr
    assert not list((tmp_path / "out").iterdir())


def test_missing_wheel_is_named(tmp_path):
    result = run_tool("--wheel", tmp_path / "none.whl", "--out", tmp_path / "out")
    assert result.returncode == 1
    assert "none.whl: No such file" in result.stderr and "Traceback" not in result.stderr


def test_no_network_says_what_to_do(tmp_path):
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    result = run_tool("--out", tmp_path / "out", **offline)
    assert result.returncode == 1
    assert "could not download geoai-detectron2==0.4" in result.stderr
    assert "--wheel" in result.stderr and "Traceback" not in result.stderr
    assert not list((tmp_path / "out").iterdir())


def test_installed_detectron2_is_left_alone(tmp_path):
    package = tmp_path / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '0.6'\n")
    (package / "layers.py").touch()
    result = run_tool(PYTHONPATH=str(tmp_path), PIP_NO_INDEX="1")
    assert result.returncode == 0, result.stderr
    assert f"Using the detectron2 0.6 in {package}" in result.stdout


def test_broken_detectron2_is_reported_not_overwritten(tmp_path):
    package = tmp_path / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('undefined symbol')\n")
    result = run_tool(PYTHONPATH=str(tmp_path), PIP_NO_INDEX="1")
    assert result.returncode == 1
    assert str(package) in result.stderr and "undefined symbol" in result.stderr


def test_folder_named_detectron2_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "detectron2").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # -S leaves out the site-packages, where a real one may be.
    monkeypatch.setattr(
        install_detectron2,
        "_run_python",
        lambda code: subprocess.run(
            [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False
        ),
    )
    assert install_detectron2.installed_detectron2() is None


@pytest.fixture
def empty_environment(tmp_path, monkeypatch):
    """No detectron2, a site-packages of its own, and a pip that must not be called."""
    site_packages = tmp_path / "site-packages"
    site_packages.mkdir()

    def no_pip(*arguments):
        raise AssertionError(f"pip was called: {arguments}")

    monkeypatch.setattr(install_detectron2, "installed_detectron2", lambda: None)
    monkeypatch.setattr(install_detectron2.sysconfig, "get_path", lambda key: str(site_packages))
    monkeypatch.setattr(install_detectron2, "_run_pip", no_pip)
    return site_packages


def test_read_only_site_packages_is_found_before_anything_is_done(
    empty_environment, monkeypatch, capsys
):
    def refuse(dir):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(install_detectron2.tempfile, "TemporaryFile", refuse)
    assert install_detectron2.main([]) == 1
    message = capsys.readouterr().err
    assert f"cannot install into {empty_environment}: Read-only file system" in message
    assert "-m venv" in message


def test_pytorch_is_asked_for_first(empty_environment, monkeypatch, capsys):
    find_spec = install_detectron2.importlib.util.find_spec
    monkeypatch.setattr(
        install_detectron2.importlib.util,
        "find_spec",
        lambda name: None if name == "torchvision" else find_spec(name),
    )
    assert install_detectron2.main([]) == 1
    assert "has no torchvision" in capsys.readouterr().err


def test_install_that_fails_midway_leaves_nothing(empty_environment, monkeypatch):
    def half_install(*arguments):
        (empty_environment / "detectron2").mkdir()
        (empty_environment / "detectron2" / "__init__.py").touch()
        return subprocess.CompletedProcess(arguments, 1, "ERROR: No space left on device")

    monkeypatch.setattr(install_detectron2, "_run_pip", half_install)
    with pytest.raises(InstallError, match="No space left on device"):
        install_detectron2.install_wheel(Path("detectron2.whl"))
    assert not list(empty_environment.iterdir())


def test_missing_operators_say_which_and_import_is_not_disturbed(tmp_path):
    (tmp_path / "stand_in.py").write_text(detectron2_wheel.C_STAND_IN)
    code = """
import torch, stand_in
looked_up = torch.ops.detectron2.nms_rotated  # as detectron2/layers/nms.py does
for call in (
    lambda: looked_up(torch.zeros(1, 5), torch.zeros(1), 0.5),
    lambda: stand_in.box_iou_rotated(1, 2),
    lambda: stand_in.InstanceAnnotation(),
):
    try:
        call()
    except NotImplementedError as error:
        print(error)
assert not stand_in.has_cuda() and not hasattr(stand_in, "no_such_operator")
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    first, second, third = result.stdout.splitlines()
    assert "nms_rotated is a compiled operator" in first and "LRFormer needs none" in first
    assert "box_iou_rotated is a compiled operator" in second
    assert "use_fast_impl=False" in third


def test_real_wheel_builds(tmp_path):
    try:
        source = install_detectron2.download_wheel(tmp_path)
    except InstallError as error:
        pytest.skip(f"needs the package index: {error}")
    files = contents(build_wheel(source, tmp_path))

    modules = {name: text.decode() for name, text in files.items() if name.endswith(".py")}
    assert len([name for name in modules if "model_zoo/configs" not in name]) == 158 + 1  # + _C
    for name, text in modules.items():
        compile(text, name, "exec")
        code = text.partition("\n# Changed by")[0]
        for removed in ("Image.LINEAR", "np.float)", "np.int)", "np.bool)", "pkg_resources"):
            assert removed not in code, name
