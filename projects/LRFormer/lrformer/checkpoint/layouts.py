"""Whose weights a file holds: recognised by the parameters' names, and given our names."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from torch import Tensor

from lrformer.layers.variants import VARIANTS

from .reading import WeightsError
from .released import from_released, is_released, to_released

_BACKBONE = "backbone."


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


@dataclass
class Weights:
    """A file's weights under our names, and what of the file has no such name."""

    layout: Layout
    tensors: dict[str, Tensor]
    unknown: list[str] = field(default_factory=list)


def recognise(names: Iterable[str]) -> Layout:
    """The layout that has these parameter names.

    Raises:
        WeightsError: some are of one layout, some of another.
    """
    names = set(names)

    def some(*starts: str) -> bool:
        return any(name.startswith(starts) for name in names)

    is_plus = some("decode_head.pixel_decoder.", "decode_head.transformer_decoder.")
    found = [
        layout
        for layout, there in {
            Layout.OURS: some("backbone.stem.conv1."),
            Layout.OURS_IMAGENET: some("stem.conv1.") and some("stages.0.blocks."),
            Layout.RELEASED: is_released(names) and not is_plus,
            Layout.RELEASED_PLUS: is_released(names) and is_plus,
            Layout.RELEASED_IMAGENET: some("patch_embed1.conv1."),
        }.items()
        if there
    ]
    if len(found) > 1:
        raise WeightsError(
            "the names are a mixture of "
            + " and ".join(layout.value for layout in found)
            + "; expected those of one model"
        )
    if found:
        return found[0]
    return Layout.MASK2FORMER if some("sem_seg_head.predictor.transformer_") else Layout.OTHER


def to_ours(weights: Mapping[str, Tensor]) -> Weights:
    """Weights of any layout under the names that a model of this project has.

    Raises:
        WeightsError: see :func:`recognise`.
    """
    layout = recognise(weights)
    if layout in (Layout.RELEASED, Layout.RELEASED_PLUS):
        return Weights(layout, *from_released(weights))
    if layout is Layout.RELEASED_IMAGENET:
        return Weights(layout, *_of_bare_names(from_released, weights))
    if layout is Layout.OURS_IMAGENET:
        own = [name for name in weights if name.startswith(("stem.", "stages."))]
        unknown = [name for name in weights if name not in own]
        return Weights(layout, {_BACKBONE + name: weights[name] for name in own}, unknown)
    if layout is Layout.MASK2FORMER:
        return Weights(layout, {_todays_mask2former(k): v for k, v in weights.items()})
    return Weights(layout, dict(weights))


def rename(weights: Mapping[str, Tensor], to: str) -> Weights:
    """Weights under the names of the same kind of file of this project or of the authors.

    Args:
        weights: of LRFormer, under the names of either.
        to: "ours" or "released".

    Raises:
        WeightsError: these are not LRFormer's weights.
    """
    layout = recognise(weights)
    if layout in (Layout.MASK2FORMER, Layout.OTHER):
        raise WeightsError(
            f"it is {layout.value} and holds no LRFormer, which alone has names of both layouts"
        )
    if layout.is_ours == (to == "ours"):
        return Weights(layout, dict(weights))
    change = to_released if layout.is_ours else from_released
    if not layout.is_imagenet:
        return Weights(layout, *change(weights))
    # The classifier has the same name in both.
    head = {name: tensor for name, tensor in weights.items() if name.startswith("head.")}
    renamed, unknown = _of_bare_names(change, weights)
    renamed = {name.removeprefix(_BACKBONE): tensor for name, tensor in renamed.items()}
    return Weights(layout, renamed | head, [name for name in unknown if name not in head])


def _of_bare_names(
    change: Callable, weights: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """``change`` of weights whose names lack the ``backbone.`` that it expects and gives."""
    changed, unknown = change({_BACKBONE + name: tensor for name, tensor in weights.items()})
    return changed, [name.removeprefix(_BACKBONE) for name in unknown]


def _todays_mask2former(name: str) -> str:
    # The first published checkpoints spell these differently.
    name = re.sub(r"^sem_seg_head\.(?!pixel_decoder\.|predictor\.)", r"\g<0>pixel_decoder.", name)
    return name.replace(".predictor.static_query.", ".predictor.query_feat.")


# By the channels of the stages.
_VARIANTS = {
    variant["embed_dims"]: letter
    for variant, letter in zip(VARIANTS.values(), ("T", "S", "B", "L", "XL"), strict=True)
}


def describe_backbone(tensors: Mapping[str, Tensor]) -> str | None:
    """Which LRFormer these weights have, in words, or None where they have none.

    Args:
        tensors: our name -> tensor; only the shapes matter.
    """
    first = tensors.get("backbone.stem.conv4.weight")
    if first is None:
        return None
    embeddings = [tensors.get(f"backbone.stages.{i}.embed.proj.weight") for i in (1, 2, 3)]
    channels = tuple(0 if w is None else len(w) for w in (first, *embeddings))
    blocks = [set(), set(), set(), set()]
    for name in tensors:
        if match := re.match(r"backbone\.stages\.([0-3])\.blocks\.(\d+)\.", name):
            blocks[int(match[1])].add(match[2])
    name = f"LRFormer-{_VARIANTS[channels]}" if channels in _VARIANTS else "an LRFormer"
    return (
        f"{name} (channels {', '.join(map(str, channels))}; "
        f"blocks {', '.join(str(len(x)) for x in blocks)})"
    )
