"""Whose weights a file holds: recognised by the parameters' names, and given our names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from torch import Tensor

from lrformer.layers import MIT_VARIANTS, VARIANTS

from .names import from_old_mask2former, from_released, is_released, to_released
from .peers import from_rtformer, from_segformer
from .reading import WeightsError


class Layout(Enum):
    """The kinds of checkpoints that are told apart; the values are for people."""

    OURS = "a checkpoint of this project"
    OURS_IMAGENET = "an ImageNet backbone under this project's names"
    RELEASED = "a released LRFormer checkpoint (mmsegmentation layout)"
    RELEASED_PLUS = "a released LRFormer+ checkpoint (mmsegmentation layout)"
    RELEASED_IMAGENET = "a released ImageNet backbone"
    SEGFORMER = "a SegFormer checkpoint"
    SEGFORMER_IMAGENET = "an ImageNet backbone of SegFormer"
    RTFORMER = "a released RTFormer checkpoint"
    RTFORMER_IMAGENET = "a released ImageNet backbone of RTFormer"
    MASK2FORMER = "a detectron2-format Mask2Former checkpoint with another backbone"
    OTHER = "a checkpoint of another project"

    @property
    def is_imagenet(self) -> bool:
        """Whether it is a backbone trained to classify images."""
        return self.name.endswith("IMAGENET")

    @property
    def is_ours(self) -> bool:
        """Whether the names are this project's."""
        return self in (Layout.OURS, Layout.OURS_IMAGENET)

    @property
    def is_released(self) -> bool:
        """Whether the names are those of LRFormer's authors."""
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

    is_hugging_face = some("segformer.encoder.")
    is_rtformer = any(name.endswith("layer4.attn_l.k") for name in names)
    has_head = some("decode_head.", "seghead.")
    is_plus = some("decode_head.pixel_decoder.", "decode_head.transformer_decoder.")
    signs = {
        Layout.OURS: some(
            "backbone.stem.conv1.", "backbone.stem.proj.", "backbone.layer4.attn_l.k.weight"
        ),
        Layout.OURS_IMAGENET: some("stem.conv1.", "stem.proj.") and some("stages.0.blocks."),
        Layout.RELEASED_PLUS if is_plus else Layout.RELEASED: is_released(names),
        Layout.RELEASED_IMAGENET: some("patch_embed1.conv1."),
        Layout.SEGFORMER: some("backbone.patch_embed1.proj.", "backbone.layers.0.0.projection.")
        or (is_hugging_face and has_head),
        Layout.SEGFORMER_IMAGENET: some("patch_embed1.proj.", "layers.0.0.projection.")
        or (is_hugging_face and not has_head),
        Layout.RTFORMER: is_rtformer and has_head,
        Layout.RTFORMER_IMAGENET: is_rtformer and not has_head,
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
    tensors, unknown = _translated(weights, layout)
    if layout.is_imagenet:
        # No model here has the classifier, which keeps its name.
        own = ("head.", "backbone.")
        prefixes = {name: "" if name.startswith(own) else "backbone." for name in tensors}
        tensors = {prefixes[name] + name: tensor for name, tensor in tensors.items()}
    if layout is Layout.MASK2FORMER:
        tensors = {from_old_mask2former(name): tensor for name, tensor in tensors.items()}
    return Weights(layout, tensors, unknown)


def rename(weights: Mapping[str, Tensor], to: str | None, file: str | Path) -> Weights:
    """A file's weights under the names of the same kind of file of ``to``: "ours" or "released".

    None keeps the names, of any file.

    Raises:
        WeightsError: there are no such names for these weights.
    """
    layout = recognise(weights, file)
    if to is None or (layout.is_ours if to == "ours" else layout.is_released):
        return Weights(layout, dict(weights))
    if to == "ours" and layout not in (Layout.MASK2FORMER, Layout.OTHER):
        return Weights(layout, *_translated(weights, layout))
    if layout.is_ours and (describe_backbone(to_ours(weights).tensors) or "").count("LRFormer"):
        return Weights(layout, *to_released(weights))
    names = "released names" if to == "released" else "names"
    raise WeightsError(f"--layout {to}: {file} is {layout.value}; no {names} of it are known here")


def _translated(weights: Mapping[str, Tensor], layout: Layout) -> tuple[dict, list[str]]:
    """Our names but for ImageNet files' ``backbone.``, and the names that have no counterpart."""
    if layout.is_released:
        return from_released(weights)
    if layout in (Layout.SEGFORMER, Layout.SEGFORMER_IMAGENET):
        return from_segformer(weights)
    if layout in (Layout.RTFORMER, Layout.RTFORMER_IMAGENET):
        return from_rtformer(weights)
    return dict(weights), []


# By the channels and blocks of the stages.
_VARIANTS = {
    (variant["embed_dims"], variant["depths"]): name
    for variants, names in (
        (VARIANTS, [f"LRFormer-{letter}" for letter in ("T", "S", "B", "L", "XL")]),
        (MIT_VARIANTS, [f"MiT-B{number}" for number in range(6)]),
    )
    for variant, name in zip(variants.values(), names, strict=True)
}


def describe_backbone(tensors: Mapping[str, Tensor]) -> str | None:
    """Which LRFormer, MiT or RTFormer these weights (our name -> tensor) have; None: none."""
    if (first := tensors.get("backbone.conv1.0.weight")) is not None:
        name = {32: "RTFormer-Slim", 64: "RTFormer-Base"}.get(len(first), "an RTFormer")
        return f"{name} ({len(first)} channels)"
    stems = ("backbone.stem.conv4.weight", "backbone.stem.proj.weight")
    embeddings = [name for name in stems if name in tensors]
    if not embeddings:
        return None
    embeddings += [f"backbone.stages.{i}.embed.proj.weight" for i in (1, 2, 3)]
    channels = tuple(len(tensors[name]) if name in tensors else 0 for name in embeddings)
    parts = [name.split(".") for name in tensors if name.startswith("backbone.stages.")]
    blocks = {(part[2], part[4]) for part in parts if part[3] == "blocks"}
    depths = tuple(sum(stage == n for stage, _ in blocks) for n in "0123")
    kind = "an LRFormer" if embeddings[0] == stems[0] else "a MiT"
    name = _VARIANTS.get((channels, depths), kind)
    return f"{name} (channels {_list(channels)}; blocks {_list(depths)})"


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
