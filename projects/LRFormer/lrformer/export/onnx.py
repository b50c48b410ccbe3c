"""Writing ONNX files."""

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MIN_OPSET = 18
OPSET = 20  # the first with GELU, which is one kernel of ONNX Runtime then


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
    program: torch.export.ExportedProgram, path: Path, output: str, opset: int = OPSET
) -> None:
    """Write a function of one tensor as an ONNX file, whose sizes are dynamic where its own are.

    Args:
        program: the function.
        path: the file; weights of more than 2 GB come to lie beside it.
        output: name of the output, of which there is one.
        opset: of ONNX.
    """
    with _quiet("onnxscript", "onnx_ir", "torch.onnx"):
        torch.onnx.export(
            program, dynamo=True, opset_version=opset, output_names=[output], verbose=False
        ).save(path)


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
