"""Parameter names of the authors' released files and of Mask2Former's, and what they are here."""

import re
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

# Below, a star stands for a word; the stars of both names of a parameter stand in the same order.

# Positions in the released stem, a Sequential of convolutions, BatchNorms and GELUs.
_STEM = {0: "conv1", 1: "norm1", 3: "conv2", 4: "norm2", 6: "conv3", 7: "norm3", 9: "conv4"}

# The parts of a block. In the released backbone (but not in the head) q and kv are "q.0", "kv.0".
_BLOCK = {
    "attn.q.*": "attn.q.*",
    "attn.kv.*": "attn.kv.*",
    "attn.proj.*": "attn.proj.*",
    "attn.norm.*": "attn.norm.*",
    "norm1.*": "norm1.*",
    "norm2.*": "norm2.*",
    "pre_norm.*": "pre_norm.*",
    "mlp.fc1.*": "ffn.fc1.*",
    "mlp.conv.*": "ffn.dwconv.*",
    "mlp.fc2.*": "ffn.fc2.*",
    "cpe.*": "positional_conv.*",
    "layer_scale_*": "scale*.gamma",
}

# The plain head, but for its blocks. The last is the classifier of ImageNet files.
_HEAD = {
    "decode_head.conv_seg.*": "sem_seg_head.predictor.*",
    "decode_head.squeeze*.conv.*": "sem_seg_head.squeeze*.*",
    "decode_head.squeeze*.bn.*": "sem_seg_head.squeeze*.norm.*",
    "head.*": "head.*",
}

# LRFormer+'s head. Ours are the names of published Mask2Former.
_PIXEL_DECODER = {
    "input_convs.*.conv.*": "input_proj.*.0.*",
    "input_convs.*.gn.*": "input_proj.*.1.*",
    "lateral_convs.0.conv.*": "adapter_1.*",
    "lateral_convs.0.gn.*": "adapter_1.norm.*",
    "output_convs.0.conv.*": "layer_1.*",
    "output_convs.0.gn.*": "layer_1.norm.*",
    "mask_feature.*": "mask_features.*",
    "level_encoding.weight": "transformer.level_embed",
    "encoder.layers.*.self_attn.*.*": "transformer.encoder.layers.*.self_attn.*.*",
    "encoder.layers.*.norms.0.*": "transformer.encoder.layers.*.norm1.*",
    "encoder.layers.*.norms.1.*": "transformer.encoder.layers.*.norm2.*",
    "encoder.layers.*.ffn.layers.0.0.*": "transformer.encoder.layers.*.linear1.*",
    "encoder.layers.*.ffn.layers.1.*": "transformer.encoder.layers.*.linear2.*",
}
# The parts of a released decoder layer belong to three modules here, transformer_…_layers.
_DECODER_LAYERS = {
    "*.cross_attn.attn.*": "cross_attention_layers.*.multihead_attn.*",
    "*.cross_attn.attn.out_proj.*": "cross_attention_layers.*.multihead_attn.out_proj.*",
    "*.norms.0.*": "cross_attention_layers.*.norm.*",
    "*.self_attn.attn.*": "self_attention_layers.*.self_attn.*",
    "*.self_attn.attn.out_proj.*": "self_attention_layers.*.self_attn.out_proj.*",
    "*.norms.1.*": "self_attention_layers.*.norm.*",
    "*.ffn.layers.0.0.*": "ffn_layers.*.linear1.*",
    "*.ffn.layers.1.*": "ffn_layers.*.linear2.*",
    "*.norms.2.*": "ffn_layers.*.norm.*",
}
_PREDICTOR = {
    "transformer_decoder.post_norm.*": "decoder_norm.*",
    "query_embed.*": "query_embed.*",
    "query_feat.*": "query_feat.*",
    "level_embed.*": "level_embed.*",
    "cls_embed.*": "class_embed.*",
    "mask_embed.0.*": "mask_embed.layers.0.*",
    "mask_embed.2.*": "mask_embed.layers.1.*",
    "mask_embed.4.*": "mask_embed.layers.2.*",
}


