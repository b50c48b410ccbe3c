"""Checkpoints to other names, to another format, or to their mean."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .layouts import Layout, Weights, describe_backbone, recognise, rename, to_ours
from .reading import FileContents, WeightsError, find_file, read_weights
from .report import summary
from .writing import replacing

SUFFIXES = (".pth", ".pt", ".safetensors")

# Entries beside the tensors that say something of the model; the next, of these weights. The rest
# is state of a training.
_OF_MODEL = ("meta", "settings", "__author__", "matching_heuristics")
_OF_WEIGHTS = ("best", "iteration", "epoch")


def convert(
    inputs: Sequence[str | Path],
    output: str | Path,
    layout: str | None = None,
    overwrite: bool = False,
    allow_pickle: bool = False,
) -> list[str]:
    """Write weights, without the state of their training, to another file.

    Args:
        inputs: paths or URLs, see :func:`lrformer.checkpoint.reading.read_file`. Of several, which
            have to be of one model, the mean is written.
        output: its suffix is the format: .pth, .pt or .safetensors.
        layout: whose names to write, "ours" or "released"; None keeps them.
        overwrite: whether ``output`` may exist; an input is never overwritten.
        allow_pickle: as :func:`lrformer.checkpoint.reading.read_file`.

    Returns:
        What was done, in lines for people.

    Raises:
        FileNotFoundError: there is no such input, or no such folder for the output.
        WeightsError: an input or ``output`` cannot be used, or the inputs do not go together.
    """
    output = Path(output)
    _check_output([find_file(path) for path in inputs], output, overwrite)
    lines = []
    contents = _read(inputs[0], allow_pickle, lines)
    kept = (*_OF_MODEL, *_OF_WEIGHTS)
    if len(inputs) > 1:
        contents.weights = _mean(contents.weights, inputs, allow_pickle, lines)
        kept = _OF_MODEL
    weights = rename(contents.weights, layout, inputs[0])
    if weights.unknown:
        lines.append(
            f"left out, as the other layout has no such parameter ({len(weights.unknown)}): "
            f"{summary(weights.unknown)}"
        )
    extras = {k: v for k, v in contents.extras.items() if k in kept and _is_plain(v)}
    if dropped := [str(key) for key in contents.extras if key not in extras]:
        lines.append(f"left out, as it is not weights: {', '.join(dropped)}")
    _write(output, weights, extras)
    lines.append(_describe("wrote", output, weights.tensors))
    return lines


def _check_output(inputs: Sequence[Path], output: Path, overwrite: bool) -> None:
    if output.suffix not in SUFFIXES:
        raise WeightsError(f"{output}: the output's suffix has to be one of {', '.join(SUFFIXES)}")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output}: there is no folder {output.parent}")
    if output.exists() and any(output.samefile(file) for file in inputs):
        raise WeightsError(f"{output} is an input; give the output another name")
    if output.exists() and not overwrite:
        raise WeightsError(f"{output} exists; give another name, or --overwrite")


def _read(path: str | Path, allow_pickle: bool, lines: list[str]) -> FileContents:
    contents = read_weights(path, allow_pickle)
    lines.append(_describe("read", path, contents.weights))
    return contents


def _describe(what: str, file: str | Path, tensors: dict[str, Tensor]) -> str:
    weights = to_ours(tensors, file)
    backbone = describe_backbone(weights.tensors)
    count = sum(tensor.numel() for tensor in tensors.values())
    size = sum(tensor.nbytes for tensor in tensors.values())
    return (
        f"{what} {file}: {weights.layout.value}{f', {backbone}' if backbone else ''}; "
        f"{len(tensors)} tensors, {count / 1e6:.2f} M numbers, {size / 1e6:.1f} MB"
    )


def _mean(
    first: dict[str, Tensor], inputs: Sequence[str | Path], allow_pickle: bool, lines: list[str]
) -> dict[str, Tensor]:
    """Of the floating-point tensors, computed in float64; of the others the first's."""
    sums = {name: tensor.double() for name, tensor in first.items() if tensor.is_floating_point()}
    shapes = {name: tensor.shape for name, tensor in first.items()}
    for path in inputs[1:]:
        other = _read(path, allow_pickle, lines).weights
        differing = shapes.items() ^ {name: tensor.shape for name, tensor in other.items()}.items()
        if differing:
            raise WeightsError(
                f"{path} is of another model than {inputs[0]}, so that they have no mean; they "
                f"differ in {summary(sorted({name for name, _ in differing}))}"
            )
        for name, total in sums.items():
            total += other[name]
    lines.append(
        f"mean of {len(inputs)} checkpoints; the statistics of BatchNorms are means, too, and "
        "counters are those of the first"
    )
    means = {name: total / len(inputs) for name, total in sums.items()}
    return {name: means.get(name, tensor).to(tensor.dtype) for name, tensor in first.items()}


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _write(output: Path, weights: Weights, extras: dict[str, Any]) -> None:
    # Each with memory of its own, as safetensors needs it and as small files have it.
    tensors = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in weights.tensors.items()
    }
    is_mmsegmentation = recognise(tensors) in (Layout.RELEASED, Layout.RELEASED_PLUS)
    with replacing(output) as partial:
        if output.suffix == ".safetensors":
            texts = {key: json.dumps(value, ensure_ascii=False) for key, value in extras.items()}
            save_file(tensors, partial, metadata={"format": "pt", **texts})
        else:
            torch.save({"state_dict" if is_mmsegmentation else "model": tensors, **extras}, partial)
