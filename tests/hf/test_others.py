"""LRFormer as the backbone of transformers' own models."""

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import transformers

import deterministic_weights
from lrformer.checkpoint import from_released
from lrformer.checkpoint.names import Translation
from lrformer.hf import LRFormerBackbone, LRFormerConfig

STAGES = ["stage1", "stage2", "stage3", "stage4"]
# LRFormer+'s names here, which are the published Mask2Former's, and transformers'.
PIXEL_DECODER = {
    "input_proj.*.*.*": "input_projections.*.*.*",
    "adapter_*.weight": "adapter_*.0.weight",
    "adapter_*.norm.*": "adapter_*.1.*",
    "layer_*.weight": "layer_*.0.weight",
    "layer_*.norm.*": "layer_*.1.*",
    "mask_features.*": "mask_projection.*",
    "transformer.level_embed": "level_embed",
    "transformer.encoder.layers.*.self_attn.*.*": "encoder.layers.*.self_attn.*.*",
    "transformer.encoder.layers.*.norm1.*": "encoder.layers.*.self_attn_layer_norm.*",
    "transformer.encoder.layers.*.norm2.*": "encoder.layers.*.final_layer_norm.*",
    "transformer.encoder.layers.*.linear*.*": "encoder.layers.*.fc*.*",
}
PREDICTOR = {
    "query_embed.*": "queries_embedder.*",
    "query_feat.*": "queries_features.*",
    "level_embed.*": "level_embed.*",
    "decoder_norm.*": "decoder.layernorm.*",
    "mask_embed.layers.*.*": "decoder.mask_predictor.mask_embedder.*.0.*",
}
LAYERS = {
    "cross_attention_layers.*.multihead_attn.*": "*.cross_attn.*",
    "cross_attention_layers.*.multihead_attn.out_proj.*": "*.cross_attn.out_proj.*",
    "cross_attention_layers.*.norm.*": "*.cross_attn_layer_norm.*",
    "self_attention_layers.*.self_attn.*.*": "*.self_attn.*.*",
    "self_attention_layers.*.norm.*": "*.self_attn_layer_norm.*",
    "ffn_layers.*.linear*.*": "*.fc*.*",
    "ffn_layers.*.norm.*": "*.final_layer_norm.*",
}
TABLES = (
    ("pixel_decoder.", "model.pixel_level_module.decoder.", PIXEL_DECODER),
    ("predictor.", "model.transformer_module.", PREDICTOR),
    ("predictor.transformer_", "model.transformer_module.decoder.layers.", LAYERS),
    ("predictor.class_embed.", "class_predictor.", {"*": "*"}),
)
to_mask2former = Translation(
    (f"sem_seg_head.{ours}{a}", theirs + b)
    for ours, theirs, table in TABLES
    for a, b in table.items()
)


def mask2former(weights):
    """transformers' Mask2Former with an LRFormer-T of these weights, which have our names."""
    renamed = {}
    for name, tensor in weights.items():
        if name.startswith("backbone."):
            renamed[name.replace("backbone", "model.pixel_level_module.encoder", 1)] = tensor
        elif ".self_attn.in_proj_" in name:  # one tensor here, three there
            for part, chunk in zip("qkv", tensor.chunk(3), strict=True):
                renamed[to_mask2former(name.replace("in_proj_", f"{part}_proj."))] = chunk
        else:
            renamed[to_mask2former(name)] = tensor
    backbone = LRFormerConfig(out_features=STAGES)
    config = transformers.Mask2FormerConfig(backbone_config=backbone, num_labels=150)
    model = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    result = model.load_state_dict(renamed, strict=False)
    assert result.missing_keys == ["criterion.empty_weight"] and not result.unexpected_keys
    return model


def difference(found, reference, name):
    assert tuple(found.shape) == tuple(reference[f"{name}_shape"])
    flat = found.contiguous().flatten()
    found = flat[:: max(1, len(flat) // 16384)].numpy()
    return np.linalg.norm(found - reference[name]) / np.linalg.norm(reference[name])


@torch.no_grad()
def test_mask2former_is_the_released_lrformer_plus():
    arrays = deterministic_weights.state_dict("tests/data/lrformer_t_plus.json")
    released = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
    model = mask2former(from_released(released)[0])
    outputs = model(torch.from_numpy(deterministic_weights.image(512, 512)))
    reference = np.load("tests/data/lrformer_t_plus_512x512.npz")
    assert difference(outputs.class_queries_logits, reference, "class_logits") < 1e-4
    assert difference(outputs.masks_queries_logits, reference, "mask_logits") < 1e-4


def models():
    yield (
        transformers.Mask2FormerForUniversalSegmentation,
        {
            "config": transformers.Mask2FormerConfig,
            "sizes": {
                "feature_size": 32,
                "mask_feature_size": 32,
                "hidden_dim": 32,
                "num_queries": 5,
            }
            | {"encoder_layers": 1, "decoder_layers": 2, "encoder_feedforward_dim": 32}
            | {"dim_feedforward": 32, "train_num_points": 64},
            "labels": {
                "mask_labels": [torch.ones(2, 64, 96)] * 2,
                "class_labels": [torch.tensor([0, 2])] * 2,
            },
        },
    )
    yield (
        transformers.UperNetForSemanticSegmentation,
        {
            "config": transformers.UperNetConfig,
            "sizes": {"hidden_size": 16, "auxiliary_in_channels": 24, "auxiliary_channels": 16}
            | {"pool_scales": [1, 2]},
            "labels": {"labels": torch.randint(0, 3, (2, 64, 96))},
        },
    )
    yield (
        transformers.DetrForObjectDetection,
        {
            "config": transformers.DetrConfig,
            "sizes": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 5}
            | {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_attention_heads": 4}
            | {"decoder_attention_heads": 4},
            "labels": {
                "labels": [
                    {
                        "class_labels": torch.tensor([1]),
                        "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]]),
                    }
                ]
                * 2
            },
        },
    )


@pytest.mark.parametrize(("kind", "parts"), list(models()))
def test_a_training_step(tiny_config, kind, parts):
    backbone = tiny_config(out_features=STAGES)
    config = parts["config"](
        backbone_config=backbone, use_timm_backbone=False, num_labels=3, **parts["sizes"]
    )
    torch.manual_seed(0)
    model = kind(config).train()
    (encoder,) = (x for x in model.modules() if isinstance(x, LRFormerBackbone))
    pixels = torch.randn(2, 3, 64, 96)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(4):
        losses.append(model(pixel_values=pixels, **parts["labels"]).loss)
        optimizer.zero_grad()
        losses[-1].sum().backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert encoder.stages[3].blocks[0].attn.q.weight.grad.abs().sum() > 0
