"""The configuration of LRFormer's models in transformers."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

# Arguments of the encoder; in capitals they are config keys below MODEL.LRFORMER.
ENCODER = (
    *("embed_dims", "depths", "num_heads", "mlp_ratios", "layer_scale_init", "pre_norm_blocks"),
    *("pooled_size", "pyramid_sizes", "drop_path_rate", "positional_conv", "ffn_conv"),
)


@strict
class LRFormerConfig(BackboneConfigMixin, PreTrainedConfig):
    """The defaults are LRFormer-T for segmentation.

    Args:
        num_channels: of the image.
        embed_dims, depths, num_heads, mlp_ratios, layer_scale_init, pre_norm_blocks, pooled_size,
        pyramid_sizes, drop_path_rate, positional_conv, ffn_conv: of
            :class:`lrformer.layers.LRFormerEncoder`; ``pooled_size`` is 7 for classification at
            224x224.
        decoder_hidden_size, decoder_num_heads, decoder_mlp_ratio, decoder_pooled_size,
        decoder_layer_scale_init: of the segmentation head, :class:`lrformer.modeling.LRHead`.
        classifier_dropout: probability of dropping a channel before the head's classifier.
        semantic_loss_ignore_index: label of pixels that do not count in the loss.
        out_features, out_indices: what the backbone returns, of "stem" and "stage1" to "stage4"
            (strides 4, 4, 8, 16, 32).
    """

    model_type = "lrformer"
    attribute_map = {"hidden_sizes": "embed_dims", "num_attention_heads": "num_heads"}

    num_channels: int = 3
    embed_dims: list[int] | tuple[int, ...] = (48, 96, 240, 384)
    depths: list[int] | tuple[int, ...] = (2, 2, 6, 3)
    num_heads: list[int] | tuple[int, ...] = (2, 4, 10, 16)
    mlp_ratios: list[int | float] | tuple[int | float, ...] = (8, 8, 4, 4)
    layer_scale_init: list[float] | tuple[float, ...] = (0.0, 0.0, 1e-6, 1e-6)
    pre_norm_blocks: list | tuple = ((), (), (), ())
    pooled_size: int = 16
    pyramid_sizes: list[int] | tuple[int, ...] = (11, 8, 6, 4)
    drop_path_rate: float | int = 0.1
    positional_conv: bool = True
    ffn_conv: bool = True
    decoder_hidden_size: int = 256
    decoder_num_heads: int = 8
    decoder_mlp_ratio: float | int = 4
    decoder_pooled_size: int = 32
    decoder_layer_scale_init: float = 1e-6
    classifier_dropout: float | int = 0.1
    semantic_loss_ignore_index: int = 255
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        self.stage_names = ["stem", *(f"stage{i}" for i in range(1, 5))]
        wanted = {key: kwargs.pop(key, None) for key in ("out_features", "out_indices")}
        self.set_output_features_output_indices(**wanted)
        super().__post_init__(**kwargs)
