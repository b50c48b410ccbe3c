"""detectron2's interface for encoders of a stem and four stages."""

from collections.abc import Sequence

from detectron2.config import CfgNode, configurable
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from torch import Tensor

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class StagedBackbone:
    """A dict of features of strides 4 to 32 from a :class:`~lrformer.layers.common.StagedEncoder`.

    A backbone is a subclass of this, its encoder and detectron2's ``Backbone``, in this order.
    Stages that no wanted feature needs are not built.

    Attributes:
        keys: the node of the config keys below MODEL.
    """

    keys: str

    @configurable
    def __init__(
        self,
        *,
        embed_dims: Sequence[int],
        out_features: Sequence[str] = tuple(STRIDES),
        freeze_at: int = 0,
        activation_checkpointing: bool = False,
        **encoder,
    ):
        """
        Args:
            embed_dims, encoder: of the encoder.
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
                f"out_features (config key MODEL.{self.keys}.OUT_FEATURES) is "
                f"{list(out_features)}; there are {', '.join(names)}, and at least one must be "
                "asked for"
            )
        if not 0 <= freeze_at <= 5:
            raise ValueError(
                f"freeze_at (config key MODEL.{self.keys}.FREEZE_AT) is {freeze_at}; it can be 0 "
                "(train everything), 1 (freeze the stem) or up to 5 (freeze the stem to res5)"
            )
        num_stages = 1 + max(names.index(name) for name in out_features)
        super().__init__(embed_dims=embed_dims, num_stages=num_stages, **encoder)
        self._out_features = [name for name in names if name in out_features]
        self._out_feature_strides = {name: STRIDES[name] for name in self._out_features}
        self._out_feature_channels = {
            name: dim for name, dim in zip(names, embed_dims, strict=True) if name in out_features
        }
        self.set_grad_checkpointing(activation_checkpointing)
        self._freeze(freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        keys = cfg.MODEL[cls.keys]
        return {
            "in_chans": input_shape.channels,
            "embed_dims": keys.EMBED_DIMS,
            "depths": keys.DEPTHS,
            "num_heads": keys.NUM_HEADS,
            "mlp_ratios": keys.MLP_RATIOS,
            "drop_path_rate": keys.DROP_PATH_RATE,
            "out_features": keys.OUT_FEATURES,
            "freeze_at": keys.FREEZE_AT,
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
