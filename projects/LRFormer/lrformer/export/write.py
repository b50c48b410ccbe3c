"""Export of a model to a file, checked against the model."""

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.modeling import SemanticSegmentor
from torch import Tensor, nn

from ..modeling.mask2former import MaskFormer
from ..precision import DTYPES
from .graph import SegmentationGraph
from .onnx import MIN_OPSET, OPSET, ExportError, check_packages, write_onnx

logger = logging.getLogger(__name__)

FORMATS = {".onnx": "ONNX", ".pt2": "torch.export"}
INPUTS = {"uint8": torch.uint8, "float32": torch.float32}
OUTPUTS = ("scores", "classes")

# Sides that are no multiples of 32, so that the padding is traced too.
_TRACED = (2, 3, 91, 150)
# (height, width) of the checks: one wide, one tall, both padded, both with maps to be pooled.
CHECK_SIZES = ((203, 349), (420, 266))
# Relative errors ||a - b|| / ||b|| up to which scores count as the same, of SemanticSegmentor and
# of MaskFormer, which cuts masks at a threshold that rounding can pass; and the share of pixels
# that may have another class.
_LIMITS = {"float32": (1e-4, 1e-3, 1e-3), "float16": (0.02, 0.1, 0.05), "bfloat16": (0.1, 0.3, 0.2)}


@dataclass(frozen=True)
class ExportOptions:
    """What to export.

    Attributes:
        output: "scores", float32 NxKxHxW (the plain model's logits; for LRFormer+ the sum over
            queries of class probability times mask), or "classes", the class of every pixel, NxHxW,
            uint8 (int32 for more than 256 classes).
        input: type of the image, "uint8" or "float32"; its values are 0 to 255 in both.
        dtype: of :data:`lrformer.precision.DTYPES`, for weights and computation; "bfloat16" not for
            ONNX, whose runtimes hardly compute in it.
        opset: of ONNX.
    """

    output: str = "scores"
    input: str = "uint8"
    dtype: str = "float32"
    opset: int = OPSET

    def __post_init__(self):
        known = {"output": OUTPUTS, "input": tuple(INPUTS), "dtype": tuple(DTYPES)}
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
    """The file's output on a random image against the model's.

    Attributes:
        size: (height, width) of the image.
        error: ||a - b|| / ||b|| of the scores; None where classes are exported.
        agreement: share of the pixels with the same class.
    """

    size: tuple[int, int]
    error: float | None
    agreement: float


def export_model(
    model: nn.Module,
    path: str | Path,
    options: ExportOptions | None = None,
    check_sizes: Sequence[tuple[int, int]] = CHECK_SIZES,
) -> list[Check]:
    """Write a semantic segmentation model as one function of a batch of images, and check it.

    The function takes ``image``, Nx3xHxW in the model's channel order with values of 0 to 255, and
    normalises, pads to multiples of 32 and crops inside. N, H and W may be any size.

    Args:
        model: detectron2's ``SemanticSegmentor`` or :class:`MaskFormer`, in eval mode; it stays as
            it is.
        path: the file; ".onnx" or ".pt2" says which of the :data:`FORMATS`.
        options: what to export.
        check_sizes: (height, width) of images, a random one each, on which the file's output is
            compared with the model's. None of these sizes is the traced one.

    Returns:
        A check for each size.

    Raises:
        ExportError: the model or the options cannot be exported so, a package is missing, or the
            file's outputs differ; then nothing is written.
    """
    options, path = options or ExportOptions(), Path(path)
    _check_path(path, options)
    divisor = _check_model(model)
    class_map = options.output == "classes"
    graph = SegmentationGraph(model, divisor, DTYPES[options.dtype], class_map)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        # Its name is kept: one file may refer to another by name.
        run = _write(graph, Path(folder) / path.name, options)
        checks = [_check(model, run, size, options) for size in check_sizes]
        for file in Path(folder).iterdir():
            os.replace(file, path.parent / file.name)
    return checks


def _check_path(path: Path, options: ExportOptions) -> None:
    if path.suffix not in FORMATS:
        raise ExportError(
            f"{path}: which format is said by the name's end, "
            f"{' or '.join(f'{end} ({name})' for end, name in FORMATS.items())}"
        )
    if path.suffix == ".onnx":
        if options.dtype == "bfloat16":
            raise ExportError("bfloat16 is for .pt2 only: ONNX's runtimes hardly compute in it")
        check_packages()
    if path.is_dir() or not path.parent.is_dir():
        problem = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise ExportError(f"cannot write {path}: {problem}")


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
    graph: SegmentationGraph, path: Path, options: ExportOptions
) -> Callable[[Tensor], Tensor]:
    """Write the file; what is returned runs it as it was written."""
    example = torch.randint(256, _TRACED, device=graph.pixel_mean.device).to(INPUTS[options.input])
    axes = ((0, "batch"), (2, "height"), (3, "width"))
    sizes = {axis: torch.export.Dim(name) for axis, name in axes}
    with torch.no_grad():
        program = torch.export.export(graph, (example,), dynamic_shapes={"image": sizes})
    if path.suffix == ".pt2":
        torch.export.save(program, path)
        return torch.export.load(path).module()
    write_onnx(program, path, options.output, options.opset)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.cpu().numpy()})[0])


def _check(
    model: nn.Module, run: Callable[[Tensor], Tensor], size: tuple[int, int], options: ExportOptions
) -> Check:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        expected = model([{"image": image, "height": size[0], "width": size[1]}])[0]["sem_seg"]
        found = run(image[None].to(INPUTS[options.input]).to(model.device))[0]
    expected, found = expected.float().cpu(), found.cpu()
    shape = expected.shape if options.output == "scores" else expected.shape[1:]
    if found.shape != shape:
        raise ExportError(
            f"the exported model's {options.output} are {tuple(found.shape)} for an image of "
            f"{size[0]} x {size[1]}, expected {tuple(shape)}"
        )
    *errors, other_class = _LIMITS[options.dtype]
    error, classes = None, found
    if options.output == "scores":
        error = float((found - expected).norm() / expected.norm())
        classes = found.argmax(0)
    agreement = float((classes == expected.argmax(0)).float().mean())
    limit = errors[isinstance(model, MaskFormer)]
    # Scores that are not finite compare as False.
    if not (agreement >= 1 - other_class if error is None else error <= limit):
        raise ExportError(
            f"the exported model differs from the model on an image of {size[0]} x {size[1]}: "
            + (f"relative error {error:.1e} (limit {limit:g}), " if error is not None else "")
            + f"{100 * agreement:.2f} % of the pixels have the same class; nothing was written"
        )
    return Check(size, error, agreement)
