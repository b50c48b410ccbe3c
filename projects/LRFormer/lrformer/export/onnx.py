"""Writing ONNX files."""

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MIN_OPSET = 18


class ExportError(ValueError):
    """A model that cannot be exported like this; the message is one line."""


def check_packages() -> None:
    """Raise ExportError where a package that ONNX files are written or run with is missing."""
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise ExportError(
            f"ONNX needs {' and '.join(missing)}, not installed here: pip install "
            f"{' '.join(missing)}, or pip install 'lrformer[export]'"
        )


def write_onnx(
    module: nn.Module | torch.export.ExportedProgram,
    example: Tensor,
    path: Path,
    *,
    dynamic_shapes: dict | None = None,
    opset: int = MIN_OPSET,
    output: str | None = None,
) -> None:
    """Write a function of one tensor as an ONNX file.

    Args:
        module: in eval mode, or already exported.
        example: its input.
        path: the file; weights of more than 2 GB come to lie beside it.
        dynamic_shapes: of :func:`torch.export.export`; where it is None the sizes are fixed, or as
            ``module`` was exported.
        opset: of ONNX.
        output: name of the output, of which there is one.
    """
    if not isinstance(module, torch.export.ExportedProgram):
        with torch.no_grad():
            module = torch.export.export(module, (example,), dynamic_shapes=dynamic_shapes)
    with _quiet():
        program = torch.onnx.export(
            module,
            dynamo=True,
            opset_version=opset,
            output_names=None if output is None else [output],
            verbose=False,
        )
        program.save(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its progress and what it cannot simplify, also where all is well."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
