"""Mask2Former's pixel decoder (arXiv 2112.01527, section 3.2 and appendix A).

A deformable transformer encoder over the coarse features, then an FPN up to the mask features.
"""

import math
from collections.abc import Callable, Sequence

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from ...layers.common import resize
from ...ops.deform_attn import Shapes, check_backend
from ..norm import norm_layer
from .ms_deform_attn import MSDeformAttn
from .position_encoding import sine_position_map

NUM_LEVELS = 3  # maps that the transformer decoder attends to, in turn


class DeformableEncoderLayer(nn.Module):
    """x ← norm(x + attention(x + position)), x ← norm(x + FFN(x)), on NxSxC tokens.

    Args:
        dim, num_levels, num_heads, num_points, backend: of :class:`MSDeformAttn`.
        feedforward_dim: hidden channels of the FFN.
        dropout: on both branches and inside the FFN.
    """

    def __init__(
        self,
        dim: int,
        feedforward_dim: int,
        *,
        num_levels: int,
        num_heads: int,
        num_points: int,
        dropout: float,
        backend: str,
    ):
        super().__init__()
        self.self_attn = MSDeformAttn(dim, num_levels, num_heads, num_points, backend)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, *geometry) -> Tensor:
        """NxSxC to NxSxC; ``geometry``: as :class:`DeformableEncoder` has it."""
        reference_points, spatial_shapes, pixel_sizes = geometry
        attended = self.self_attn(x + position, reference_points, x, spatial_shapes, pixel_sizes)
        x = self.norm1(x + self.dropout(attended))
        hidden = self.dropout(F.relu(self.linear1(x)))
        return self.norm2(x + self.dropout(self.linear2(hidden)))


class _Layers(nn.Module):
    """Holds the layers under the published name ``encoder.layers``."""

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)


