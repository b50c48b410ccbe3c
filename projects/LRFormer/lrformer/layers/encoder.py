"""The LRFormer encoder: a stem and four stages of blocks (paper, Fig. 4 and Tab. 2)."""

import math
from collections.abc import Callable, Sequence

from timm.layers import calculate_drop_path_rates, trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .block import LRFormerBlock
from .embed import PatchEmbed, Stem
from .feed_forward import depthwise_conv


class Stage(nn.Module):
    """Patch embedding (but in the first stage), then blocks that share pyramid convolutions."""

    def __init__(self, embed: nn.Module, blocks: Sequence[LRFormerBlock], dim: int, levels: int):
        super().__init__()
        self.embed = embed
        self.pyramid_convs = nn.ModuleList(depthwise_conv(dim) for _ in range(levels))
        self.blocks = nn.ModuleList(blocks)
        self.activation_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, self.pyramid_convs, use_reentrant=False)
            else:
                x = block(x, self.pyramid_convs)
        return x


class LRFormerEncoder(nn.Module):
    """Image to feature maps of strides 4, 8, 16 and 32. The defaults are LRFormer-T.

    A stage's output is its residual stream: no norm follows the last block.

    Args:
        in_chans: channels of the image.
        embed_dims, depths, num_heads, mlp_ratios: channels, blocks, attention heads and FFN
            expansion of each stage.
        layer_scale_init: initial layer scale of each stage's blocks; 0 leaves it out.
        pre_norm_blocks: for each stage, indices of blocks that start with ``norm``.
        pooled_size: short side m of the map in which attention is computed.
        pyramid_sizes: short sides of the key/value pyramid for m = 16.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0 at the first.
        positional_conv, ffn_conv: False leaves that depth-wise convolution out (paper, Tab. 9).
        norm: channels to the norm layer of the stem and of ``pre_norm_blocks``.
        num_stages: how many stages to build; the drop path of a block does not depend on it.

    Raises:
        ValueError: a list that has not one entry a stage, channels not divisible by heads, an index
            of a block that does not exist, a rate outside [0, 1).
    """

    def __init__(
        self,
        in_chans: int = 3,
        *,
        embed_dims: Sequence[int] = (48, 96, 240, 384),
        depths: Sequence[int] = (2, 2, 6, 3),
        num_heads: Sequence[int] = (2, 4, 10, 16),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        layer_scale_init: Sequence[float] = (0.0, 0.0, 1e-6, 1e-6),
        pre_norm_blocks: Sequence[Sequence[int]] = ((), (), (), ()),
        pooled_size: int = 16,
        pyramid_sizes: Sequence[int] = (11, 8, 6, 4),
        drop_path_rate: float = 0.0,
        positional_conv: bool = True,
        ffn_conv: bool = True,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        num_stages: int = 4,
    ):
        super().__init__()
        _check(
            embed_dims=embed_dims,
            depths=depths,
            num_heads=num_heads,
            mlp_ratios=mlp_ratios,
            layer_scale_init=layer_scale_init,
            pre_norm_blocks=pre_norm_blocks,
            pooled_size=pooled_size,
            pyramid_sizes=pyramid_sizes,
            drop_path_rate=drop_path_rate,
        )
        self.embed_dims = tuple(embed_dims[:num_stages])
        rates = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        self.stem = Stem(in_chans, embed_dims[0], norm)
        self.stages = nn.Sequential()
        for i, dim in enumerate(self.embed_dims):
            blocks = [
                LRFormerBlock(
                    dim,
                    num_heads[i],
                    mlp_ratio=mlp_ratios[i],
                    pooled_size=pooled_size,
                    pyramid_sizes=pyramid_sizes,
                    drop_path=next(rates),
                    layer_scale_init=layer_scale_init[i],
                    pre_norm=norm if j in pre_norm_blocks[i] else None,
                    positional_conv=positional_conv,
                    ffn_conv=ffn_conv,
                )
                for j in range(depths[i])
            ]
            embed = PatchEmbed(embed_dims[i - 1], dim) if i else nn.Identity()
            self.stages.append(Stage(embed, blocks, dim, len(pyramid_sizes)))
        self.apply(init_weights)

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


def _check(**values) -> None:
    """The encoder's arguments, each error naming the argument and the detectron2 config key."""

    def fail(name: str, problem: str):
        raise ValueError(f"{name} (config key MODEL.LRFORMER.{name.upper()}) {problem}")

    stages = len(values["embed_dims"])
    if stages != 4:
        fail("embed_dims", f"needs 4 entries, one a stage; it has {stages}: {values['embed_dims']}")
    for name in ("depths", "num_heads", "mlp_ratios", "layer_scale_init", "pre_norm_blocks"):
        if len(values[name]) != stages:
            fail(name, f"needs {stages} entries, one a stage, as embed_dims has: {values[name]}")
    for name in ("embed_dims", "depths", "num_heads", "mlp_ratios", "pyramid_sizes"):
        if any(value <= 0 for value in values[name]):
            fail(name, f"must be positive throughout: {values[name]}")
    for i, (dim, heads) in enumerate(zip(values["embed_dims"], values["num_heads"], strict=True)):
        if dim % heads:
            fail("num_heads", f"entry {i}: {heads} heads do not divide embed_dims' {dim} channels")
    for i, blocks in enumerate(values["pre_norm_blocks"]):
        depth = values["depths"][i]
        if any(not 0 <= block < depth for block in blocks):
            fail(
                "pre_norm_blocks",
                f"entry {i}: {blocks}, but that stage has blocks 0 to {depth - 1}",
            )
    if values["pooled_size"] < 1:
        fail("pooled_size", f"must be at least 1, not {values['pooled_size']}")
    if not values["pyramid_sizes"]:
        fail("pyramid_sizes", "needs at least one level")
    if not 0 <= values["drop_path_rate"] < 1:
        fail("drop_path_rate", f"must lie in [0, 1), not {values['drop_path_rate']}")
