"""What the pure-Python wheel of detectron2 is made of; used by ``install_detectron2.py``.

The source is the wheel ``geoai-detectron2`` 0.4, which holds facebookresearch/detectron2 at commit
6700d784ff69c800dbc50abed341b20f806bddd2 (2021-06-08). Its compiled part is left out, the rewrites
below make the Python part run on today's libraries, and a stand-in takes the compiled part's place.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

COMMIT = "6700d784ff69c800dbc50abed341b20f806bddd2"
VERSION = "0.4.post20210608+6700d784.pure"

SOURCE_WHEEL = "geoai_detectron2-0.4-cp37-cp37m-win_amd64.whl"
SOURCE_SHA256 = "6eb280a50dbc3536caa9dc73229dfbbe0bda4fea6692c17803584dda680fad8d"

# torch and torchvision are left out, as detectron2 itself does: which build of them is right
# depends on the machine's GPU, and pip must not exchange the one that is there.
REQUIRES = (
    "cloudpickle",
    "fvcore>=0.1.5,<0.1.6",
    "hydra-core>=1.1",
    "iopath>=0.1.7",
    "matplotlib",
    "numpy",
    "omegaconf>=2.1",
    "Pillow>=7.1",
    "pycocotools>=2.0.2",
    "PyYAML>=5.1",
    "tabulate",
    "tensorboard",
    "termcolor>=1.1",
    "tqdm>4.29.0",
    "yacs>=0.1.6",
)


class InstallError(Exception):
    """What went wrong and what to do, for the person at the terminal."""


# What is changed in the modules, and why: regular expressions, and what takes their matches' place.
REWRITES = {
    "the version says what this build is": {r'__version__ = "0\.4"': f'__version__ = "{VERSION}"'},
    "Pillow 10 removed Image.LINEAR": {r"\bImage\.LINEAR\b": "Image.BILINEAR"},
    "NumPy 1.24 removed its aliases of Python's types": {
        r"\bnp\.(bool|int|float|object|str)\b": r"\1",
    },
    "in NumPy 2, copy=False refuses to copy instead of avoiding it": {
        r"np\.array\((\w+), copy=False\)": r"np.asarray(\1)",
    },
    "NumPy 2 warns where np.array copies a tensor": {
        r"pred = np\.array\(output, ": "pred = np.asarray(output, ",
    },
    "setuptools 82 removed pkg_resources": {
        r"^import pkg_resources$": "from importlib import resources",
        r"pkg_resources\.resource_filename\(\s*(.+), os\.path\.join\((.+)\)\s*\)": (
            r"str(resources.files(\1).joinpath(\2))"
        ),
    },
    "torch.meshgrid warns where indexing is not given": {
        r"(torch\.meshgrid\(shifts_y, shifts_x)\)": r'\1, indexing="ij")',
        r"(y_coord, x_coord = torch\.meshgrid\(\n(?: {8}.*\n)+)": r'\1        indexing="ij",\n',
    },
    "torch.cuda.amp is deprecated in favour of torch.amp": {
        r"\bfrom torch\.cuda\.amp import (GradScaler|autocast)$": r"from torch.amp import \1",
    },
    "torch.amp.autocast takes the device": {r"with autocast\(\):": 'with autocast("cuda"):'},
    "its exporters need Caffe2, which PyTorch 2.4 no longer has": {r"^from \.api import \*\n": ""},
    "Logger.warn is deprecated": {r"logger\.warn\(": "logger.warning("},
}

# Takes the place of the compiled module. Importing it also declares the operator
# torch.ops.detectron2.nms_rotated, which detectron2/layers/nms.py looks up when it is imported.
C_STAND_IN = '''\
"""Stands in for detectron2's compiled operators, which this pure-Python build does not have.

