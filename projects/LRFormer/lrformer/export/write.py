"""Export of a model to a file, checked against the model."""

import importlib.util
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import SemanticSegmentor
from torch import Tensor, nn

from .. import __version__
from ..inference.class_map import argmax
from ..inference.exported import ExportedModel, FileInfo
from ..layers.common import resize
from ..modeling.mask2former import MaskFormer
from ..precision import DTYPES
from .graph import RESULTS, SegmentationGraph
from .onnx import MIN_OPSET, OPSET, write_onnx
from .openvino import write_openvino

logger = logging.getLogger(__name__)


class ExportError(ValueError):
    """A model that cannot be exported like this; the message is one line."""


@dataclass(frozen=True)
class Format:
    """A kind of file: its name, its data types, and packages that write it or run it."""

    name: str
    dtypes: tuple[str, ...]
    packages: tuple[str, ...] = ()


FORMATS = {
    ".onnx": Format("ONNX", ("float32", "float16", "int8"), ("onnx", "onnxscript", "onnxruntime")),
    ".xml": Format("OpenVINO", ("float32", "float16", "int8"), ("openvino",)),
    ".pt2": Format("torch.export", tuple(DTYPES)),
}
EXPORT_DTYPES = (*DTYPES, "int8")
IMAGES = {"uint8": torch.uint8, "float32": torch.float32}

# Sides that are no multiples of 32, so that the padding is traced too.
_TRACED = (2, 3, 91, 150)
# (height, width) of the checks: one wide, one tall, both padded, both with maps to be pooled.
CHECK_SIZES = ((203, 349), (420, 266))
# Relative errors ||a - b|| / ||b|| up to which scores count as the same, of SemanticSegmentor and
# of MaskFormer, which cuts masks at a threshold that rounding can pass; and the share of pixels
# that may have another class.
_LIMITS = {
    "float32": (1e-4, 1e-3, 1e-3),
    "float16": (0.02, 0.1, 0.05),
    "bfloat16": (0.1, 0.3, 0.2),
    "int8": (0.3, 0.5, 0.2),
}


@dataclass(frozen=True)
class ExportOptions:
    """What to export.

    Attributes:
        result: "logits", float32 NxKxhxw at the head's stride, of images padded to multiples of
            the model's divisor; "scores", the same at the image's size; "classes", the class of
            every pixel, NxHxW, uint8 (int32 for more than 256 classes). LRFormer+'s logits and
            scores are the sum over queries of class probability times mask.
        image: data type of the image, "uint8" or "float32"; its values are 0 to 255 in both.
        dtype: of weights and computation, see :data:`FORMATS`. In OpenVINO "float16" is of the
            weights; what it computes in is said when the file is run.
        opset: of ONNX.
    """

    result: str = "scores"
    image: str = "uint8"
    dtype: str = "float32"
    opset: int = OPSET

    def __post_init__(self):
        known = {"result": RESULTS, "image": tuple(IMAGES), "dtype": EXPORT_DTYPES}
        for name, names in known.items():
            if getattr(self, name) not in names:
                raise ExportError(
                    f"there is no {name} {getattr(self, name)!r}, only {', '.join(names)}"
                )
        if self.opset < MIN_OPSET:
            raise ExportError(
                f"opset {self.opset} is too old: PyTorch's exporter writes {MIN_OPSET} or newer"
            )


@dataclass(frozen=True)
class Check:
    """What the file predicts for an image against what the model does.

    Attributes:
        size: (height, width) of the image.
        error: ||a - b|| / ||b|| of the scores; None where classes are exported.
        agreement: share of the pixels with the same class.
    """

    size: tuple[int, int]
    error: float | None
    agreement: float


def export_model(
    cfg: CfgNode,
    model: nn.Module,
    path: str | Path,
    options: ExportOptions | None = None,
    check_sizes: Sequence[tuple[int, int]] = CHECK_SIZES,
    calibration: Sequence[Tensor] = (),
) -> list[Check]:
    """Write a semantic segmentation model as one function of a batch of images, and check it.

    The function takes ``image``, Nx3xHxW in the model's channel order with values of 0 to 255, and
    normalises, pads to multiples of 32 and crops inside. N, H and W may be any size. The file also
    holds a :class:`~lrformer.inference.exported.FileInfo`.

    Args:
        cfg: of the model; names of classes and how images are resized are taken from it.
        model: detectron2's ``SemanticSegmentor`` or :class:`MaskFormer`, in eval mode; it stays as
            it is.
        path: the file; its suffix says which of the :data:`FORMATS`.
        options: what to export.
        check_sizes: (height, width) of images, one each, on which the file's predictions are
            compared with the model's: of random pixels, and for int8 those of ``calibration``,
            resized. None of these sizes is the traced one.
        calibration: 3xHxW uint8 images from which int8 has the ranges of activations.

    Returns:
        A check for each size.

    Raises:
        ExportError: the model or the options cannot be exported so, a package is missing, or the
            file's predictions differ; then nothing is written.
    """
    options, path = options or ExportOptions(), Path(path)
    check_file(path, options)
    if not path.parent.is_dir():
        raise ExportError(f"cannot write {path}: there is no folder {path.parent}")
    if (options.dtype == "int8") != bool(calibration):
        raise ExportError("int8, and nothing else, needs images to calibrate on")
    divisor = _check_model(model)
    # int8 and OpenVINO's float16 are made from a graph in float32.
    native = options.dtype in DTYPES and path.suffix != ".xml"
    dtype = DTYPES[options.dtype] if native else torch.float32
    engine = "openvino" if path.suffix == ".xml" else None
    graph = SegmentationGraph(model, divisor, dtype, options.result, engine)
    info = FileInfo.from_cfg(
        cfg,
        version=__version__,
        result=options.result,
        stride=graph.stride(),
        image=options.image,
        divisor=divisor,
    )
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        # Its name is kept: one file may refer to another by name.
        partial = Path(folder) / path.name
        _write(graph, partial, options, info, calibration)
        exported = ExportedModel(partial, device=model.device if path.suffix == ".pt2" else "cpu")
        images = [_check_image(size, calibration) for size in check_sizes]
        checks = [_check(model, exported, image, options) for image in images]
        for file in Path(folder).iterdir():
            os.replace(file, path.parent / file.name)
    return checks


