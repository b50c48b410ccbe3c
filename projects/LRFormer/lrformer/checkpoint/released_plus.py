"""Head names of the released LRFormer+ checkpoints, and what published Mask2Former calls them."""

import re
from collections.abc import Callable

_PIXEL = "sem_seg_head.pixel_decoder"
_ENCODER = f"{_PIXEL}.transformer.encoder.layers"
_DECODER = "sem_seg_head.predictor"

_RELEASED_PIXEL = r"decode_head\.pixel_decoder"
_RELEASED_DECODER = r"decode_head\.transformer_decoder"

# The parts of a layer, released -> published; those of the decoder belong to three modules.
_ENCODER_LAYER = {
    "norms.0": "norm1",
    "norms.1": "norm2",
    "ffn.layers.0.0": "linear1",
    "ffn.layers.1": "linear2",
}
_DECODER_LAYER = {
    "cross_attn.attn": ("cross_attention", "multihead_attn"),
    "norms.0": ("cross_attention", "norm"),
    "self_attn.attn": ("self_attention", "self_attn"),
    "norms.1": ("self_attention", "norm"),
    "ffn.layers.0.0": ("ffn", "linear1"),
    "ffn.layers.1": ("ffn", "linear2"),
    "norms.2": ("ffn", "norm"),
}
_PREDICTION = {
    "query_embed": "query_embed",
    "query_feat": "query_feat",
    "level_embed": "level_embed",
    "cls_embed": "class_embed",
    "mask_embed.0": "mask_embed.layers.0",
    "mask_embed.2": "mask_embed.layers.1",
    "mask_embed.4": "mask_embed.layers.2",
    "transformer_decoder.post_norm": "decoder_norm",
}


def _encoder_layer(match: re.Match) -> str | None:
    number, rest = match.groups()
    if rest.startswith("self_attn."):
        return f"{_ENCODER}.{number}.{rest}"
    part, _, leaf = rest.rpartition(".")
    return f"{_ENCODER}.{number}.{_ENCODER_LAYER[part]}.{leaf}" if part in _ENCODER_LAYER else None


def _decoder_layer(match: re.Match) -> str | None:
    number, rest = match.groups()
    for part, (module, ours) in _DECODER_LAYER.items():
        if rest.startswith(f"{part}."):
            leaf = rest.removeprefix(f"{part}.")
            return f"{_DECODER}.transformer_{module}_layers.{number}.{ours}.{leaf}"
    return None


# As _RULES of released.py: pattern of a released name, and the published name from the match.
RULES: list[tuple[str, Callable[[re.Match], str | None]]] = [
    (
        rf"{_RELEASED_PIXEL}\.input_convs\.(\d+)\.(conv|gn)\.(\w+)",
        lambda m: f"{_PIXEL}.input_proj.{m[1]}.{int(m[2] == 'gn')}.{m[3]}",
    ),
    (
        rf"{_RELEASED_PIXEL}\.lateral_convs\.0\.(conv|gn)\.(\w+)",
        lambda m: f"{_PIXEL}.adapter_1{'.norm' if m[1] == 'gn' else ''}.{m[2]}",
    ),
    (
        rf"{_RELEASED_PIXEL}\.output_convs\.0\.(conv|gn)\.(\w+)",
        lambda m: f"{_PIXEL}.layer_1{'.norm' if m[1] == 'gn' else ''}.{m[2]}",
    ),
    (rf"{_RELEASED_PIXEL}\.mask_feature\.(\w+)", lambda m: f"{_PIXEL}.mask_features.{m[1]}"),
    (
        rf"{_RELEASED_PIXEL}\.level_encoding\.weight",
        lambda m: f"{_PIXEL}.transformer.level_embed",
    ),
    (rf"{_RELEASED_PIXEL}\.encoder\.layers\.(\d+)\.(.+)", _encoder_layer),
    (rf"{_RELEASED_DECODER}\.layers\.(\d+)\.(.+)", _decoder_layer),
    (
        r"decode_head\.(.+)\.(weight|bias)",
        lambda m: f"{_DECODER}.{_PREDICTION[m[1]]}.{m[2]}" if m[1] in _PREDICTION else None,
    ),
]
