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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


class WheelError(Exception):
    """What is wrong with the original wheel, for the person at the terminal."""


@dataclass(frozen=True)
class Rewrite:
    """One change to the sources.

    ``counts`` gives, for every file of the package in which ``pattern`` (a regular expression) is
    expected, how often; a match more or less, there or in any other module, is an error.
    """

    why: str
    pattern: str
    replacement: str
    counts: Mapping[str, int]


REWRITES = (
    Rewrite(
        "the version says what this build is",
        r'__version__ = "0\.4"',
        f'__version__ = "{VERSION}"',
        {"detectron2/__init__.py": 1},
    ),
    Rewrite(
        "Pillow 10 removed Image.LINEAR",
        r"\bImage\.LINEAR\b",
        "Image.BILINEAR",
        {"detectron2/data/transforms/transform.py": 1},
    ),
    Rewrite(
        "NumPy 1.24 removed its aliases of Python's types",
        r"\bnp\.(bool|int|float|object|str)\b",
        r"\1",
        {
            "detectron2/data/build.py": 2,
            "detectron2/data/datasets/pascal_voc.py": 1,
            "detectron2/evaluation/pascal_voc_evaluation.py": 2,
            "detectron2/evaluation/sem_seg_evaluation.py": 7,
            "detectron2/structures/masks.py": 2,
            "detectron2/utils/video_visualizer.py": 1,
            "detectron2/utils/visualizer.py": 3,
        },
    ),
    Rewrite(
        "in NumPy 2, copy=False refuses to copy instead of avoiding it",
        r"np\.array\((\w+), copy=False\)",
        r"np.asarray(\1)",
        {"detectron2/layers/mask_ops.py": 1},
    ),
    Rewrite(
        "NumPy 2 warns where np.array copies a tensor",
        r"pred = np\.array\(output, ",
        "pred = np.asarray(output, ",
        {"detectron2/evaluation/sem_seg_evaluation.py": 1},
    ),
    Rewrite(
        "setuptools 82 removed pkg_resources",
        r"^import pkg_resources$",
        "from importlib import resources",
        {"detectron2/model_zoo/model_zoo.py": 1},
    ),
    Rewrite(
        "setuptools 82 removed pkg_resources",
        r'pkg_resources\.resource_filename\(\s*("[\w.]+"), os\.path\.join\(([^()]*)\)\s*\)',
        r"str(resources.files(\1).joinpath(\2))",
        {"detectron2/model_zoo/model_zoo.py": 1},
    ),
    Rewrite(
        "torch.meshgrid warns where indexing is not given",
        r"torch\.meshgrid\(shifts_y, shifts_x\)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
        {"detectron2/modeling/anchor_generator.py": 1},
    ),
    Rewrite(
        "torch.meshgrid warns where indexing is not given",
        r"(y_coord, x_coord = torch\.meshgrid\(\n(?:        .*\n)+)(    \))",
        r'\1        indexing="ij",\n\2',
        {"detectron2/projects/panoptic_deeplab/post_processing.py": 1},
    ),
    Rewrite(
        "torch.cuda.amp is deprecated in favour of torch.amp",
        r"\bfrom torch\.cuda\.amp import (GradScaler|autocast)$",
        r"from torch.amp import \1",
        {"detectron2/engine/train_loop.py": 2},
    ),
    Rewrite(
        "torch.amp.autocast takes the device",
        r"with autocast\(\):",
        'with autocast("cuda"):',
        {"detectron2/engine/train_loop.py": 1},
    ),
    Rewrite(
        "its exporters need Caffe2, which PyTorch 2.4 no longer has",
        r"^from \.api import \*\n",
        "",
        {"detectron2/export/__init__.py": 1},
    ),
    Rewrite(
        "Logger.warn is deprecated",
        r"logger\.warn\(",
        "logger.warning(",
        {
            "detectron2/data/datasets/coco.py": 2,
            "detectron2/engine/defaults.py": 1,
            "detectron2/evaluation/coco_evaluation.py": 2,
            "detectron2/evaluation/lvis_evaluation.py": 2,
            "detectron2/evaluation/sem_seg_evaluation.py": 2,
        },
    ),
)