def _pairs() -> Iterator[tuple[str, str]]:
    """Every released name and ours; those of the backbone as in ImageNet files."""
    for position, ours in _STEM.items():
        yield f"patch_embed1.conv1.{position}.*", f"stem.{ours}.*"
    yield "patch_embed1.norm.*", "stem.norm4.*"
    for stage in range(4):
        released, ours = stage + 1, f"stages.{stage}"
        yield f"d_convs{released}.*.*", f"{ours}.pyramid_convs.*.*"
        if stage:
            yield f"patch_embed{released}.proj.*", f"{ours}.embed.proj.*"
            yield f"patch_embed{released}.norm.*", f"{ours}.embed.norm.*"
        for a, b in _BLOCK.items():
            a = re.sub(r"attn\.(q|kv)\.", r"attn.\1.0.", a)
            yield f"block{released}.*.{a}", f"{ours}.blocks.*.{b}"
    yield from _HEAD.items()
    for released, ours, table in (
        ("decode_head.fuse_block*.", "sem_seg_head.block*.", _BLOCK),
        ("decode_head.pixel_decoder.", "sem_seg_head.pixel_decoder.", _PIXEL_DECODER),
        (
            "decode_head.transformer_decoder.layers.",
            "sem_seg_head.predictor.transformer_",
            _DECODER_LAYERS,
        ),
        ("decode_head.", "sem_seg_head.predictor.", _PREDICTOR),
    ):
        yield from ((released + a, ours + b) for a, b in table.items())


class Translation:
    """New names for old ones; None where none of the pairs fits."""

    def __init__(self, pairs: Iterable[tuple[str, str]]):
        self._rules = [
            (re.compile(re.escape(old).replace(r"\*", r"(\w+)")), new.replace("*", "{}"))
            for old, new in pairs
        ]

    def __call__(self, name: str) -> str | None:
        # A segmentation model's backbone has the names of an ImageNet file's.
        prefix = "backbone." if name.startswith("backbone.") else ""
        for pattern, new in self._rules:
            if match := pattern.fullmatch(name, len(prefix)):
                return prefix + new.format(*match.groups())
        return None


_to_ours = Translation(_pairs())
_to_released = Translation((ours, released) for released, ours in _pairs())

# A 1x1 convolution in the released head, a linear layer here.
_HEAD_QUERY = re.compile(r"(decode_head\.fuse_|sem_seg_head\.)block\d\.attn\.q\.weight")


def is_released(names: Iterable[str]) -> bool:
    """Whether these are the names of a released segmentation checkpoint."""
    return any(name.startswith("backbone.patch_embed1.conv1.") for name in names)


def from_released(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A released file's parameters, name -> tensor, under our names and in our shapes.

    Those of an ImageNet file get our names without ``backbone.``, too.

    Returns:
        Our name -> tensor, and the released names that have no counterpart here.
    """
    return _rename(state_dict, _to_ours, lambda query: query.flatten(1))


def to_released(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The inverse of :func:`from_released`."""
    return _rename(state_dict, _to_released, lambda query: query[..., None, None])


def _rename(state_dict, translate, reshape_query) -> tuple[dict[str, Tensor], list[str]]:
    renamed, unknown = {}, []
    for old, tensor in state_dict.items():
        new = translate(old)
        if new is None:
            unknown.append(old)
        else:
            renamed[new] = reshape_query(tensor) if _HEAD_QUERY.fullmatch(old) else tensor
    return renamed, unknown


def from_old_mask2former(name: str) -> str:
    """Today's name of a parameter in the first published Mask2Former checkpoints."""
    name = re.sub(r"^sem_seg_head\.(?!pixel_decoder\.|predictor\.)", r"\g<0>pixel_decoder.", name)
    return name.replace(".predictor.static_query.", ".predictor.query_feat.")
