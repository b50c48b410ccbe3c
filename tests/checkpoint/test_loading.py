"""What MODEL.WEIGHTS takes, what is reported, and which weights are refused."""

import json
import logging
import pickle
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone

from lrformer.checkpoint import LRFormerCheckpointer, WeightsError, to_released

HEAD = Path(__file__).parents[1] / "data" / "mask2former_detectron2_head_t.json"
VARIANTS = [f"{v}{plus}" for plus in ("", "_plus") for v in ("t", "s", "b", "l", "xl")]


def load(model, file, caplog=None):
    """Load and return the checkpointer and, with ``caplog``, level and text of the report."""
    checkpointer = LRFormerCheckpointer(model)
    if caplog is None:
        checkpointer.load(str(file))
        return checkpointer
    caplog.clear()
    with caplog.at_level(logging.INFO):
        checkpointer.load(str(file))
    (report,) = [r for r in caplog.records if r.name.startswith("lrformer")]
    # Nothing is said twice: what is left is that a file is being loaded.
    others = [r.getMessage() for r in caplog.records if r is not report]
    assert [text for text in others if "Loading" not in text] == []
    return checkpointer, report.levelname, report.getMessage()


def changed(weights):
    """Names of a model's floating-point weights, all of which have been drawn anew."""
    return {k: torch.rand(v.shape) if v.is_floating_point() else v for k, v in weights.items()}


def assert_same(one, other, names=None):
    for name in one if names is None else names:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.filterwarnings("ignore:.*meta parameter:UserWarning")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_released_file_loads_with_every_parameter(
    variant, keys_of, build_variant, tmp_path, caplog
):
    # Tensors of one number each, which are shown in their whole shape.
    weights = {name: torch.zeros(()).expand(shape) for name, shape in keys_of(variant).items()}
    torch.save({"state_dict": weights}, tmp_path / "released.pth")
    name = variant.removesuffix("_plus")
    model = build_variant(name if name == variant else f"plus_{name}", "meta")
    checkpointer, level, report = load(model, tmp_path / "released.pth", caplog)
    counters = sum(key.endswith("num_batches_tracked") for key in weights)
    assert len(checkpointer.fit.loaded) == len(weights) - counters
    assert not checkpointer.fit.initialised and not checkpointer.fit.unexpected
    kind = "LRFormer" if name == variant else r"LRFormer+"
    assert f"a released {kind} checkpoint" in report and f"LRFormer-{name.upper()} " in report
    assert f"all {len(weights) - counters} parameters loaded" in report
    assert level == "INFO" and "\n" not in report


def test_a_released_imagenet_file(imagenet, build_variant, tmp_path, caplog):
    torch.save({"model": imagenet, "epoch": 299}, tmp_path / "imagenet.pth")
    model = build_variant("t")
    checkpointer, level, report = load(model, tmp_path / "imagenet.pth", caplog)
    # The first block's key/value layer, by its names there and here.
    own = model.backbone.stages[0].blocks[0].attn.kv.weight
    assert torch.equal(own, imagenet["block1.0.attn.kv.0.weight"])
    assert all(name.startswith("sem_seg_head.") for name in checkpointer.fit.missing)
    assert level == "INFO"  # that it has no head is as it should be
    assert "a released ImageNet backbone" in report
    assert "left out (2): head.weight, head.bias" in report


PIXEL = "sem_seg_head.pixel_decoder."