def check_file(path: Path, options: ExportOptions) -> None:
    """Raise ExportError where the format cannot be so, or not be written here."""
    if path.suffix not in FORMATS:
        raise ExportError(
            f"{path}: which format is said by the name's end, "
            f"{' or '.join(f'{end} ({format.name})' for end, format in FORMATS.items())}"
        )
    format = FORMATS[path.suffix]
    if options.dtype not in format.dtypes:
        hint = ""
        if (path.suffix, options.dtype) == (".xml", "bfloat16"):
            hint = "; export float32 and run it with TEST.RUNTIME.DTYPE bfloat16"
        names = ", ".join(format.dtypes)
        raise ExportError(f"{options.dtype} is not for {path.suffix}, but {names}{hint}")
    int8 = (options.dtype, path.suffix) == ("int8", ".xml")
    packages = (*format.packages, *(["nncf"] if int8 else []))
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise ExportError(
            f"{options.dtype} in {format.name} needs {' and '.join(missing)}, not installed here: "
            f"pip install {' '.join(missing)}, or pip install 'lrformer[export]'"
        )
    if path.is_dir():
        raise ExportError(f"cannot write {path}: it is a folder")


def _check_model(model: nn.Module) -> int:
    """What the model's images are padded to multiples of."""
    if not isinstance(model, (SemanticSegmentor, MaskFormer)):
        raise ExportError(
            f"a {type(model).__name__} cannot be exported, only a SemanticSegmentor or a "
            "MaskFormer; wrappers for sliding windows and test-time augmentation stay outside"
        )
    if model.training:
        raise ExportError("the model is in training mode; call .eval() first")
    if isinstance(model, MaskFormer):
        divisor, key = model.size_divisibility, "MODEL.MASK_FORMER.SIZE_DIVISIBILITY"
        segments = " and ".join(x for x in ("instance", "panoptic") if getattr(model, f"{x}_on"))
        if not model.semantic_on:
            raise ExportError(
                f"the model predicts {segments} segments only, of which every image has another "
                "number; semantic scores can be exported: set "
                "MODEL.MASK_FORMER.TEST.SEMANTIC_ON to True"
            )
        if segments:
            logger.warning(
                f"semantic scores are exported, not the {segments} segments, of which every image "
                "has another number"
            )
    else:
        divisor, key = model.backbone.size_divisibility, "the backbone's size_divisibility"
    if divisor < 32 or divisor % 32:
        raise ExportError(f"{key} is {divisor}; only multiples of 32 can be exported")
    return divisor


def _write(
    graph: SegmentationGraph,
    path: Path,
    options: ExportOptions,
    info: FileInfo,
    calibration: Sequence[Tensor],
) -> None:
    dtype = IMAGES[options.image]
    example = torch.randint(256, _TRACED, device=graph.pixel_mean.device).to(dtype)
    axes = ((0, "batch"), (2, "height"), (3, "width"))
    sizes = {axis: torch.export.Dim(name) for axis, name in axes}
    with torch.no_grad():
        program = torch.export.export(graph, (example,), dynamic_shapes={"image": sizes})
    batches = [image[None].to(dtype) for image in calibration]
    if path.suffix == ".pt2":
        torch.export.save(program, path, extra_files=info.dump())
    elif path.suffix == ".onnx":
        write_onnx(program, path, options.result, options.opset, info.dump(), batches)
    else:
        half = options.dtype == "float16"
        write_openvino(program, path, options.result, half, info.dump(), batches)


def _check_image(size: tuple[int, int], calibration: Sequence[Tensor]) -> Tensor:
    """3 x ``size`` uint8."""
    if calibration:  # Others have not the ranges that int8 was made for.
        return resize(calibration[0][None].float(), size)[0].to(torch.uint8)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator)


def _check(
    model: nn.Module, exported: ExportedModel, image: Tensor, options: ExportOptions
) -> Check:
    size = tuple(image.shape[1:])
    x = {"image": image, "height": size[0], "width": size[1]}
    with torch.no_grad():
        expected = model([x])[0]["sem_seg"].float().cpu()
    *errors, other_class = _LIMITS[options.dtype]
    if options.result == "classes":
        error, classes = None, exported.class_maps([x])[0].cpu()
    else:
        found = exported([x])[0]["sem_seg"].cpu()
        error, classes = float((found - expected).norm() / expected.norm()), argmax(found)
    agreement = float((classes == argmax(expected)).float().mean())
    limit = errors[isinstance(model, MaskFormer)]
    # Scores that are not finite compare as False.
    if not (agreement >= 1 - other_class if error is None else error <= limit):
        raise ExportError(
            f"the exported model differs from the model on an image of {size[0]} x {size[1]}: "
            + (f"relative error {error:.1e} (limit {limit:g}), " if error is not None else "")
            + f"{100 * agreement:.2f} % of the pixels have the same class; nothing was written"
        )
    return Check(size, error, agreement)
