"""Parameter names of the authors' released checkpoints, and what they are called here."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from . import released_plus
from .names import NameMap, Names

_STAGE = {"1": "0", "2": "1", "3": "2", "4": "3"}
_LATER_STAGE = {"2": "1", "3": "2", "4": "3"}

# Positions in the released stem, a Sequential of convolutions, BatchNorms and GELUs.
_STEM = {"0": "conv1", "1": "norm1", "3": "conv2", "4": "norm2", "6": "conv3", "7": "norm3"}
_STEM["9"] = "conv4"

# The parts of a block, released -> ours.
_BLOCK = {
    "attn.q.0": "attn.q",
    "attn.kv.0": "attn.kv",
    "attn.proj": "attn.proj",
    "attn.norm": "attn.norm",
    "norm1": "norm1",
    "norm2": "norm2",
    "pre_norm": "pre_norm",
    "mlp.fc1": "ffn.fc1",
    "mlp.conv": "ffn.dwconv",
    "mlp.fc2": "ffn.fc2",
    "cpe": "positional_conv",
}
# Of the plain head's blocks.
_HEAD_BLOCK = {name.removesuffix(".0"): ours for name, ours in _BLOCK.items()}

_NAMES = NameMap(
    [
        Names(f"{released}.{{leaf}}", f"{ours}.{{leaf}}")
        for released, ours in {
            "backbone.patch_embed1.conv1.{stem}": "backbone.stem.{stem}",
            "backbone.patch_embed1.norm": "backbone.stem.norm4",
            "backbone.patch_embed{later}.proj": "backbone.stages.{later}.embed.proj",
            "backbone.patch_embed{later}.norm": "backbone.stages.{later}.embed.norm",
            "backbone.d_convs{stage}.{i}": "backbone.stages.{stage}.pyramid_convs.{i}",
            "backbone.block{stage}.{i}.{block}": "backbone.stages.{stage}.blocks.{i}.{block}",
            "decode_head.conv_seg": "sem_seg_head.predictor",
            "decode_head.squeeze{i}.conv": "sem_seg_head.squeeze{i}",
            "decode_head.squeeze{i}.bn": "sem_seg_head.squeeze{i}.norm",
            "decode_head.fuse_block{i}.{head_block}": "sem_seg_head.block{i}.{head_block}",
        }.items()
    ]
    + [
        Names(
            "backbone.block{stage}.{i}.layer_scale_{j}",
            "backbone.stages.{stage}.blocks.{i}.scale{j}.gamma",
        ),
        Names("decode_head.fuse_block{i}.layer_scale_{j}", "sem_seg_head.block{i}.scale{j}.gamma"),
    ]
    + released_plus.NAMES,
    {
        "stage": _STAGE,
        "later": _LATER_STAGE,
        "stem": _STEM,
        "block": _BLOCK,
        "head_block": _HEAD_BLOCK,
    },
)


def is_released(names: Iterable[str]) -> bool:
    """Whether these are the names of a released segmentation checkpoint."""
    return any(name.startswith("backbone.patch_embed1.conv1.") for name in names)


def from_released(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A released model's parameters under our names and in our shapes.

    Args:
        state_dict: released name -> tensor.

    Returns:
        Our name -> tensor, and the released names that have no counterpart here.
    """
    converted, unknown = {}, []
    for name, tensor in state_dict.items():
        ours = _NAMES.to_ours(name)
        if ours is None:
            unknown.append(name)
            continue
        if _is_head_query(ours):  # a 1x1 convolution there, a linear layer here
            tensor = tensor.reshape(tensor.shape[:2])
        converted[ours] = tensor
    return converted, unknown


def to_released(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The inverse of :func:`from_released`.

    Args:
        state_dict: our name -> tensor.

    Returns:
        Released name -> tensor, and our names that have no counterpart in the released models.
    """
    converted, unknown = {}, []
    for name, tensor in state_dict.items():
        released = _NAMES.to_released(name)
        if released is None:
            unknown.append(name)
            continue
        if _is_head_query(name):
            tensor = tensor.reshape(*tensor.shape[:2], 1, 1)
        converted[released] = tensor
    return converted, unknown


def _is_head_query(ours: str) -> bool:
    return ours.startswith("sem_seg_head.block") and ours.endswith(".attn.q.weight")
