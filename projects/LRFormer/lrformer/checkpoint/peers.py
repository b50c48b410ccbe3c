"""Parameter names of SegFormer's, RTFormer's and mmsegmentation's files, and what they are here."""

import re
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from .names import Translation

# SegFormer's files: the authors' (which mmsegmentation 0.x has too), mmsegmentation 1.x's, Hugging
# Face's. {i} counts stages from 0, {n} from 1; the first stage's embedding is the stem here.
_MIT = {
    "patch_embed{n}.proj.*": "{embed}.proj.*",
    "patch_embed{n}.norm.*": "{embed}.norm.*",
    "block{n}.*.norm*.*": "stages.{i}.blocks.*.norm*.*",
    "block{n}.*.attn.*.*": "stages.{i}.blocks.*.attn.*.*",
    "block{n}.*.mlp.fc*.*": "stages.{i}.blocks.*.ffn.fc*.*",
    "block{n}.*.mlp.dwconv.dwconv.*": "stages.{i}.blocks.*.ffn.dwconv.*",
    "norm{n}.*": "stages.{i}.norm.*",
    "layers.{i}.0.projection.*": "{embed}.proj.*",
    "layers.{i}.0.norm.*": "{embed}.norm.*",
    "layers.{i}.1.*.norm*.*": "stages.{i}.blocks.*.norm*.*",
    "layers.{i}.1.*.attn.attn.out_proj.*": "stages.{i}.blocks.*.attn.proj.*",
    "layers.{i}.1.*.attn.attn.*.*": "stages.{i}.blocks.*.attn.*.*",
    "layers.{i}.1.*.attn.*.*": "stages.{i}.blocks.*.attn.*.*",
    "layers.{i}.1.*.ffn.layers.0.*": "stages.{i}.blocks.*.ffn.fc1.*",
    "layers.{i}.1.*.ffn.layers.1.*": "stages.{i}.blocks.*.ffn.dwconv.*",
    "layers.{i}.1.*.ffn.layers.4.*": "stages.{i}.blocks.*.ffn.fc2.*",
    "layers.{i}.2.*": "stages.{i}.norm.*",
    "patch_embeddings.{i}.proj.*": "{embed}.proj.*",
    "patch_embeddings.{i}.layer_norm.*": "{embed}.norm.*",
    "block.{i}.*.layer_norm_*.*": "stages.{i}.blocks.*.norm*.*",
    "block.{i}.*.attention.self.query.*": "stages.{i}.blocks.*.attn.q.*",
    "block.{i}.*.attention.self.kv.*": "stages.{i}.blocks.*.attn.kv.*",
    "block.{i}.*.attention.self.sr.*": "stages.{i}.blocks.*.attn.sr.*",
    "block.{i}.*.attention.self.layer_norm.*": "stages.{i}.blocks.*.attn.norm.*",
    "block.{i}.*.attention.output.dense.*": "stages.{i}.blocks.*.attn.proj.*",
    "block.{i}.*.mlp.dense*.*": "stages.{i}.blocks.*.ffn.fc*.*",
    "block.{i}.*.mlp.dwconv.dwconv.*": "stages.{i}.blocks.*.ffn.dwconv.*",
    "layer_norm.{i}.*": "stages.{i}.norm.*",
}
_HEADS = {
    "decode_head.linear_c{n}.proj.*": "sem_seg_head.linears.{i}.*",
    "decode_head.linear_c.{i}.proj.*": "sem_seg_head.linears.{i}.*",
    "decode_head.linear_fuse.conv.*": "sem_seg_head.fuse.*",
    "decode_head.linear_fuse.bn.*": "sem_seg_head.fuse.norm.*",
    "decode_head.linear_fuse.*": "sem_seg_head.fuse.*",
    "decode_head.batch_norm.*": "sem_seg_head.fuse.norm.*",
    "decode_head.linear_pred.*": "sem_seg_head.predictor.*",
    "decode_head.classifier.*": "sem_seg_head.predictor.*",
    "head.*": "head.*",
    "classifier.*": "head.*",
}


def _mit_pairs() -> Iterator[tuple[str, str]]:
    for i in range(4):
        places = {"i": i, "n": i + 1, "embed": f"stages.{i}.embed" if i else "stem"}
        for released, ours in (_MIT | _HEADS).items():
            yield released.format(**places), ours.format(**places)


_mit_to_ours = Translation(_mit_pairs())

# Layers that are linear in some of the files, with a weight of two dimensions.
_LINEAR_THERE = re.compile(r".*\.ffn\.fc\d\.weight|sem_seg_head\.linears\.\d\.weight")

