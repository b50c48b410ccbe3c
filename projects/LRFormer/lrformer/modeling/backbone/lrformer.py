"""LRFormer as a detectron2 backbone."""

from collections.abc import Callable, Sequence

from detectron2.config import CfgNode, configurable
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ...layers import LRFormerEncoder
from ..norm import norm_layer

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


@BACKBONE_REGISTRY.register()
class LRFormer(LRFormerEncoder, Backbone):
    """The LRFormer encoder with detectron2's interface: a dict of features of strides 4 to 32.

    Stages that no wanted feature needs are not built.
    """

    @configurable
    def __init__(
        self,
        *,
        in_chans: int = 3,
        embed_dims: Sequence[int] = (48, 96, 240, 384),
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        freeze_at: int = 0,
        activation_checkpointing: bool = False,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        **encoder,
    ):
        """
        Args:
            in_chans, embed_dims, norm, encoder: of :class:`lrformer.layers.LRFormerEncoder`.
            out_features: the features to return, of res2, res3, res4, res5.
            freeze_at: 0 trains everything, 1 freezes the stem, n freezes stem to res{n}.
            activation_checkpointing: recompute blocks in the backward pass.

        Raises:
            ValueError: an unknown feature, a wrong list; the message names the config key.
        """
        names = list(STRIDES)
        unknown = [name for name in out_features if name not in names]
        if unknown or not out_features:
            raise ValueError(
                f"out_features (config key MODEL.LRFORMER.OUT_FEATURES) is {list(out_features)}; "
                f"LRFormer has {', '.join(names)}, and at least one must be asked for"
            )
        if not 0 <= freeze_at <= 5:
            raise ValueError(
                f"freeze_at (config key MODEL.LRFORMER.FREEZE_AT) is {freeze_at}; it can be 0 "
                "(train everything), 1 (freeze the stem) or up to 5 (freeze the stem to res5)"
            )
        num_stages = 1 + max(names.index(name) for name in out_features)
        super().__init__(
            in_chans, embed_dims=embed_dims, norm=norm, num_stages=num_stages, **encoder
        )
        self._out_features = [name for name in names if name in out_features]
        self._out_feature_strides = {name: STRIDES[name] for name in self._out_features}
        self._out_feature_channels = {
            name: dim for name, dim in zip(names, embed_dims, strict=True) if name in out_features
        }
        self.set_grad_checkpointing(activation_checkpointing)
        self._freeze(freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        keys = cfg.MODEL.LRFORMER
        return {
            "in_chans": input_shape.channels,
            "embed_dims": keys.EMBED_DIMS,
            "depths": keys.DEPTHS,
            "num_heads": keys.NUM_HEADS,
            "mlp_ratios": keys.MLP_RATIOS,
            "layer_scale_init": keys.LAYER_SCALE_INIT,
            "pre_norm_blocks": keys.PRE_NORM_BLOCKS,
            "pooled_size": keys.POOLED_SIZE,
            "pyramid_sizes": keys.PYRAMID_SIZES,
            "drop_path_rate": keys.DROP_PATH_RATE,
            "positional_conv": keys.POSITIONAL_CONV,
            "ffn_conv": keys.FFN_CONV,
            "out_features": keys.OUT_FEATURES,
            "freeze_at": keys.FREEZE_AT,
            "norm": norm_layer(keys.NORM, cfg.MODEL.DEVICE),
            "activation_checkpointing": keys.ACTIVATION_CHECKPOINTING,
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised Nx3xHxW images to {feature: NxCxceil(H/stride)xceil(W/stride)}."""
        maps = dict(zip(STRIDES, self.forward_stages(x), strict=False))
        return {name: maps[name] for name in self._out_features}

    @property
    def size_divisibility(self) -> int:
        return 32

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }

    def _freeze(self, freeze_at: int) -> None:
        """Stop the gradients of the first ``freeze_at`` parts, stem first, and their BatchNorms."""
        parts = [self.stem, *self.stages][:freeze_at]
        for part in parts:
            for parameter in part.parameters():
                parameter.requires_grad_(False)
            FrozenBatchNorm2d.convert_frozen_batchnorm(part)
