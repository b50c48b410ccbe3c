"""LRFormer and its peers as timm models to classify images and as plain PyTorch backbones.

Importing this module registers ``lrformer_tiny``, ``_small``, ``_base``, ``_large`` and
``_xlarge``, SegFormer's ``mit_b0`` to ``mit_b5``, ``rtformer_slim`` and ``rtformer_base`` with
timm, which has none of them; it needs no detectron2::

    import timm, lrformer.timm_models
    model = timm.create_model("lrformer_tiny", num_classes=10)
    backbone = timm.create_model("lrformer_tiny", features_only=True, pooled_size=16)

The encoders are those of the detectron2 backbones, with the same parameter names. Between the last
stage and the classifier there is only the pooling, as in the released ImageNet models of LRFormer
and MiT; RTFormer's paper does not say what its has.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import create_classifier
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    register_notrace_module,
)
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from .layers import (
    MIT_VARIANTS,
    RTFORMER_VARIANTS,
    VARIANTS,
    LRFormerEncoder,
    MiTEncoder,
    RTFormerEncoder,
)
from .layers.common import init_weights
from .layers.lrformer import Stage

# torch.fx sees a stage as one node: what is inside chooses its way by the size of the map.
register_notrace_module(Stage)


class ImageClassifier:
    """An encoder, global pooling and a linear classifier, with timm's interface.

    A model is a subclass of this and of its encoder.

    Args:
        in_chans: channels of the image.
        num_classes: outputs of the classifier; 0 leaves it out.
        global_pool: timm's name of the pooling before the classifier; "" leaves it out.
        drop_rate: dropout before the classifier.
        device, dtype: of the parameters; PyTorch's defaults where they are None.
        encoder: further arguments of the encoder.

    Raises:
        ValueError: as the encoder.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **encoder,
    ):
        with contextlib.nullcontext() if device is None else torch.device(device):
            super().__init__(in_chans, **encoder)
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 << i, "module": f"stages.{i}"}
            for i, dim in enumerate(self.embed_dims[:4])
        ]
        self.num_features = self.head_hidden_size = self.feature_info[-1]["num_chs"]
        self.head_drop = nn.Dropout(drop_rate)
        self.to(dtype=dtype)
        self.reset_classifier(num_classes, global_pool)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of the layer scales. What else has one dimension, timm leaves out by itself."""
        return {name for name, _ in self.named_parameters() if name.endswith(".gamma")}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that group parameters by depth: by stage if ``coarse``, else by block."""
        if coarse:
            return {"stem": r"^stem", "blocks": r"^stages\.(\d+)"}
        # The embedding runs first in a stage, so it is of one depth with the first block.
        first = (r"^stages\.(\d+)\.(?:embed|pyramid_convs)", (0,))
        blocks = (r"^stages\.(\d+)\.blocks\.(\d+)", None)
        return {"stem": r"^stem", "blocks": [first, blocks, (r"^stages\.(\d+)\.norm", (99999,))]}

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier of ``num_classes`` outputs, and another pooling where one is given."""
        self.num_classes = num_classes
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        like = next(self.parameters())
        with like.device:
            self.global_pool, self.head = create_classifier(
                self.num_features, num_classes, pool_type=pool
            )
        self.head.apply(init_weights).to(dtype=like.dtype)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps of the stages ``indices`` (n: the last n), and that of the last one computed.

        ``norm`` has no effect, as none follows a stage; ``intermediates_only`` returns the list of
        maps alone; ``stop_early`` does not compute the stages after the last wanted one.

        Raises:
            ValueError: another output format than "NCHW".
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}; the maps are NCHW")
        take, last = feature_take_indices(len(self.feature_info), indices)
        maps = self.forward_stages(x, last + 1 if stop_early else None)
        wanted = [maps[i] for i in take]
        return wanted if intermediates_only else (maps[-1], wanted)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last of ``indices``, returned from 0, and the classifier."""
        take, last = feature_take_indices(len(self.stages), indices)
        is_cut = last + 1 < len(self.stages)
        self.stages = self.stages[: last + 1]
        self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or is_cut:
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        """Nx``in_chans``xHxW, normalised, to the last stage's map, of stride 32."""
        return self.forward_stages(x)[:4][-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last stage's map to Nx``num_classes``; ``pre_logits`` stops before the classifier."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class LRFormerClassifier(ImageClassifier, LRFormerEncoder):
    """:class:`ImageClassifier` whose attention is computed in maps of a short side of 7.

    That is for classification at 224x224 (paper, section 3.3); for dense prediction it is 16.
    """

    def __init__(self, *args, pooled_size: int = 7, **kwargs):
        super().__init__(*args, pooled_size=pooled_size, **kwargs)


class MiTClassifier(ImageClassifier, MiTEncoder):
    """:class:`ImageClassifier` of SegFormer's encoder."""


class RTFormerClassifier(ImageClassifier, RTFormerEncoder):
    """:class:`ImageClassifier` of RTFormer's encoder, whose layers cannot be left out."""

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that group parameters by layer."""
        layers = [(r"^layer(\d)", None), (r"^compression(\d)", None)]
        return {"stem": r"^conv1", "blocks": layers}

    def forward_stages(self, x: Tensor, stop: int | None = None) -> list[Tensor]:
        return super().forward_stages(x)[:4]

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the classifier."""
        if prune_head:
            self.reset_classifier(0, "")
        return feature_take_indices(len(self.feature_info), indices)[0]


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Names of a weights file as timm reads it, to those of :class:`ImageClassifier`.

    It may be one of tools/pretrain_imagenet.py, one of the authors' ImageNet files, or a
    segmentation checkpoint of either, whose head is left out.
    """
    # Not above: models can be built where what reads files is not installed.
    from .checkpoint.layouts import to_ours

    weights = {name.removeprefix("module."): value for name, value in state_dict.items()}
    ours = to_ours(weights).tensors
    kept = ("backbone.", "head.")
    return {k.removeprefix("backbone."): v for k, v in ours.items() if k.startswith(kept)}


_CFG = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.9,
    "interpolation": "bicubic",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "classifier": "head",
    "license": "apache-2.0",
}
_MODELS = {
    variant: (kind, config, first_conv)
    for kind, variants, first_conv in (
        (LRFormerClassifier, VARIANTS, "stem.conv1"),
        (MiTClassifier, MIT_VARIANTS, "stem.proj"),
        (RTFormerClassifier, RTFORMER_VARIANTS, "conv1.0"),
    )
    for variant, config in variants.items()
}
# timm finds this by its name when the models below register themselves.
default_cfgs = generate_default_cfgs(
    {
        f"{variant}.untrained": {**_CFG, "first_conv": first_conv}
        for variant, (_, _, first_conv) in _MODELS.items()
    }
)


def _register(variant: str) -> None:
    kind, config, _ = _MODELS[variant]
    features: dict[str, Any] = {"out_indices": (0, 1, 2, 3), "flatten_sequential": True}
    if kind is RTFormerClassifier:  # whose maps are not its layers' outputs
        features["feature_cls"] = "getter"

    def create(pretrained: bool = False, **kwargs) -> nn.Module:
        return build_model_with_cfg(
            kind,
            variant,
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg=dict(features),  # timm changes it
            **{**config, **kwargs},
        )

    create.__name__ = variant
    globals()[variant] = register_model(create)


for _variant in _MODELS:
    _register(_variant)
