"""LRFormer's models in transformers; the modules and their names are this project's."""

import importlib.util

import torch.nn.functional as F
from timm.layers import LayerScale2d
from torch import LongTensor, Tensor, nn
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.modeling_outputs import (
    BackboneOutput,
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
    SemanticSegmenterOutput,
)
from transformers.utils import can_return_tuple

from ..layers import LRFormerEncoder
from ..layers.common import init_weights, resize
from ..layers.lrformer import Stage
from .configuration import ENCODER, LRFormerConfig

_FEATURES = ("res3", "res4", "res5")  # of the head


class LRFormerPreTrainedModel(PreTrainedModel):
    """What the models share: initialisation, and recomputing activations in the backward pass."""

    config_class = LRFormerConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a mean: the Trainer divides by accumulated batches
    _no_split_modules = ["LRFormerBlock"]
    _input_embed_layer = "stem"  # where gradients start when only adapters are trained

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            init_weights(module)
        elif isinstance(module, LayerScale2d):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def _set_gradient_checkpointing(self, enable: bool = True, **_) -> None:
        self.gradient_checkpointing = enable  # which transformers asks for
        for module in self.modules():
            if isinstance(module, Stage):
                module.activation_checkpointing = enable


class LRFormerModel(LRFormerPreTrainedModel):
    """The encoder: images to maps of strides 4 to 32."""

    def __init__(self, config: LRFormerConfig):
        super().__init__(config)
        arguments = {name: getattr(config, name) for name in ENCODER}
        encoder = LRFormerEncoder(config.num_channels, **arguments)
        self.stem, self.stages = encoder.stem, encoder.stages
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None, **kwargs
    ) -> BaseModelOutputWithPoolingAndNoAttention:
        """Normalised NxCxHxW images to the last stage's map, its mean over positions, and, with
        ``output_hidden_states``, the maps of stem and stages."""
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        maps = (self.stem(pixel_values),)
        for stage in self.stages:
            maps += (stage(maps[-1]),)
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=maps[-1],
            pooler_output=maps[-1].mean((2, 3)),
            hidden_states=maps if output_hidden_states else None,
        )


class LRFormerBackbone(BackboneMixin, LRFormerModel):
    """The encoder as a backbone of transformers' own models, such as Mask2Former."""

    has_attentions = False

    def __init__(self, config: LRFormerConfig):
        super().__init__(config)
        self.num_features = [config.embed_dims[0], *config.embed_dims]

    @can_return_tuple
    @filter_output_hidden_states
    def forward(self, pixel_values: Tensor, **kwargs) -> BackboneOutput:
        """Normalised NxCxHxW images to the maps that ``config.out_features`` names."""
        maps = LRFormerModel.forward(self, pixel_values, output_hidden_states=True).hidden_states
        features = dict(zip(self.stage_names, maps, strict=True))
        return BackboneOutput(
            feature_maps=tuple(features[name] for name in self.out_features), hidden_states=maps
        )


class LRFormerForImageClassification(LRFormerPreTrainedModel):
    """The encoder, global pooling and a linear classifier, as in the released ImageNet models."""

    def __init__(self, config: LRFormerConfig):
        super().__init__(config)
        self.backbone = LRFormerModel(config)
        self.head = nn.Linear(config.embed_dims[-1], config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, labels: LongTensor | None = None, **kwargs
    ) -> ImageClassifierOutputWithNoAttention:
        """Normalised NxCxHxW images to NxK logits; with N labels also the loss."""
        outputs = self.backbone(pixel_values, **kwargs)
        logits = self.head(outputs.pooler_output)
        return ImageClassifierOutputWithNoAttention(
            loss=None if labels is None else self.loss_function(labels, logits, self.config),
            logits=logits,
            hidden_states=outputs.hidden_states,
        )


class LRFormerForSemanticSegmentation(LRFormerPreTrainedModel):
    """The encoder and the light head of the paper, section 3.3.

    Raises:
        ImportError: detectron2, which the head is built with, is not installed.
    """

    def __init__(self, config: LRFormerConfig):
        super().__init__(config)
        self.backbone = LRFormerModel(config)
        self.sem_seg_head = _head(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.sem_seg_head.predictor:
            nn.init.normal_(module.weight, std=0.01)

    @can_return_tuple
    @filter_output_hidden_states
    def forward(
        self, pixel_values: Tensor, labels: LongTensor | None = None, **kwargs
    ) -> SemanticSegmenterOutput:
        """Normalised NxCxHxW images to NxKxhxw logits of stride 8; with NxHxW labels also the loss.

        The loss is the mean cross-entropy over pixels whose label is not
        ``config.semantic_loss_ignore_index``, of logits resized to the labels' size.
        """
        maps = self.backbone(pixel_values, **kwargs).hidden_states
        logits = self.sem_seg_head.layers(dict(zip(_FEATURES, maps[2:], strict=True)))
        loss = None
        if labels is not None:
            scores = resize(logits, labels.shape[-2:])
            ignored = self.config.semantic_loss_ignore_index
            loss = F.cross_entropy(scores, labels, ignore_index=ignored)
        return SemanticSegmenterOutput(loss=loss, logits=logits, hidden_states=maps)


def _head(config: LRFormerConfig) -> nn.Module:
    if importlib.util.find_spec("detectron2") is None:
        raise ImportError(
            "LRFormerForSemanticSegmentation needs detectron2, which its head is built with and "
            "which is not installed; python tools/install_detectron2.py installs it without a "
            "compiler. LRFormer's other models in transformers run without it"
        )
    # Not above: the other models run without detectron2.
    from detectron2.layers import ShapeSpec

    from ..modeling import LRHead

    shapes = zip(_FEATURES, config.embed_dims[1:], (8, 16, 32), strict=True)
    return LRHead(
        {name: ShapeSpec(channels=dim, stride=stride) for name, dim, stride in shapes},
        num_classes=config.num_labels,
        channels=config.decoder_hidden_size,
        num_heads=config.decoder_num_heads,
        mlp_ratio=config.decoder_mlp_ratio,
        pooled_size=config.decoder_pooled_size,
        layer_scale_init=config.decoder_layer_scale_init,
        dropout=config.classifier_dropout,
    )
