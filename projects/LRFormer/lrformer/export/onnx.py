"""Writing ONNX files."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from .quantize import quantize_onnx

MIN_OPSET = 18
OPSET = 20  # the first with GELU, which is one kernel of ONNX Runtime then


def write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    output: str,
    opset: int = OPSET,
    metadata: Mapping[str, str] | None = None,
    calibration: Sequence[Tensor] = (),
) -> None:
    """Write a function of one tensor as an ONNX file, whose sizes are dynamic where its own are.

    Args:
        program: the function.
        path: the file; weights of more than 2 GB come to lie beside it.
        output: name of the output, of which there is one.
        opset: of ONNX.
        metadata: texts that the file carries.
        calibration: images to quantize to int8 with, see :func:`quantize_onnx`; none: do not.
    """
    with _quiet("onnxscript", "onnx_ir", "torch.onnx"):
        found = torch.onnx.export(
            program, dynamo=True, opset_version=opset, output_names=[output], verbose=False
        )
    found.model.metadata_props.update(metadata or {})
    if calibration:
        quantize_onnx(found.model_proto, path, calibration)
    else:
        found.save(path)


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """The exporter reports its progress and what it cannot simplify, also where all is well."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    try:
        for logger in levels:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
