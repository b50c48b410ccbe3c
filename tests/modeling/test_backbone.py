from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone, build_model
from torch import nn

from lrformer import add_lrformer_config, load_cfg

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = {
    "EMBED_DIMS": [8, 16, 24, 32],
    "DEPTHS": [1, 1, 1, 1],
    "NUM_HEADS": [1, 2, 2, 4],
    "MLP_RATIOS": [2, 2, 2, 2],
}


def small_cfg(**keys):
    cfg = load_cfg(CONFIGS / "models/lrformer_t.yaml", ["MODEL.DEVICE", "cpu"])
    for key, value in {**SMALL, **keys}.items():
        cfg.MODEL.LRFORMER[key] = value
    return cfg


def test_features_have_the_announced_shapes():
    backbone = build_backbone(small_cfg()).eval()
    features = backbone(torch.randn(1, 3, 64, 96))
    assert list(features) == list(backbone.output_shape()) == ["res2", "res3", "res4", "res5"]
    for name, shape in backbone.output_shape().items():
        n, c, h, w = features[name].shape
        assert (n, c, h * shape.stride, w * shape.stride) == (1, shape.channels, 64, 96)
    assert backbone.size_divisibility == 32


def test_only_the_wanted_features_are_computed_and_built():
    backbone = build_backbone(small_cfg(OUT_FEATURES=["res4", "res3"])).eval()
    assert list(backbone(torch.randn(1, 3, 64, 64))) == ["res3", "res4"]
    assert len(backbone.stages) == 3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"OUT_FEATURES": ["res2", "res6"]}, "MODEL.LRFORMER.OUT_FEATURES.*res6.*res2, res3"),
        ({"OUT_FEATURES": []}, "MODEL.LRFORMER.OUT_FEATURES"),
        ({"FREEZE_AT": 6}, "MODEL.LRFORMER.FREEZE_AT"),
        ({"NUM_HEADS": [1, 2, 5, 4]}, "MODEL.LRFORMER.NUM_HEADS"),
        ({"DEPTHS": [1, 1, 1]}, "MODEL.LRFORMER.DEPTHS"),
    ],
)
def test_wrong_configuration_names_the_key(keys, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(small_cfg(**keys))


@pytest.mark.parametrize("freeze_at", [0, 1, 3])
def test_frozen_parts_do_not_move(freeze_at):
    torch.manual_seed(0)
    backbone = build_backbone(small_cfg(FREEZE_AT=freeze_at)).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1.0)
    sum(x.square().mean() for x in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    optimizer.step()

    frozen = ("stem.", *(f"stages.{i}." for i in range(freeze_at - 1))) if freeze_at else ()
    moved = {name for name, value in backbone.state_dict().items() if not value.equal(before[name])}
    assert not [name for name in moved if name.startswith(frozen or ("nothing",))]
    assert any(name.startswith("stages.3.") for name in moved)
    assert isinstance(backbone.stem.norm1, FrozenBatchNorm2d) == (freeze_at > 0)


def test_drops_into_detectron2s_fpn():
    from detectron2.modeling import BACKBONE_REGISTRY
    from detectron2.modeling.backbone import FPN

    cfg = small_cfg()
    fpn = FPN(
        BACKBONE_REGISTRY.get("LRFormer")(cfg, ShapeSpec(channels=3)),
        in_features=["res2", "res3", "res4", "res5"],
        out_channels=16,
    )
    shapes = {name: tuple(x.shape) for name, x in fpn(torch.randn(1, 3, 64, 64)).items()}
    assert shapes == {f"p{i}": (1, 16, 64 >> i, 64 >> i) for i in (2, 3, 4, 5)}


def test_default_config_is_the_tiny_model():
    cfg = add_lrformer_config(get_cfg())
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "LRFormer"
    assert round(sum(p.numel() for p in build_backbone(cfg).parameters()) / 1e6, 2) == 11.27


def test_plain_model_is_detectron2s_segmentor(tmp_path):
    cfg = small_cfg()
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 16
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    assert type(model).__module__.startswith("detectron2.modeling")
    image = {"image": torch.randint(0, 256, (3, 70, 90)), "height": 35, "width": 45}
    with torch.no_grad():
        (output,) = model([image])
    assert output["sem_seg"].shape == (5, 35, 45)

    DetectionCheckpointer(model, str(tmp_path)).save("model")
    torch.manual_seed(1)
    other = build_model(cfg).eval()
    DetectionCheckpointer(other).load(str(tmp_path / "model.pth"))
    with torch.no_grad():
        torch.testing.assert_close(other([image])[0]["sem_seg"], output["sem_seg"])


def test_single_process_has_plain_batchnorm():
    head = build_model(small_cfg()).sem_seg_head
    norms = [m for m in head.modules() if isinstance(m, (nn.BatchNorm2d, nn.SyncBatchNorm))]
    assert {type(norm).__name__ for norm in norms} == {"BatchNorm2d"} and len(norms) == 6
