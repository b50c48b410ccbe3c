"""Mask2Former's transformer decoder (arXiv 2112.01527, section 3.2): masked attention."""

from collections.abc import Sequence
from itertools import pairwise

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ...layers.common import resize
from .position_encoding import sine_position_map

TRANSFORMER_DECODER_REGISTRY = Registry("TRANSFORMER_MODULE")
TRANSFORMER_DECODER_REGISTRY.__doc__ = "Decoders for MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME."


class MultiheadAttention(nn.Module):
    """:class:`torch.nn.MultiheadAttention` with its parameters, for NxSxC tokens.

    It differs in taking one mask for all heads, so that none is stored for each.

    Args:
        dim: channels, divisible by ``num_heads``.
        num_heads: attention heads.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{dim} channels cannot be split over {num_heads} attention heads")
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        """Attend from NxQxC queries to NxSxC keys and values.

        Args:
            allowed: NxQxS bool, True where a query may attend to a key; None: everywhere. Each
                query needs one.

        Returns:
            NxQxC.
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        if allowed is not None:
            allowed = allowed.unsqueeze(1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class _Branch(nn.Module):
    """A residual branch, normalised after it or before it (``pre_norm``)."""

    def __init__(self, dim: int, pre_norm: bool):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.pre_norm = pre_norm

    def forward(self, x: Tensor, *args) -> Tensor:
        if self.pre_norm:
            return x + self.branch(self.norm(x), *args)
        return self.norm(x + self.branch(x, *args))

    def branch(self, x: Tensor, *args) -> Tensor:
        raise NotImplementedError


class CrossAttentionLayer(_Branch):
    """Queries attend to a map, each only inside its own mask."""

    def __init__(self, dim: int, num_heads: int, pre_norm: bool = False):
        super().__init__(dim, pre_norm)
        self.multihead_attn = MultiheadAttention(dim, num_heads)

    def branch(
        self, x: Tensor, query_embed: Tensor, key: Tensor, value: Tensor, allowed: Tensor
    ) -> Tensor:
        return self.multihead_attn(x + query_embed, key, value, allowed)


class SelfAttentionLayer(_Branch):
    """Queries attend to each other."""

    def __init__(self, dim: int, num_heads: int, pre_norm: bool = False):
        super().__init__(dim, pre_norm)
        self.self_attn = MultiheadAttention(dim, num_heads)

    def branch(self, x: Tensor, query_embed: Tensor) -> Tensor:
        query = x + query_embed
        return self.self_attn(query, query, x)


class FFNLayer(_Branch):
    """Linear, ReLU, linear."""

    def __init__(self, dim: int, hidden_dim: int, pre_norm: bool = False):
        super().__init__(dim, pre_norm)
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def branch(self, x: Tensor) -> Tensor:
        return self.linear2(F.relu(self.linear1(x)))


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int):
        super().__init__()
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