class DeformableEncoder(nn.Module):
    """Deformable self-attention over the tokens of several maps at once.

    Args:
        dim, layer: of :class:`DeformableEncoderLayer`.
        num_layers: how many.
        num_levels: maps.
    """

    def __init__(self, dim: int, num_layers: int, num_levels: int, **layer):
        super().__init__()
        self.encoder = _Layers(
            [DeformableEncoderLayer(dim, num_levels=num_levels, **layer) for _ in range(num_layers)]
        )
        self.level_embed = nn.Parameter(torch.empty(num_levels, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, DeformableEncoderLayer):
                nn.init.xavier_uniform_(module.linear1.weight)
                nn.init.xavier_uniform_(module.linear2.weight)
        nn.init.normal_(self.level_embed)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """NxCxHxW maps to maps of the same sizes, in channels-last memory."""
        shapes = [(x.shape[-2], x.shape[-1]) for x in maps]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
        position = self._positions(shapes, tokens)
        geometry = _reference_points(shapes, tokens), shapes, _pixel_sizes(shapes, tokens)
        for layer in self.encoder.layers:
            tokens = layer(tokens, position, *geometry)
        levels = tokens.split([h * w for h, w in shapes], dim=1)
        # Permuted last: a transposed view of one image is not recognised as channels-last.
        return [
            level.unflatten(1, size).permute(0, 3, 1, 2)
            for level, size in zip(levels, shapes, strict=True)
        ]

    def _positions(self, shapes: Shapes, tokens: Tensor) -> Tensor:
        """Position encodings and level embeddings of all tokens, SxC."""
        dim = tokens.shape[-1]
        encodings = [
            sine_position_map(h, w, dim, tokens.device).flatten(0, 1) + embedding
            for (h, w), embedding in zip(shapes, self.level_embed, strict=True)
        ]
        return torch.cat(encodings).to(tokens.dtype)


def _reference_points(shapes: Shapes, like: Tensor) -> Tensor:
    """Centre of every token's pixel, Sx2 as (x, y) in [0, 1], float32."""

    def centres(length: int) -> Tensor:
        return (torch.arange(length, dtype=torch.float32, device=like.device) + 0.5) / length

    grids = [torch.meshgrid(centres(h), centres(w), indexing="ij") for h, w in shapes]
    return torch.cat([torch.stack([x.flatten(), y.flatten()], dim=-1) for y, x in grids])


def _pixel_sizes(shapes: Shapes, like: Tensor) -> Tensor:
    """(1 / width, 1 / height) of every level, Lx2, float32."""
    # Filled on the device: a copy from the CPU would be waited for, and breaks CUDA graphs.
    sizes = [like.new_full((), side, dtype=torch.float32) for h, w in shapes for side in (w, h)]
    return torch.stack(sizes).reciprocal().view(-1, 2)


@SEM_SEG_HEADS_REGISTRY.register()
class MSDeformAttnPixelDecoder(nn.Module):
    """Backbone features to three refined maps and the mask features.

    Under autocast the convolutions and linear layers run in low precision; softmax, sampling
    positions and the sampling itself stay in float32 (the published code runs all of it in float32,
    for lack of a half-precision kernel).
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        transformer_in_features: Sequence[str],
        conv_dim: int,
        mask_dim: int,
        common_stride: int,
        norm: Callable[[int], nn.Module | None],
        num_layers: int,
        num_heads: int = 8,
        num_points: int = 4,
        feedforward_dim: int = 1024,
        dropout: float = 0.0,
        backend: str = "auto",
    ):
        """
        Args:
            input_shape: the backbone's features to use.
            transformer_in_features: those that the deformable encoder refines.
            conv_dim: channels of all maps, divisible by 32 (GroupNorm) and ``num_heads``.
            mask_dim: channels of the mask features.
            common_stride: stride of the mask features.
            norm: channels to the norm of the FPN's convolutions, or to None.
            num_layers, num_heads, num_points, feedforward_dim, dropout: of the encoder.
            backend: of :func:`ms_deform_attn`.

        Raises:
            ValueError: a feature that is not there, or strides between which there is no FPN.
        """
        super().__init__()
        check_backend(backend)
        shapes = dict(sorted(input_shape.items(), key=lambda item: item[1].stride))
        coarse = [name for name in shapes if name in transformer_in_features]
        if len(coarse) != len(transformer_in_features):
            raise ValueError(
                "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES is "
                f"{list(transformer_in_features)}, but MODEL.SEM_SEG_HEAD.IN_FEATURES has only "
                f"{', '.join(shapes)}"
            )
        self.encoder_features = coarse[::-1]
        self.input_proj = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(shapes[name].channels, conv_dim, kernel_size=1),
                nn.GroupNorm(32, conv_dim),
            )
            for name in self.encoder_features
        )
        for conv, _ in self.input_proj:
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)
        self.transformer = DeformableEncoder(
            conv_dim,
            num_layers,
            len(coarse),
            num_heads=num_heads,
            num_points=num_points,
            feedforward_dim=feedforward_dim,
            dropout=dropout,
            backend=backend,
        )

        finest = shapes[coarse[0]].stride
        fpn_levels = int(math.log2(finest / common_stride))
        self.fpn_features = list(shapes)[:fpn_levels]
        strides = [shapes[name].stride for name in self.fpn_features]
        if strides != [common_stride * 2**i for i in range(fpn_levels)]:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE is {common_stride}, but IN_FEATURES "
                f"{', '.join(f'{name} (stride {s.stride})' for name, s in shapes.items())} do not "
                f"lead there from stride {finest} by halves"
            )
        for i, name in enumerate(self.fpn_features, start=1):
            self.add_module(f"adapter_{i}", self._conv(shapes[name].channels, conv_dim, 1, norm))
            self.add_module(f"layer_{i}", self._conv(conv_dim, conv_dim, 3, norm, F.relu))
        self.mask_features = Conv2d(conv_dim, mask_dim, kernel_size=1)
        weight_init.c2_xavier_fill(self.mask_features)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        keys = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": {
                name: shape for name, shape in input_shape.items() if name in keys.IN_FEATURES
            },
            "transformer_in_features": keys.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES,
            "conv_dim": keys.CONVS_DIM,
            "mask_dim": keys.MASK_DIM,
            "common_stride": keys.COMMON_STRIDE,
            "norm": norm_layer(keys.NORM, cfg.MODEL.DEVICE),
            "num_layers": keys.TRANSFORMER_ENC_LAYERS,
            # As published, these two belong to both decoders.
            "num_heads": cfg.MODEL.MASK_FORMER.NHEADS,
            "dropout": cfg.MODEL.MASK_FORMER.DROPOUT,
            "num_points": keys.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
            "backend": keys.MS_DEFORM_ATTN_BACKEND,
        }

    def forward_features(self, features: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Refine the backbone's features.

        Args:
            features: NxCxhxw maps by name.

        Returns:
            The mask features, Nx``mask_dim``xHxW at ``common_stride``, and the ``NUM_LEVELS``
            coarsest maps, Nx``conv_dim``xhxw, coarse to fine.
        """
        inputs = [
            project(features[name])
            for project, name in zip(self.input_proj, self.encoder_features, strict=True)
        ]
        maps = self.transformer(inputs)
        for i in range(len(self.fpn_features), 0, -1):
            x = getattr(self, f"adapter_{i}")(features[self.fpn_features[i - 1]])
            x = x + resize(maps[-1], x.shape[-2:])
            maps.append(getattr(self, f"layer_{i}")(x))
        return self.mask_features(maps[-1]), maps[:NUM_LEVELS]

    @staticmethod
    def _conv(in_dim: int, dim: int, size: int, norm: Callable, activation=None) -> Conv2d:
        layer = norm(dim)
        conv = Conv2d(
            in_dim,
            dim,
            kernel_size=size,
            padding=size // 2,
            bias=layer is None,
            norm=layer,
            activation=activation,
        )
        weight_init.c2_xavier_fill(conv)
        return conv
