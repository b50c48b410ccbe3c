"""Post-training quantization to int8."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from torch import Tensor

from ..data import load_dataset
from ..data.build import build_mapper
from ..data.reading import IMAGE_SUFFIXES


def calibration_images(cfg: CfgNode, source: str, count: int) -> list[Tensor]:
    """Images as the model is given them in tests, evenly spread over a dataset or a folder.

    Args:
        cfg: says how images are prepared.
        source: name of a registered dataset, or a folder of images.
        count: how many, at most; 1 or more.

    Returns:
        3xHxW uint8 tensors.

    Raises:
        ValueError: there is no such dataset or folder, no image in it, or one cannot be read.
    """
    if Path(source).is_dir():
        files = sorted(x for x in Path(source).rglob("*") if x.suffix.lower() in IMAGE_SUFFIXES)
        records = [{"file_name": str(file)} for file in files]
    elif source in DatasetCatalog:
        records = load_dataset(source)
    else:
        raise ValueError(f"{source} is neither a folder of images nor a registered dataset")
    if not records:
        raise ValueError(f"{source}: no image to calibrate on")
    step = -(-len(records) // count)
    mapper = build_mapper(cfg, is_train=False)
    return [mapper(record)["image"] for record in records[::step]]


# NNCF would quantize them too, which costs accuracy and saves no time; products of quantized maps
# without the sums around them are also wrong in OpenVINO 2026.4 where sizes are dynamic.
_FLOAT = ("Add", "Divide", "Interpolate", "MatMul", "Multiply", "MVN", "ReduceMean", "Subtract")


def quantized_openvino(model: Any, images: Sequence[Tensor]) -> Any:
    """A float32 model of OpenVINO with its convolutions in int8, by NNCF.

    Args:
        model: of one input.
        images: Nx3xHxW each, of the input's data type; the ranges of activations are theirs.
    """
    import nncf

    return nncf.quantize(
        model,
        nncf.Dataset(images, lambda x: x.numpy()),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(types=list(_FLOAT), validate=False),
        subset_size=len(images),
    )


def quantize_onnx(model: Any, path: Path, images: Sequence[Tensor]) -> None:
    """Write a float32 ONNX model as ``path``, with convolutions and products in int8.

    By ONNX Runtime's own quantization: NNCF takes no ONNX graphs whose sizes are dynamic.

    Args:
        model: ``onnx.ModelProto`` of one input, "image".
        images: as above.
    """
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        rest = iter(images)

        def get_next(self) -> dict | None:
            image = next(self.rest, None)
            return None if image is None else {"image": image.numpy()}

    quantization.quantize_static(
        model,
        path,
        Images(),
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
    )
