"""Writing files of OpenVINO's intermediate representation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .quantize import quantized_openvino


def write_openvino(
    program: torch.export.ExportedProgram,
    path: Path,
    output: str,
    float16: bool = False,
    metadata: Mapping[str, str] | None = None,
    calibration: Sequence[Tensor] = (),
) -> None:
    """Write a function of one tensor as ``path``, an .xml file, and its weights as the .bin beside.

    Args:
        program: the function, in float32.
        path, output, metadata, calibration: as of :func:`~lrformer.export.onnx.write_onnx`.
        float16: halve the weights; what to compute in is chosen when the file is run.
    """
    import openvino

    model = openvino.convert_model(program)
    if calibration:
        model = quantized_openvino(model, calibration)
    model.output(0).set_names({output})
    for key, text in (metadata or {}).items():
        model.set_rt_info(text, [key])
    openvino.save_model(model, path, compress_to_fp16=float16)
