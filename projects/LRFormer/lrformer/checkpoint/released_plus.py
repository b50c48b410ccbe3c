"""Head names of the released LRFormer+ checkpoints, and what published Mask2Former calls them."""

from .names import Names

_PIXEL = "sem_seg_head.pixel_decoder"
_ENCODER = f"{_PIXEL}.transformer.encoder.layers.{{i}}"
_DECODER = "sem_seg_head.predictor"
_CROSS = f"{_DECODER}.transformer_cross_attention_layers.{{i}}"
_SELF = f"{_DECODER}.transformer_self_attention_layers.{{i}}"
_FFN = f"{_DECODER}.transformer_ffn_layers.{{i}}"

_RELEASED_PIXEL = "decode_head.pixel_decoder"
_RELEASED_ENCODER = f"{_RELEASED_PIXEL}.encoder.layers.{{i}}"
_RELEASED_DECODER = "decode_head.transformer_decoder"
_RELEASED_LAYER = f"{_RELEASED_DECODER}.layers.{{i}}"

_PIXEL_NAMES = {
    "input_convs.{i}.conv.{leaf}": "input_proj.{i}.0.{leaf}",
    "input_convs.{i}.gn.{leaf}": "input_proj.{i}.1.{leaf}",
    "lateral_convs.0.conv.{leaf}": "adapter_1.{leaf}",
    "lateral_convs.0.gn.{leaf}": "adapter_1.norm.{leaf}",
    "output_convs.0.conv.{leaf}": "layer_1.{leaf}",
    "output_convs.0.gn.{leaf}": "layer_1.norm.{leaf}",
    "mask_feature.{leaf}": "mask_features.{leaf}",
    "level_encoding.weight": "transformer.level_embed",
}
_ENCODER_NAMES = {
    "self_attn.{rest}": "self_attn.{rest}",
    "norms.0.{leaf}": "norm1.{leaf}",
    "norms.1.{leaf}": "norm2.{leaf}",
    "ffn.layers.0.0.{leaf}": "linear1.{leaf}",
    "ffn.layers.1.{leaf}": "linear2.{leaf}",
}
# The parts of a released decoder layer belong to three modules.
_LAYER_NAMES = {
    "cross_attn.attn.{rest}": f"{_CROSS}.multihead_attn.{{rest}}",
    "norms.0.{leaf}": f"{_CROSS}.norm.{{leaf}}",
    "self_attn.attn.{rest}": f"{_SELF}.self_attn.{{rest}}",
    "norms.1.{leaf}": f"{_SELF}.norm.{{leaf}}",
    "ffn.layers.0.0.{leaf}": f"{_FFN}.linear1.{{leaf}}",
    "ffn.layers.1.{leaf}": f"{_FFN}.linear2.{{leaf}}",
    "norms.2.{leaf}": f"{_FFN}.norm.{{leaf}}",
}
_PREDICTION_NAMES = {
    "query_embed.{leaf}": "query_embed.{leaf}",
    "query_feat.{leaf}": "query_feat.{leaf}",
    "level_embed.{leaf}": "level_embed.{leaf}",
    "cls_embed.{leaf}": "class_embed.{leaf}",
    "mask_embed.0.{leaf}": "mask_embed.layers.0.{leaf}",
    "mask_embed.2.{leaf}": "mask_embed.layers.1.{leaf}",
    "mask_embed.4.{leaf}": "mask_embed.layers.2.{leaf}",
    "transformer_decoder.post_norm.{leaf}": "decoder_norm.{leaf}",
}

NAMES = [
    *(Names(f"{_RELEASED_PIXEL}.{a}", f"{_PIXEL}.{b}") for a, b in _PIXEL_NAMES.items()),
    *(Names(f"{_RELEASED_ENCODER}.{a}", f"{_ENCODER}.{b}") for a, b in _ENCODER_NAMES.items()),
    *(Names(f"{_RELEASED_LAYER}.{a}", b) for a, b in _LAYER_NAMES.items()),
    *(Names(f"decode_head.{a}", f"{_DECODER}.{b}") for a, b in _PREDICTION_NAMES.items()),
]
