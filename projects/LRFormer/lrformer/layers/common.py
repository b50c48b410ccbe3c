"""What the encoders have in common. Maps are N x C x H x W."""

import math
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]  # channels to a norm layer for maps


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize (align_corners=False) of an NxCxHxW map to ``size`` = (height, width)."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def tokens(x: Tensor) -> Tensor:
    """NxCxHxW to Nx(HW)xC: a view where ``x`` is channels-last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_map(x: Tensor, size: Sequence[int]) -> Tensor:
    """Nx(HW)xC to NxCxHxW with ``size`` = (H, W), in channels-last memory."""
    return x.unflatten(1, tuple(size)).permute(0, 3, 1, 2)


def conv3x3(in_dim: int, dim: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_dim, dim, kernel_size=3, stride=stride, padding=1, groups=groups)


def depthwise_conv(dim: int) -> nn.Conv2d:
    return conv3x3(dim, dim, groups=dim)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention of the positions of a map to tokens, with linear projections.

    Args:
        dim: channels, divisible by ``num_heads``.
        num_heads: attention heads.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """NxCxHxW queries and NxTxC keys and values to NxCxHxW, in channels-last memory."""
        q, (k, v) = self.q(tokens(x)), self.kv(context).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        return to_map(self.proj(out.transpose(1, 2).flatten(2)), x.shape[-2:])


class StagedEncoder(nn.Module):
    """Base of encoders of a ``stem`` to stride 4 and ``stages`` of strides 4, 8, 16 and 32.

    Attributes:
        embed_dims: channels of the stages.
    """

    embed_dims: tuple[int, ...]
    stem: nn.Module
    stages: nn.Sequential

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass rather than keep their activations."""
        for stage in self.stages:
            stage.activation_checkpointing = enable

    def forward_stages(self, x: Tensor, stop: int | None = None) -> list[Tensor]:
        """The maps of the stages, NxCxH'xW' with H' = ceil(H / stride).

        Args:
            x: Nx``in_chans``xHxW image.
            stop: how many stages to compute; None computes all.
        """
        x = self.stem(x)
        maps = []
        for stage in self.stages[:stop]:
            x = stage(x)
            maps.append(x)
        return maps


def init_weights(module: nn.Module) -> None:
    """Truncated normal (0.02) for linear layers, fan-out normal for convolutions, biases 0."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check_stages(
    node: str,
    embed_dims: Sequence[int],
    depths: Sequence[int],
    num_heads: Sequence[int],
    mlp_ratios: Sequence[float],
    drop_path_rate: float,
    **others: Sequence[int],
) -> None:
    """Raise ValueError, with the key of MODEL.``node``, where such stages cannot be."""
    lists = {
        "embed_dims": embed_dims,
        "depths": depths,
        "num_heads": num_heads,
        "mlp_ratios": mlp_ratios,
        **others,
    }
    for name, values in lists.items():
        expect(len(values) == 4, node, name, f"needs 4 entries, one a stage: {values}")
        expect(min(values) > 0, node, name, f"needs positive entries: {values}")
    for dim, heads in zip(embed_dims, num_heads, strict=True):
        problem = f": {heads} heads do not divide {dim} channels"
        expect(dim % heads == 0, node, "num_heads", problem)
    problem = f"must lie in [0, 1), not {drop_path_rate}"
    expect(0 <= drop_path_rate < 1, node, "drop_path_rate", problem)


def expect(good: bool, node: str, name: str, problem: str) -> None:
    """Raise ValueError of an argument and its config key below MODEL.``node`` unless ``good``."""
    if not good:
        raise ValueError(f"{name} (config key MODEL.{node}.{name.upper()}) {problem}")
