import json
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, PolygonMasks
from detectron2.utils.events import EventStorage

from lrformer import load_cfg
from lrformer.modeling.mask2former.position_encoding import sine_position_map
from lrformer.modeling.mask2former.transformer_decoder import MultiheadAttention, _inside

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "models"
PUBLISHED = ROOT / "tests" / "data" / "mask2former_detectron2_head_t.json"


def test_head_has_exactly_the_published_names_and_shapes():
    published = {k: tuple(v) for k, v in json.loads(PUBLISHED.read_text()).items()}
    with torch.device("meta"):
        model = build_model(load_cfg(CONFIGS / "lrformer_plus_t.yaml", ["MODEL.DEVICE", "meta"]))
    ours = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert {k: v for k, v in ours.items() if not k.startswith("backbone.")} == published


def test_attention_equals_torchs_with_the_mask_repeated_for_each_head():
    torch.manual_seed(0)
    ours, oracle = MultiheadAttention(16, 4), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    oracle.load_state_dict(ours.state_dict())
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    allowed = torch.rand(2, 5, 7) < 0.5
    allowed[..., 0] = True
    expected, _ = oracle(query, key, value, attn_mask=~allowed.repeat_interleave(4, 0))
    torch.testing.assert_close(ours(query, key, value, allowed), expected)


def test_queries_attend_inside_their_mask_or_everywhere_if_it_is_empty():
    masks = torch.tensor([[[[1.0, -1.0], [0.0, -2.0]], [[-1.0, -1.0], [-3.0, -2.0]]]])
    assert _inside(masks).tolist() == [[[True, False, True, False], [True] * 4]]


def test_position_encoding_is_that_of_transformers():
    modeling = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    oracle = modeling.Mask2FormerSinePositionEmbedding(8, normalize=True)
    x = torch.zeros(1, 16, 5, 7)
    expected = oracle(x.shape, x.device, x.dtype)[0]
    expected = expected.permute(1, 2, 0) if expected.shape[0] == 16 else expected.view(5, 7, 16)
    torch.testing.assert_close(sine_position_map(5, 7, 16), expected)


def test_masks_at_the_size_of_attention_give_the_same_predictions(tiny):
    model = tiny().eval()
    images = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        features = model.backbone(images)
        full = model.sem_seg_head.layers(features, aux=True)
        small = model.sem_seg_head.layers(features, aux=False)
    assert len(full["aux_outputs"]) == 3 and small["aux_outputs"] == []
    for key in ("pred_logits", "pred_masks"):
        torch.testing.assert_close(small[key], full[key], rtol=1e-4, atol=1e-4)
    assert full["pred_masks"].shape == (2, 10, 24, 40)
    assert full["pred_logits"].shape == (2, 10, 6)


def test_every_parameter_is_trained_and_the_loss_goes_down(tiny, sample):
    model = tiny().train()
    batch = [sample((0, 2)), sample((1, 4, 3))]
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    totals = []
    for _ in range(20):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        totals.append(sum(losses.values()).item())
        assert [n for n, p in model.named_parameters() if p.grad is None] == []
        optimizer.step()
    names = {f"loss_{x}{s}" for x in ("ce", "mask", "dice") for s in ("", "_0", "_1", "_2")}
    assert set(losses) == names
    assert totals[-1] < 0.8 * totals[0]


@pytest.mark.parametrize("labels", [((), (1,)), ((), ()), (tuple(range(5)) * 5, (1,))])
def test_crops_without_objects_and_with_more_than_queries_are_trained(tiny, sample, labels):
    model = tiny().train()
    losses = model([sample(labels[0]), sample(labels[1], height=33, width=40)])
    sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())


def test_masks_are_padded_with_the_images(tiny, sample):
    # The smaller image's targets must lie where its pixels do in the padded batch.
    model = tiny().train()
    seen = {}
    model.criterion.forward = lambda outputs, targets: seen.update(targets=targets) or {}
    small = sample((0, 1), height=40, width=50)
    small["instances"].gt_masks = BitMasks(small["instances"].gt_masks)
    model([sample((3,)), small])
    first, second = seen["targets"]
    assert first["masks"].shape == (1, 64, 64) and second["masks"].shape == (2, 64, 64)
    assert torch.equal(second["masks"][:, :40, :50], small["instances"].gt_masks.tensor)
    assert second["masks"].sum() == 40 * 50 and second["masks"].dtype == torch.bool


def test_nan_weights_stop_training_with_the_iteration(tiny, sample):
    model = tiny().train()
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.bias[0] = float("nan")
    with EventStorage(7), pytest.raises(FloatingPointError, match="loss_ce is NaN.*iteration 7"):
        model([sample()])