Written by LRFormer's tools/install_detectron2.py; not part of the original detectron2. The names of
the operators can be imported; calling one raises NotImplementedError.
"""

import torch


def _missing(name):
    def operator(*args, **kwargs):
        raise NotImplementedError(
            f"detectron2._C.{name} is a compiled operator, and this detectron2 is the pure-Python "
            "build of LRFormer's tools/install_detectron2.py, whose models need none. Give "
            "COCOEvaluator use_fast_impl=False; for other models build detectron2 from its source."
        )

    return operator


for _name in (
    "box_iou_rotated deform_conv_backward_filter deform_conv_backward_input deform_conv_forward "
    "modulated_deform_conv_backward modulated_deform_conv_forward nms_rotated "
    "roi_align_rotated_backward roi_align_rotated_forward "
    "COCOevalAccumulate COCOevalEvaluateImages InstanceAnnotation"
).split():
    globals()[_name] = _missing(_name)


def get_compiler_version():
    return "none (pure-Python build)"


get_cuda_version = get_compiler_version


def has_cuda():
    return False


_library = torch.library.Library("detectron2", "DEF")
_library.define("nms_rotated(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
_library.impl("nms_rotated", globals()["nms_rotated"], "CompositeExplicitAutograd")
'''

METADATA = """\
Metadata-Version: 2.1
Name: detectron2
Version: {version}
Summary: detectron2 at {commit:.8} (2021-06-08) without its compiled operators
Home-page: https://github.com/facebookresearch/detectron2
Author: FAIR
License: Apache-2.0
License-File: LICENSE
Requires-Python: >=3.10
{requires}
Description-Content-Type: text/plain

The Python modules of facebookresearch/detectron2 at commit
{commit} (2021-06-08), copyright Facebook, Inc. and its
affiliates, Apache License 2.0 (see LICENSE).

Built by LRFormer's tools/install_detectron2.py from {source},
SHA-256 {sha256}:
line ends made LF; the compiled module _C left out and a stand-in, whose operators raise
NotImplementedError, put in its place; and these changes, noted at the end of each changed file:

{changes}

Needs torch and torchvision, which are not declared, so that pip leaves the installed ones alone.
"""

WHEEL = """\
Wheel-Version: 1.0
Generator: install_detectron2.py (LRFormer)
Root-Is-Purelib: true
Tag: py3-none-any
"""


def build_wheel(source: Path, out: Path, sha256: str = SOURCE_SHA256) -> Path:
    """Build the pure-Python wheel from the original one, into the folder ``out``; its path.

    The same source gives the same bytes.

    Raises:
        InstallError: ``source`` cannot be read, or does not hash to ``sha256``.
    """
    try:
        found = hashlib.sha256(source.read_bytes()).hexdigest()
    except OSError as error:
        raise InstallError(f"cannot read the wheel {source}: {error.strerror}") from error
    if found != sha256:
        raise InstallError(
            f"{source.name} is not the wheel this tool was written for, and is not used.\n"
            f"  expected SHA-256 {sha256}\n  found    SHA-256 {found}\n"
            "Delete it (and pip's cached copy, with pip cache purge), then run this again, or "
            f"give a good copy of {SOURCE_WHEEL} with --wheel."
        )
    info = f"detectron2-{VERSION}.dist-info"
    files = {}
    with zipfile.ZipFile(source) as archive:
        for name in archive.namelist():
            content = archive.read(name).replace(b"\r\n", b"\n")
            if name.endswith(".dist-info/LICENSE"):
                files[f"{info}/LICENSE"] = content
            elif name.startswith("detectron2/") and not name.endswith((".pyd", "/")):
                is_module = name.endswith(".py")
                files[name] = rewrite(content.decode()).encode() if is_module else content
    files["detectron2/_C.py"] = C_STAND_IN.encode()
    metadata = METADATA.format(
        version=VERSION,
        commit=COMMIT,
        source=source.name,
        sha256=sha256,
        requires="\n".join(f"Requires-Dist: {requirement}" for requirement in REQUIRES),
        changes="\n".join(f"- {why}" for why in REWRITES),
    )
    files[f"{info}/METADATA"] = metadata.encode()
    files[f"{info}/WHEEL"] = WHEEL.encode()
    wheel = out / f"detectron2-{VERSION}-py3-none-any.whl"
    _write_wheel(wheel, files, record=f"{info}/RECORD")
    return wheel


def rewrite(text: str) -> str:
    """A module's text with ``REWRITES``, in order, and a note of them, as its licence asks."""
    reasons = []
    for why, replacements in REWRITES.items():
        before = text
        for pattern, replacement in replacements.items():
            text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
        if text != before:
            reasons.append(why)
    if reasons:
        note = "; ".join(reasons)
        text += f"\n# Changed by LRFormer's tools/install_detectron2.py: {note}.\n"
    return text


def _write_wheel(wheel: Path, files: Mapping[str, bytes], record: str) -> None:
    files, rows = dict(sorted(files.items())), []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(content)}\n")
    files[record] = "".join([*rows, f"{record},,\n"]).encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        # Fixed order, date, permissions and no compression: the bytes are the same everywhere.
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, date_time=(2021, 6, 8, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
