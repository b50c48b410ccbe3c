"""Whose weights a file holds: recognised by the parameters' names, and given our names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from torch import Tensor

from lrformer.layers import VARIANTS

from .names import from_old_mask2former, from_released, is_released, to_released
from .reading import WeightsError


class Layout(Enum):
    """The kinds of checkpoints that are told apart; the values are for people."""

    OURS = "a checkpoint of this project"
    OURS_IMAGENET = "an ImageNet backbone under this project's names"
    RELEASED = "a released LRFormer checkpoint (mmsegmentation layout)"
    RELEASED_PLUS = "a released LRFormer+ checkpoint (mmsegmentation layout)"
    RELEASED_IMAGENET = "a released ImageNet backbone"
    MASK2FORMER = "a detectron2-format Mask2Former checkpoint with another backbone"
    OTHER = "a checkpoint of another project"

    @property
    def is_imagenet(self) -> bool:
        """Whether it is a backbone trained to classify images."""
        return self in (Layout.OURS_IMAGENET, Layout.RELEASED_IMAGENET)

    @property
    def is_ours(self) -> bool:
        """Whether the names are this project's."""
        return self in (Layout.OURS, Layout.OURS_IMAGENET)

    @property
    def is_released(self) -> bool:
        """Whether the names are the authors'."""
        return self.name.startswith("RELEASED")


@dataclass
class Weights:
    """A file's weights under other names, and what of the file has no such name."""

    layout: Layout
    tensors: dict[str, Tensor]
    unknown: list[str] = field(default_factory=list)


def recognise(names: Iterable[str], file: str | Path = "the file") -> Layout:
    """The layout that has the parameter names in a file.

    Raises:
        WeightsError: some are of one layout, some of another; it names the file.
    """
    names = set(names)

    def some(*starts: str) -> bool:
        return any(name.startswith(starts) for name in names)

    is_plus = some("decode_head.pixel_decoder.", "decode_head.transformer_decoder.")
    signs = {
        Layout.OURS: some("backbone.stem.conv1."),
        Layout.OURS_IMAGENET: some("stem.conv1.") and some("stages.0.blocks."),
        Layout.RELEASED_PLUS if is_plus else Layout.RELEASED: is_released(names),
        Layout.RELEASED_IMAGENET: some("patch_embed1.conv1."),
    }
    found = [layout for layout, is_there in signs.items() if is_there]
    if len(found) > 1:
        kinds = " and ".join(layout.value for layout in found)
        raise WeightsError(f"{file}: the names are a mixture of {kinds}; expected one model's")
    if found:
        return found[0]
    return Layout.MASK2FORMER if some("sem_seg_head.predictor.transformer_") else Layout.OTHER


def to_ours(weights: Mapping[str, Tensor], file: str | Path = "the file") -> Weights:
    """A file's weights, of any layout, under the names that a model of this project has.

    Raises:
        WeightsError: see :func:`recognise`.
    """
    layout = recognise(weights, file)
    tensors, unknown = from_released(weights) if layout.is_released else (dict(weights), [])
    if layout.is_imagenet:
        # No model here has the classifier, which keeps its name.
        prefixes = {name: "" if name.startswith("head.") else "backbone." for name in tensors}
        tensors = {prefixes[name] + name: tensor for name, tensor in tensors.items()}
    if layout is Layout.MASK2FORMER:
        tensors = {from_old_mask2former(name): tensor for name, tensor in tensors.items()}
    return Weights(layout, tensors, unknown)


def rename(weights: Mapping[str, Tensor], to: str | None, file: str | Path) -> Weights:
    """A file's weights under the names of the same kind of file of ``to``: "ours" or "released".

    None keeps the names, of any file.

    Raises:
        WeightsError: these are not LRFormer's weights.
    """
    layout = recognise(weights, file)
    if to is None or (layout.is_ours if to == "ours" else layout.is_released):
        return Weights(layout, dict(weights))
    if not (layout.is_ours or layout.is_released):
        raise WeightsError(
            f"--layout {to}: {file} is {layout.value} and holds no LRFormer, which alone has names "
            "of both layouts"
        )
    return Weights(layout, *(to_released if layout.is_ours else from_released)(weights))


# By the channels of the stages.
_VARIANTS = {
    variant["embed_dims"]: letter
    for variant, letter in zip(VARIANTS.values(), ("T", "S", "B", "L", "XL"), strict=True)
}


def describe_backbone(tensors: Mapping[str, Tensor]) -> str | None:
    """Which LRFormer these weights (our name -> tensor) have, in words; None: none."""
    embeddings = ["backbone.stem.conv4.weight"]
    embeddings += [f"backbone.stages.{i}.embed.proj.weight" for i in (1, 2, 3)]
    if embeddings[0] not in tensors:
        return None
    channels = tuple(len(tensors[name]) if name in tensors else 0 for name in embeddings)
    parts = [name.split(".") for name in tensors if name.startswith("backbone.stages.")]
    blocks = {(part[2], part[4]) for part in parts if part[3] == "blocks"}
    depths = ", ".join(str(sum(stage == n for stage, _ in blocks)) for n in "0123")
    name = f"LRFormer-{_VARIANTS[channels]}" if channels in _VARIANTS else "an LRFormer"
    return f"{name} (channels {', '.join(map(str, channels))}; blocks {depths})"