def test_wrong_targets_say_which_image_and_why(tiny, sample):
    model = tiny().train()
    with pytest.raises(ValueError, match="a.png: no 'instances'.*INPUT.DATASET_MAPPER_NAME"):
        model([{"file_name": "a.png", "image": sample()["image"]}])
    wrong = sample((0, 5))
    with pytest.raises(ValueError, match="gt_classes are from 0 to 5.*NUM_CLASSES"):
        model([wrong])
    wrong = sample()
    wrong["image"] = wrong["image"][:, :-1]
    with pytest.raises(ValueError, match=r"gt_masks is \(2, 48, 64\).*the image is \(47, 64\)"):
        model([wrong])
    wrong["instances"]._fields["gt_masks"] = PolygonMasks([[[0, 0, 5, 0, 5, 5.0]]] * 2)
    with pytest.raises(ValueError, match="PolygonMasks.*INPUT.MASK_FORMAT to 'bitmask'"):
        model([wrong])


@pytest.fixture
def dataset():
    name = "lrformer_test_panoptic"
    MetadataCatalog.get(name).set(thing_dataset_id_to_contiguous_id={10: 0, 12: 3})
    yield name
    MetadataCatalog.pop(name)


def test_all_three_tasks_in_detectron2s_formats(tiny, sample, dataset):
    keys = "MODEL.MASK_FORMER.TEST."
    model = tiny(
        *("DATASETS.TRAIN", (dataset,), f"{keys}PANOPTIC_ON", True, f"{keys}INSTANCE_ON", True),
        *(f"{keys}OBJECT_MASK_THRESHOLD", 0.0, f"{keys}OVERLAP_THRESHOLD", 0.0),
        *("TEST.DETECTIONS_PER_IMAGE", 7),
    ).eval()
    assert model.thing_classes == {0, 3}
    images = [{**sample(), "height": 30, "width": 41}, sample(height=90, width=33)]
    with torch.no_grad():
        results = model(images)
    for x, result in zip(images, results, strict=True):
        size = (x["height"], x["width"])
        assert result["sem_seg"].shape == (5, *size)
        segmentation, segments = result["panoptic_seg"]
        assert segmentation.shape == size and segmentation.dtype == torch.int32
        assert set(segmentation.unique().tolist()) <= {0, *(s["id"] for s in segments)}
        assert all(s["isthing"] == (s["category_id"] in (0, 3)) for s in segments)
        instances = result["instances"]
        assert instances.image_size == size and len(instances) <= 7
        assert instances.pred_masks.shape[1:] == size
        assert set(instances.pred_classes.tolist()) <= {0, 3}


def test_other_decoders_train_under_autocast(tiny, sample):
    model = tiny(
        *("MODEL.MASK_FORMER.PRE_NORM", True, "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ", True),
        *("MODEL.MASK_FORMER.HIDDEN_DIM", 64, "MODEL.MASK_FORMER.DROPOUT", 0.1),
        *("MODEL.MASK_FORMER.SIZE_DIVISIBILITY", -1, "MODEL.MASK_FORMER.DEEP_SUPERVISION", False),
    ).train()
    assert model.size_divisibility == 32
    with torch.autocast("cpu", torch.bfloat16):
        losses = model([sample()])
    assert set(losses) == {"loss_ce", "loss_mask", "loss_dice"}
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_bfloat16_autocast_stays_close_to_float32(tiny):
    model = tiny().eval()
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        exact = model.sem_seg_head(model.backbone(images))
        with torch.autocast("cpu", torch.bfloat16):
            low = model.sem_seg_head(model.backbone(images))
    for key in ("pred_logits", "pred_masks"):
        assert (low[key].float() - exact[key]).norm() < 0.1 * exact[key].norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_head_in_half_precision(tiny, dtype):
    model = tiny().eval()
    features = {k: v.detach() for k, v in model.backbone(torch.randn(1, 3, 64, 64)).items()}
    with torch.no_grad():
        exact = model.sem_seg_head(features)
        low = model.sem_seg_head.to(dtype)({k: v.to(dtype) for k, v in features.items()})
    assert low["pred_masks"].dtype == dtype
    assert (low["pred_masks"].float() - exact["pred_masks"]).norm() < (
        0.05 * exact["pred_masks"].norm()
    )


