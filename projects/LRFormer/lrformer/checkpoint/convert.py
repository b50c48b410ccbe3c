"""Checkpoints to other names, to another format, or to their mean."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .layouts import Layout, Weights, describe_backbone, recognise, rename, to_ours
from .reading import FileContents, WeightsError, find_file, read_weights
from .report import summary

SUFFIXES = (".pth", ".pt", ".safetensors")

# Entries beside the tensors that say something of the weights; the rest is state of a training.
_KEPT_OF_SEVERAL = ("meta", "settings", "__author__", "matching_heuristics")
_KEPT = (*_KEPT_OF_SEVERAL, "best", "iteration", "epoch")

_MMSEGMENTATION = (Layout.RELEASED, Layout.RELEASED_PLUS)


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
        WeightsError: an input cannot be used, the inputs do not go together, or ``output`` cannot
            be written to.
    """
    output = Path(output)
    _check_output([find_file(path) for path in inputs], output, overwrite)
    lines = []
    contents = _read(inputs[0], allow_pickle, lines)
    extras = dict(contents.extras)
    kept = _KEPT
    if len(inputs) > 1:
        contents.weights = _mean(contents.weights, inputs, allow_pickle, lines)
        kept = _KEPT_OF_SEVERAL
        lines.append(
            f"mean of {len(inputs)} checkpoints; the statistics of BatchNorms are means, too, and "
            "counters are those of the first"
        )
    weights = Weights(recognise(contents.weights), contents.weights)
    if layout is not None:
        try:
            weights = rename(contents.weights, layout)
        except WeightsError as error:
            raise WeightsError(f"--layout {layout}: {inputs[0]}: {error}") from error
    if weights.unknown:
        lines.append(
            f"left out, as the other layout has no such parameter ({len(weights.unknown)}): "
            f"{summary(weights.unknown)}"
        )
    extras = {key: extras[key] for key in kept if key in extras and _is_plain(extras[key])}
    dropped = [key for key in contents.extras if key not in extras]
    if dropped:
        lines.append(f"left out, as it is not weights: {', '.join(map(str, dropped))}")
    _write(output, _separate(weights.tensors), extras)
    lines.append(_describe("wrote", output, weights.tensors))
    return lines


def _check_output(inputs: Sequence[Path], output: Path, overwrite: bool) -> None:
    if output.suffix not in SUFFIXES:
        raise WeightsError(f"{output}: the output's suffix has to be one of {', '.join(SUFFIXES)}")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output}: there is no folder {output.parent}")
    if not output.exists():
        return
    if output.is_dir():
        raise WeightsError(f"{output} is a folder; expected the name of a file to write")
    if any(output.samefile(file) for file in inputs):
        raise WeightsError(f"{output} is an input; give the output another name")
    if not overwrite:
        raise WeightsError(f"{output} exists; give another name, or --overwrite")


def _read(path: str | Path, allow_pickle: bool, lines: list[str]) -> FileContents:
    contents = read_weights(path, allow_pickle)
    try:
        lines.append(_describe("read", path, contents.weights))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return contents


def _describe(what: str, file: str | Path, tensors: dict[str, Tensor]) -> str:
    backbone = describe_backbone(to_ours(tensors).tensors)
    count = sum(tensor.numel() for tensor in tensors.values())
    size = sum(tensor.nbytes for tensor in tensors.values())
    return (
        f"{what} {file}: {recognise(tensors).value}{f', {backbone}' if backbone else ''}; "
        f"{len(tensors)} tensors, {count / 1e6:.2f} M numbers, {size / 1e6:.1f} MB"
    )


def _mean(
    first: dict[str, Tensor], inputs: Sequence[str | Path], allow_pickle: bool, lines: list[str]
) -> dict[str, Tensor]:
    """Of the floating-point tensors, computed in float64; of the others the first's."""
    sums = {name: tensor.double() for name, tensor in first.items() if tensor.is_floating_point()}
    for path in inputs[1:]:
        other = _read(path, allow_pickle, lines).weights
        differing = [
            name
            for name in first.keys() | other.keys()
            if name not in first or name not in other or first[name].shape != other[name].shape
        ]
        if differing:
            raise WeightsError(
                f"{path} is of another model than {inputs[0]}, so that they have no mean; they "
                f"differ in {summary(sorted(differing))}"
            )
        for name, total in sums.items():
            total += other[name]
    means = {name: total / len(inputs) for name, total in sums.items()}
    return {name: means.get(name, tensor).to(tensor.dtype) for name, tensor in first.items()}


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor with memory of its own, as safetensors needs it and as small files have it."""
    seen, separate = set(), {}
    for name, tensor in tensors.items():
        tensor = tensor.contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        separate[name] = tensor
    return separate


def _write(output: Path, tensors: dict[str, Tensor], extras: dict[str, Any]) -> None:
    # A crash while writing must not leave half a file under the name.
    partial = output.with_name(f"{output.name}.partial")
    try:
        if output.suffix == ".safetensors":
            texts = {key: json.dumps(value, ensure_ascii=False) for key, value in extras.items()}
            save_file(tensors, partial, metadata={"format": "pt", **texts})
        else:
            key = "state_dict" if recognise(tensors) in _MMSEGMENTATION else "model"
            torch.save({key: tensors, **extras}, partial)
        os.replace(partial, output)
    finally:
        partial.unlink(missing_ok=True)