# mmsegmentation's context heads have our names but for those of their convolutions and classifiers;
# OCR's first head of two is the auxiliary one.
_CONTEXT_HEADS = (
    (r"^decode_head\.0\.", "auxiliary_head."),
    (r"^decode_head\.1\.", "decode_head."),
    (r"^auxiliary_head\.convs\.0\.", "sem_seg_head.auxiliary.0."),
    (r"^auxiliary_head\.conv_seg\.", "sem_seg_head.auxiliary.2."),
    (r"^decode_head\.", "sem_seg_head."),
    (r"conv_seg\.", "predictor."),
    (r"\.(query|key|value)_conv\.", r".\1."),
    (r"\.pam\.(query|key|value)_project\.", r".pam.\1."),
    (r"\.conv\.(\w+)$", r".\1"),
    (r"\.bn\.(\w+)$", r".norm.\1"),
    (r"\.gamma\.scale$", ".gamma"),
)

_RTFORMER = (
    (r"^(backbone\.)?(conv1|layer|compression3)", r"backbone.\2"),
    (r"^spp\.", "sem_seg_head.spp."),
    (r"\.scale(\d)\.", r".scales.\1."),
    (r"\.process(\d)\.", r".processes.\1."),
    (r"^seghead\.", "sem_seg_head.seghead."),
    (r"^seghead_extra\.", "sem_seg_head.auxiliary."),
    (r"^(sem_seg_head\.\w+)\.bn1\.", r"\1.0."),
    (r"^(sem_seg_head\.\w+)\.conv1\.", r"\1.2."),
    (r"^(sem_seg_head\.\w+)\.bn2\.", r"\1.3."),
    (r"^(sem_seg_head\.\w+)\.conv2\.", r"\1.5."),
    (r"\.attn_l\.([kv])$", r".attn_l.\1.weight"),
    (r"\._mean$", ".running_mean"),
    (r"\._variance$", ".running_var"),
)


def from_segformer(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Parameters of a SegFormer or MiT file, of any source, under our names and in our shapes.

    Those of an ImageNet file get our names without ``backbone.``. Of mmsegmentation's other heads
    the context heads are known.

    Returns:
        Our name -> tensor, and the file's names that have no counterpart here.
    """
    weights = _joined(state_dict)
    own_head = any(name.startswith("decode_head.linear_") for name in weights)
    # mmsegmentation 1.x's SegformerHead is another network than SegFormer's.
    other_head = any(name.startswith("decode_head.fusion_conv.") for name in weights)
    renamed, unknown = {}, []
    for name, tensor in weights.items():
        ours = _mit_to_ours(name)
        if ours is None and name.startswith(("decode_head.", "auxiliary_head.")):
            if own_head and name.startswith("decode_head.conv_seg."):
                continue  # of the base class there, and never used
            ours = None if other_head else _substitute(_CONTEXT_HEADS, name)
        if ours is None:
            unknown.append(name)
        else:
            is_flat = tensor.ndim == 2 and _LINEAR_THERE.fullmatch(ours)
            renamed[ours] = tensor[..., None, None] if is_flat else tensor
    return renamed, unknown


def from_rtformer(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A released RTFormer's parameters under our names, and those that have no counterpart."""
    renamed = {_substitute(_RTFORMER, name): tensor for name, tensor in state_dict.items()}
    unknown = [name for name in renamed if not name.startswith(("backbone.", "sem_seg_head."))]
    return {name: t for name, t in renamed.items() if name not in unknown}, unknown


def _joined(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With queries in one tensor, keys and values in another, as the authors' files have them."""
    names = [name.removeprefix("segformer.encoder.") for name in state_dict]
    if any(name.startswith("decode_head.") for name in state_dict):
        names = [name.replace("segformer.encoder.", "backbone.") for name in state_dict]
    weights = dict(zip(names, state_dict.values(), strict=True))
    joined = {}
    for name, tensor in weights.items():
        if ".self.key." in name:
            value = weights[name.replace(".self.key.", ".self.value.")]
            joined[name.replace(".self.key.", ".self.kv.")] = torch.cat([tensor, value])
        elif ".attn.in_proj_" in name:
            query, *key_value = tensor.chunk(3)
            joined[name.replace("in_proj_", "q.")] = query
            joined[name.replace("in_proj_", "kv.")] = torch.cat(key_value)
        elif ".self.value." not in name:
            joined[name] = tensor
    return joined


def _substitute(rules: Iterable[tuple[str, str]], name: str) -> str:
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name