def mask2former_file(file, old_names=False):
    """A Mask2Former checkpoint with Swin-T, as the published ones are; returns its arrays."""
    shapes = json.loads(HEAD.read_text()) | {
        **{f"{PIXEL}input_proj.{i}.0.weight": (256, 768 >> i, 1, 1) for i in range(3)},
        f"{PIXEL}adapter_1.weight": (256, 96, 1, 1),
        "criterion.empty_weight": (151,),
        "backbone.patch_embed.proj.weight": (96, 3, 4, 4),
        "backbone.layers.0.blocks.0.norm1.weight": (96,),
    }
    torch.manual_seed(0)
    arrays = stored = {name: torch.rand(*shape).numpy() for name, shape in shapes.items()}
    if old_names:
        stored = {
            k.replace(PIXEL, "sem_seg_head.").replace("query_feat", "static_query"): v
            for k, v in arrays.items()
        }
    content = {"model": stored, "__author__": "third_party", "matching_heuristics": True}
    file.write_bytes(pickle.dumps(content))
    return arrays


@pytest.mark.parametrize("old_names", [False, True])
def test_the_head_of_a_published_mask2former(build_variant, tmp_path, caplog, old_names):
    arrays = mask2former_file(tmp_path / "model_final.pkl", old_names=old_names)
    model = build_variant("plus_t", "cpu", "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT", 0.25)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    checkpointer, level, report = load(model, tmp_path / "model_final.pkl", caplog)
    wrong = [*(f"{PIXEL}input_proj.{i}.0.weight" for i in range(3)), f"{PIXEL}adapter_1.weight"]
    assert [name for name, *_ in checkpointer.fit.wrong_shape] == wrong
    for name in (*wrong, "criterion.empty_weight"):
        del arrays[name]
    taken = {name: torch.as_tensor(array) for name, array in arrays.items() if name in before}
    assert_same(before | taken, model.state_dict())
    assert model.criterion.empty_weight.tolist() == [1.0] * 150 + [0.25]  # the config's
    assert level == "WARNING"
    assert "a detectron2-format Mask2Former checkpoint with another backbone" in report
    assert "BACKBONE NOT LOADED" in report
    assert f"{PIXEL}adapter_1.weight (256x96x1x1, here 256x48x1x1)" in report