def test_head_compiles_without_graph_breaks(tiny):
    model = tiny("MODEL.MASK_FORMER.DEC_LAYERS", 2).eval()
    features = {k: v.detach() for k, v in model.backbone(torch.randn(1, 3, 64, 96)).items()}
    compiled = torch.compile(model.sem_seg_head.forward, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        expected, got = model.sem_seg_head(features), compiled(features)
    torch.testing.assert_close(got["pred_masks"], expected["pred_masks"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SEM_SEG_HEAD.PIXEL_DECODER_NAME", "FPNDecoder", "only MSDeformAttnPixelDecoder"),
        (
            "MASK_FORMER.TRANSFORMER_DECODER_NAME",
            "StandardTransformerDecoder",
            "only MultiScaleMaskedTransformerDecoder",
        ),
        ("MASK_FORMER.TRANSFORMER_IN_FEATURE", "res5", "'multi_scale_pixel_decoder' only"),
        ("SEM_SEG_HEAD.MS_DEFORM_ATTN_BACKEND", "cuda", "auto, pytorch, deformops"),
        ("SEM_SEG_HEAD.IN_FEATURES", ["res2", "p3"], "backbone gives res2, res3, res4, res5"),
        ("SEM_SEG_HEAD.IN_FEATURES", ["res3", "res4", "res5"], "do not lead there .* by halves"),
        (
            "SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES",
            ["res3", "res6"],
            "has only res2, res3, res4, res5",
        ),
    ],
)
def test_wrong_configuration_names_the_key(tiny, key, value, message):
    name = key.split(".")[-1]
    with pytest.raises(ValueError, match=f"(?s)MODEL.*{name}.*{message}"):
        tiny(f"MODEL.{key}", value)


def test_published_yaml_keys_are_understood(tiny_cfg, tmp_path):
    # Its ADE20K file for a ResNet, without what is detectron2's own.
    text = """
MODEL:
  META_ARCHITECTURE: "MaskFormer"
  BACKBONE:
    FREEZE_AT: 0
    NAME: "build_resnet_backbone"
  RESNETS:
    DEPTH: 50
    STEM_TYPE: "basic"
    STRIDE_IN_1X1: False
    OUT_FEATURES: ["res2", "res3", "res4", "res5"]
    RES5_MULTI_GRID: [1, 1, 1]
  SEM_SEG_HEAD:
    NAME: "MaskFormerHead"
    CONVS_DIM: 256
    MASK_DIM: 256
    NORM: "GN"
    PIXEL_DECODER_NAME: "MSDeformAttnPixelDecoder"
    DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES: ["res3", "res4", "res5"]
    COMMON_STRIDE: 4
    TRANSFORMER_ENC_LAYERS: 6
  MASK_FORMER:
    TRANSFORMER_DECODER_NAME: "MultiScaleMaskedTransformerDecoder"
    TRANSFORMER_IN_FEATURE: "multi_scale_pixel_decoder"
    DEEP_SUPERVISION: True
    NO_OBJECT_WEIGHT: 0.1
    CLASS_WEIGHT: 2.0
    MASK_WEIGHT: 5.0
    DICE_WEIGHT: 5.0
    HIDDEN_DIM: 256
    NUM_OBJECT_QUERIES: 100
    NHEADS: 8
    DROPOUT: 0.0
    DIM_FEEDFORWARD: 2048
    ENC_LAYERS: 0
    PRE_NORM: False
    ENFORCE_INPUT_PROJ: False
    SIZE_DIVISIBILITY: 32
    DEC_LAYERS: 10
    TRAIN_NUM_POINTS: 12544
    OVERSAMPLE_RATIO: 3.0
    IMPORTANCE_SAMPLE_RATIO: 0.75
    TEST:
      SEMANTIC_ON: True
      INSTANCE_ON: False
      PANOPTIC_ON: False
      OVERLAP_THRESHOLD: 0.8
      OBJECT_MASK_THRESHOLD: 0.8
SOLVER:
  OPTIMIZER: "ADAMW"
  LR_SCHEDULER_NAME: "WarmupPolyLR"
  BACKBONE_MULTIPLIER: 0.1
INPUT:
  CROP:
    SINGLE_CATEGORY_MAX_AREA: 1.0
  COLOR_AUG_SSD: True
  SIZE_DIVISIBILITY: 512
  DATASET_MAPPER_NAME: "mask_former_semantic"
  IMAGE_SIZE: 1024
  MIN_SCALE: 0.1
  MAX_SCALE: 2.0
"""
    (tmp_path / "published.yaml").write_text(text)
    cfg = tiny_cfg()
    cfg.merge_from_file(str(tmp_path / "published.yaml"))
    same = tiny_cfg()
    same.merge_from_file(str(CONFIGS / "Base-LRFormer-Plus.yaml"))
    assert cfg.MODEL.MASK_FORMER == same.MODEL.MASK_FORMER
    default = load_cfg(CONFIGS / "lrformer_t.yaml").MODEL  # of which the head takes these
    assert default.SEM_SEG_HEAD.PIXEL_DECODER_NAME == "MSDeformAttnPixelDecoder"
    assert default.MASK_FORMER.TRANSFORMER_IN_FEATURE == "multi_scale_pixel_decoder"
    assert cfg.SOLVER.POLY_LR_POWER == 0.9  # the published default
    model = build_model(cfg)  # a ResNet's features fit the decoder
    assert model.sem_seg_head.pixel_decoder.input_proj[0][0].in_channels == 2048