# Takes the place of the compiled module. Importing it also declares the operator
# torch.ops.detectron2.nms_rotated, which detectron2/layers/nms.py looks up when it is imported.
C_STAND_IN = '''\
"""Stands in for detectron2's compiled operators, which this pure-Python build does not have.

Written by LRFormer's tools/install_detectron2.py; not part of the original detectron2. The names of
the operators can be imported; calling one raises NotImplementedError.
"""

import torch

_OPERATORS = (
    "box_iou_rotated",
    "deform_conv_backward_filter",
    "deform_conv_backward_input",
    "deform_conv_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "nms_rotated",
    "roi_align_rotated_backward",
    "roi_align_rotated_forward",
)
# Used by COCOeval_opt only, which has an equivalent in pycocotools.
_FAST_COCO_EVAL = ("COCOevalAccumulate", "COCOevalEvaluateImages", "InstanceAnnotation")


def _missing(name, hint):
    def operator(*args, **kwargs):
        raise NotImplementedError(
            f"detectron2._C.{name} is a compiled operator, and this detectron2 is the pure-Python "
            f"build of LRFormer's tools/install_detectron2.py. {hint}"
        )

    operator.__name__ = name
    return operator


for _name in _OPERATORS:
    globals()[_name] = _missing(
        _name, "LRFormer needs none of them; for models that do, build detectron2 from its source."
    )
for _name in _FAST_COCO_EVAL:
    globals()[_name] = _missing(_name, "Give COCOEvaluator use_fast_impl=False.")


def get_compiler_version():
    return "none (pure-Python build)"


def get_cuda_version():
    return "none (pure-Python build)"


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
Classifier: License :: OSI Approved :: Apache Software License
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


def verify_sha256(file: Path, expected: str) -> None:
    """Raise :class:`WheelError` unless the SHA-256 of ``file`` is ``expected`` (hexadecimal)."""
    try:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise WheelError(f"cannot read the wheel {file}: {error.strerror}") from error
    if found != expected:
        raise WheelError(
            f"{file.name} is not the wheel this tool was written for, and is not used.\n"
            f"  expected SHA-256 {expected}\n  found    SHA-256 {found}\n"
            "Delete it (and pip's cached copy, with pip cache purge), then run this again, or "
            f"give a good copy of {SOURCE_WHEEL} with --wheel."
        )


def rewrite_sources(
    sources: Mapping[str, str], rewrites: Sequence[Rewrite] = REWRITES
) -> dict[str, str]:
    """Apply ``rewrites``, in order, to ``sources`` (file name to text) and return the new texts.

    A note of what was changed is appended to each changed file, as the Apache License asks.

    Raises:
        WheelError: a pattern is found more or less often than expected; names file and pattern.
    """
    texts = dict(sources)
    reasons: dict[str, list[str]] = {}
    problems = []
    for rewrite in rewrites:
        pattern = re.compile(rewrite.pattern, re.MULTILINE)
        for name in sorted({*texts, *rewrite.counts}):
            expected = rewrite.counts.get(name, 0)
            texts[name], found = pattern.subn(rewrite.replacement, texts.get(name, ""))
            if found != expected:
                problems.append(
                    f"  {name}: expected {expected}, found {found} of {rewrite.pattern!r}"
                )
            if found and rewrite.why not in reasons.setdefault(name, []):
                reasons[name].append(rewrite.why)
    if problems:
        raise WheelError(
            "the sources are not those the rewrites were written for; nothing was built:\n"
            + "\n".join(problems)
        )
    for name, whys in reasons.items():
        note = "; ".join(whys)
        texts[name] += f"\n# Changed by LRFormer's tools/install_detectron2.py: {note}.\n"
    return texts


def build_wheel(
    source: Path, out: Path, rewrites: Sequence[Rewrite] = REWRITES, sha256: str = SOURCE_SHA256
) -> Path:
    """Build the pure-Python wheel from the original one.

    Args:
        source: the original wheel.
        out: an existing folder for the new one. The same source gives the same bytes.
        rewrites: changes to the modules of ``source``.
        sha256: what ``source`` must hash to.

    Returns:
        The new wheel, ``out/detectron2-VERSION-py3-none-any.whl``.

    Raises:
        WheelError: ``source`` is another file, or its sources are not those expected.
    """
    verify_sha256(source, sha256)
    try:
        with zipfile.ZipFile(source) as archive:
            original = {
                info.filename: archive.read(info)
                for info in archive.infolist()
                if not info.is_dir() and not info.filename.endswith(".pyd")
            }
    except zipfile.BadZipFile as error:
        raise WheelError(f"{source} is not a wheel: {error}") from error

    licences = [name for name in original if name.endswith(".dist-info/LICENSE")]
    if len(licences) != 1:
        raise WheelError(f"{source.name} has {len(licences)} LICENSE files; expected 1")
    files = {
        name: content.replace(b"\r\n", b"\n")
        for name, content in original.items()
        if name.startswith("detectron2/")
    }
    modules = {name: text.decode() for name, text in files.items() if name.endswith(".py")}
    files.update((name, text.encode()) for name, text in rewrite_sources(modules, rewrites).items())
    files["detectron2/_C.py"] = C_STAND_IN.encode()

    info = f"detectron2-{VERSION}.dist-info"
    metadata = METADATA.format(
        version=VERSION,
        commit=COMMIT,
        source=source.name,
        sha256=sha256,
        requires="\n".join(f"Requires-Dist: {requirement}" for requirement in REQUIRES),
        changes="\n".join(f"- {why}" for why in dict.fromkeys(r.why for r in rewrites)),
    )
    files[f"{info}/LICENSE"] = original[licences[0]].replace(b"\r\n", b"\n")
    files[f"{info}/METADATA"] = metadata.encode()
    files[f"{info}/WHEEL"] = WHEEL.encode()
    files[f"{info}/top_level.txt"] = b"detectron2\n"

    wheel = out / f"detectron2-{VERSION}-py3-none-any.whl"
    _write_wheel(wheel, files, record=f"{info}/RECORD")
    return wheel


def _write_wheel(wheel: Path, files: Mapping[str, bytes], record: str) -> None:
    rows = []
    for name, content in sorted(files.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(content)}\n")
    rows.append(f"{record},,\n")
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        # Fixed order, date, permissions and no compression: the bytes are the same everywhere.
        for name, content in [*sorted(files.items()), (record, "".join(rows).encode())]:
            entry = zipfile.ZipInfo(name, date_time=(2021, 6, 8, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