def test_another_number_of_classes_renews_the_plain_classifier(tiny, tmp_path, caplog):
    weights = changed(tiny().state_dict())
    torch.save(weights, tmp_path / "five.pth")
    model = tiny("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 7)
    before = model.sem_seg_head.predictor.weight.clone()
    _, level, report = load(model, tmp_path / "five.pth", caplog)
    assert torch.equal(model.sem_seg_head.predictor.weight, before)
    assert_same(weights, model.state_dict(), [k for k in weights if "predictor" not in k])
    total = len([k for k in weights if not k.endswith("num_batches_tracked")])
    assert f"{total - 2} of {total} parameters loaded" in report
    assert "sem_seg_head.predictor.bias (5, here 7)" in report and level == "WARNING"


def test_another_number_of_classes_renews_that_of_plus(released, build_variant, tmp_path, caplog):
    torch.save({"state_dict": released("t_plus")}, tmp_path / "released.pth")
    model = build_variant("plus_t", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 19)
    _, _, report = load(model, tmp_path / "released.pth", caplog)
    assert "sem_seg_head.predictor.class_embed.bias (151, here 20)" in report
    assert report.count("\n") == 1  # the criterion's weights are not worth a line


def test_missing_and_unexpected_parameters_are_grouped(tiny, tmp_path, caplog):
    weights = tiny().state_dict()
    for name in [k for k in weights if k.startswith("sem_seg_head.block2.")]:
        del weights[name]
    weights |= {f"auxiliary_head.convs.{i}.weight": torch.zeros(1) for i in range(40)}
    weights |= {f"teacher{i}.weight": torch.zeros(1) for i in range(9)}
    torch.save(weights, tmp_path / "partial.pth")
    _, level, report = load(tiny(), tmp_path / "partial.pth", caplog)
    _, missing, unexpected = report.splitlines()
    assert level == "WARNING" and "sem_seg_head.block2" in missing and len(missing) < 400
    assert "left out (49): auxiliary_head (40), teacher0 (1)" in unexpected
    assert unexpected.endswith("and 4 more")


def test_another_variant_is_refused_and_both_are_named(released, build_variant, tmp_path):
    torch.save(released("t"), tmp_path / "t.pth")
    # Not even the classifier's bias fits.
    model = build_variant("s", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 19)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(WeightsError, match="t.pth is") as raised:
        load(model, tmp_path / "t.pth")
    for name in (
        "LRFormer-T (channels 48, 96, 240, 384; blocks 2, 2, 6, 3)",
        "LRFormer-S (channels 64, 128, 320, 512; blocks 3, 3, 12, 3)",
    ):
        assert name in str(raised.value)
    assert_same(before, model.state_dict())


def test_nine_tenths_of_the_backbone_are_needed(tiny, tmp_path):
    weights = tiny().state_dict()
    names = [k for k in weights if k.startswith("backbone.") and "num_batches" not in k]
    limit = int(0.1 * len(names))
    for name in names[:limit]:
        del weights[name]
    torch.save(weights, tmp_path / "a.pth")
    load(tiny(), tmp_path / "a.pth")
    del weights[names[limit]]
    torch.save(weights, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match=rf"{len(names) - limit - 1} of its {len(names)} "):
        load(tiny(), tmp_path / "b.pth")


def test_what_fits_nothing_or_no_backbone_is_refused(tiny, tmp_path):
    file = tmp_path / "other.pth"
    mask2former_file(file)
    with pytest.raises(WeightsError, match=r"other.pth is .*Mask2Former.* 0 of the model's 214"):
        load(tiny(), file)
    head = {k: v for k, v in tiny().state_dict().items() if k.startswith("sem_seg_head.")}
    for model, weights, said in (
        (tiny(), {"encoder.weight": torch.zeros(2)}, "encoder.weight"),
        (tiny(), head, "holds sem_seg_head.* 0 of its 150 parameters fit"),
        (torch.nn.Linear(2, 2), {"weight": torch.zeros(3, 3)}, "weight"),
    ):
        torch.save(weights, file)
        with pytest.raises(WeightsError, match=f"other.pth is .*{said}"):
            load(model, file)


def test_plain_weights_start_lrformer_plus(released, build_variant, tmp_path):
    torch.save(released("t"), tmp_path / "plain.pth")
    checkpointer = load(build_variant("plus_t"), tmp_path / "plain.pth")
    assert not [name for name in checkpointer.fit.initialised if name.startswith("backbone.")]


@pytest.mark.parametrize("kind", ["resumed", "started", "released"])
def test_only_a_resumed_training_takes_its_state(tiny, tmp_path, kind):
    model, other = tiny(), tiny(seed=1)
    optimizers = [torch.optim.SGD(m.parameters(), lr) for m, lr in ((model, 1.0), (other, 2.0))]
    LRFormerCheckpointer(model, str(tmp_path), optimizer=optimizers[0]).save("model", iteration=4)
    if kind == "released":
        content = torch.load(tmp_path / "model.pth", weights_only=True)
        content["state_dict"] = to_released(content.pop("model"))[0]
        torch.save(content, tmp_path / "model.pth")
    checkpointer = LRFormerCheckpointer(other, str(tmp_path), optimizer=optimizers[1])
    rest = checkpointer.resume_or_load(str(tmp_path / "model.pth"), resume=kind != "started")
    assert rest.get("iteration") == (None if kind == "released" else 4)
    assert optimizers[1].param_groups[0]["lr"] == (1.0 if kind == "resumed" else 2.0)
    assert_same(model.state_dict(), other.state_dict())


def test_backbones_of_detectron2s_zoo_fit_models_that_have_them(tmp_path):
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    model = torch.nn.Module()
    model.backbone = build_backbone(cfg)
    weights = changed(model.backbone.state_dict())
    content = {"model": {k: v.numpy() for k, v in weights.items()}, "matching_heuristics": True}
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(content))
    assert not load(model, tmp_path / "R-18.pkl").fit.initialised
    assert_same(weights, model.backbone.state_dict())