@TRANSFORMER_DECODER_REGISTRY.register()
class MultiScaleMaskedTransformerDecoder(nn.Module):
    """Learned queries refined by masked attention to the pixel decoder's maps, one map a layer.

    Before the first layer and after each, a query predicts a class and a mask; the mask restricts
    what the query attends to in the next layer.
    """

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        hidden_dim: int,
        num_queries: int,
        num_heads: int,
        feedforward_dim: int,
        num_layers: int,
        mask_dim: int,
        num_levels: int = 3,
        pre_norm: bool = False,
        enforce_input_project: bool = False,
    ):
        """
        Args:
            in_channels: of the maps.
            num_classes: without "no object", which is predicted too, last.
            hidden_dim, num_heads, feedforward_dim, num_layers: of the transformer.
            num_queries: how many segments an image can have at most.
            mask_dim: channels of the mask features.
            num_levels: maps.
            pre_norm: normalise branches before rather than after.
            enforce_input_project: project the maps although they have ``hidden_dim`` channels.
        """
        super().__init__()
        self.num_classes = num_classes
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(hidden_dim, num_heads, pre_norm) for _ in range(num_layers)
        )
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(hidden_dim, num_heads, pre_norm) for _ in range(num_layers)
        )
        self.transformer_ffn_layers = nn.ModuleList(
            FFNLayer(hidden_dim, feedforward_dim, pre_norm) for _ in range(num_layers)
        )
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.query_feat = nn.Embedding(num_queries, hidden_dim)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(num_levels, hidden_dim)
        self.input_proj = nn.ModuleList()
        for _ in range(num_levels):
            if in_channels != hidden_dim or enforce_input_project:
                self.input_proj.append(nn.Conv2d(in_channels, hidden_dim, kernel_size=1))
                weight_init.c2_xavier_fill(self.input_proj[-1])
            else:
                self.input_proj.append(nn.Identity())
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, 3)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> dict:
        keys = cfg.MODEL.MASK_FORMER
        return {
            "in_channels": in_channels,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "hidden_dim": keys.HIDDEN_DIM,
            "num_queries": keys.NUM_OBJECT_QUERIES,
            "num_heads": keys.NHEADS,
            "feedforward_dim": keys.DIM_FEEDFORWARD,
            "num_layers": keys.DEC_LAYERS - 1,  # the first prediction needs none
            "mask_dim": cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
            "pre_norm": keys.PRE_NORM,
            "enforce_input_project": keys.ENFORCE_INPUT_PROJ,
        }

    def forward(self, maps: Sequence[Tensor], mask_features: Tensor, aux: bool = True) -> dict:
        """Predict classes and masks.

        Args:
            maps: NxCxhxw, as many as ``num_levels``, in the order in which layers attend to them.
            mask_features: Nx``mask_dim``xHxW.
            aux: whether to return the predictions before the last layer too, for deep supervision.
                Without them those masks are only computed as large as attention needs them.

        Returns:
            {"pred_logits": NxQx(classes + 1), "pred_masks": NxQxHxW logits, "aux_outputs": list of
            the same two for every layer but the last, starting with the one before the first}.
        """
        keys, values = self._memory(maps)
        sizes = [x.shape[-2:] for x in maps]
        # Resizing commutes with the product of embeddings and features.
        small_features = None if aux else [resize(mask_features, size) for size in sizes]

        n = mask_features.shape[0]
        query_embed = self.query_embed.weight.expand(n, -1, -1)
        queries = self.query_feat.weight.expand(n, -1, -1)
        aux_outputs = []
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        for i, (cross_attention, self_attention, ffn) in enumerate(layers):
            level = i % len(maps)
            if aux:
                aux_outputs.append(self._predict(queries, mask_features))
            with torch.no_grad():
                if aux:
                    masks = resize(aux_outputs[-1]["pred_masks"], sizes[level])
                else:
                    embedding = self.mask_embed(self.decoder_norm(queries))
                    masks = _masks(embedding, small_features[level])
                allowed = _inside(masks)
            queries = cross_attention(queries, query_embed, keys[level], values[level], allowed)
            queries = self_attention(queries, query_embed)
            queries = ffn(queries)
        return {**self._predict(queries, mask_features), "aux_outputs": aux_outputs}

    def _memory(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Keys (with their position) and values of each level, NxSxC."""
        if len(maps) != len(self.input_proj):
            raise ValueError(
                f"the decoder attends to {len(self.input_proj)} maps, the pixel decoder gives "
                f"{len(maps)} (MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES)"
            )
        keys, values = [], []
        for x, project, embedding in zip(
            maps, self.input_proj, self.level_embed.weight, strict=True
        ):
            tokens = project(x).flatten(2).transpose(1, 2) + embedding
            position = sine_position_map(*x.shape[-2:], tokens.shape[-1], x.device).flatten(0, 1)
            keys.append(tokens + position.to(tokens.dtype))
            values.append(tokens)
        return keys, values

    def _predict(self, queries: Tensor, mask_features: Tensor) -> dict[str, Tensor]:
        queries = self.decoder_norm(queries)
        return {
            "pred_logits": self.class_embed(queries),
            "pred_masks": _masks(self.mask_embed(queries), mask_features),
        }


def _masks(embedding: Tensor, features: Tensor) -> Tensor:
    """Mask logits NxQxHxW of NxQxC embeddings on NxCxHxW features."""
    return torch.einsum("nqc,nchw->nqhw", embedding, features)


def _inside(masks: Tensor) -> Tensor:
    """Where queries may attend: NxQx(hw) bool from NxQxhxw mask logits.

    That is inside the mask (sigmoid of at least one half), or everywhere if the mask is empty.
    """
    inside = masks.flatten(2) >= 0
    return inside | ~inside.any(dim=-1, keepdim=True)


def build_transformer_decoder(cfg: CfgNode, in_channels: int) -> nn.Module:
    """The decoder that MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME names.

    Raises:
        ValueError: there is none of that name.
    """
    name = cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME
    if name not in TRANSFORMER_DECODER_REGISTRY:
        known = ", ".join(known for known, _ in TRANSFORMER_DECODER_REGISTRY)
        raise ValueError(
            f"MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME is {name!r}; there is no such decoder "
            f"here, only {known}"
        )
    return TRANSFORMER_DECODER_REGISTRY.get(name)(cfg, in_channels)
