"""Parameter names of the authors' released checkpoints, and what they are called here."""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from . import released_plus

# Positions in the released stem, a Sequential of convolutions, BatchNorms and GELUs.
_STEM = {"0": "conv1", "1": "norm1", "3": "conv2", "4": "norm2", "6": "conv3", "7": "norm3"}
_STEM["9"] = "conv4"

# The parts of a block, released -> ours.
_BLOCK = {
    "attn.q.0": "attn.q",  # in the backbone
    "attn.q": "attn.q",  # in the head, where it is a 1x1 convolution
    "attn.kv.0": "attn.kv",
    "attn.kv": "attn.kv",
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


def _block(prefix: str, rest: str) -> str | None:
    if scale := re.fullmatch(r"layer_scale_([12])", rest):
        return f"{prefix}.scale{scale[1]}.gamma"
    part, _, leaf = rest.rpartition(".")
    return f"{prefix}.{_BLOCK[part]}.{leaf}" if part in _BLOCK else None


def _stage(number: str) -> str:
    return f"backbone.stages.{int(number) - 1}"


# Pattern of a released name, and our name (None: no such part) from the match.
_RULES: list[tuple[str, Callable[[re.Match], str | None]]] = [
    (
        r"backbone\.patch_embed1\.conv1\.(\d+)\.(\w+)",
        lambda m: f"backbone.stem.{_STEM[m[1]]}.{m[2]}" if m[1] in _STEM else None,
    ),
    (r"backbone\.patch_embed1\.norm\.(\w+)", lambda m: f"backbone.stem.norm4.{m[1]}"),
    (r"backbone\.patch_embed([234])\.(.+)", lambda m: f"{_stage(m[1])}.embed.{m[2]}"),
    (r"backbone\.d_convs([1234])\.(.+)", lambda m: f"{_stage(m[1])}.pyramid_convs.{m[2]}"),
    (
        r"backbone\.block([1234])\.(\d+)\.(.+)",
        lambda m: _block(f"{_stage(m[1])}.blocks.{m[2]}", m[3]),
    ),
    (r"decode_head\.conv_seg\.(\w+)", lambda m: f"sem_seg_head.predictor.{m[1]}"),
    (r"decode_head\.squeeze([12])\.conv\.(\w+)", lambda m: f"sem_seg_head.squeeze{m[1]}.{m[2]}"),
    (r"decode_head\.squeeze([12])\.bn\.(\w+)", lambda m: f"sem_seg_head.squeeze{m[1]}.norm.{m[2]}"),
    (r"decode_head\.fuse_block([12])\.(.+)", lambda m: _block(f"sem_seg_head.block{m[1]}", m[2])),
    *released_plus.RULES,
]


def is_released(names: Mapping | set) -> bool:
    """Whether these are the names of a released segmentation checkpoint."""
    return any(name.startswith("backbone.patch_embed1.conv1.") for name in names)


def translate(name: str) -> str | None:
    """Our name for a released one, or None where this project has no such parameter."""
    for pattern, ours in _RULES:
        if match := re.fullmatch(pattern, name):
            return ours(match)
    return None


def from_released(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A released model's parameters under our names and in our shapes.

    Args:
        state_dict: released name -> tensor.

    Returns:
        Our name -> tensor, and the released names that have no counterpart here.
    """
    converted, unknown = {}, []
    for name, tensor in state_dict.items():
        ours = translate(name)
        if ours is None:
            unknown.append(name)
            continue
        if ours.endswith("attn.q.weight"):  # a 1x1 convolution there, a linear layer here
            tensor = tensor.reshape(tensor.shape[:2])
        converted[ours] = tensor
    return converted, unknown
