"""What MODEL.WEIGHTS takes, what is reported, and which weights are refused."""

import json
import logging
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lrformer.checkpoint import LRFormerCheckpointer, WeightsError
from lrformer.checkpoint.convert import convert

HEAD = Path(__file__).parents[1] / "data" / "mask2former_detectron2_head_t.json"
VARIANTS = [f"{v}{plus}" for plus in ("", "_plus") for v in ("t", "s", "b", "l", "xl")]


def load(model, file, caplog=None, **options):
    """Load and return the checkpointer and, with ``caplog``, level and text of the report."""
    checkpointer = LRFormerCheckpointer(model, **options)
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


def test_one_model_from_every_kind_of_file(released, build_variant, tmp_path):
    weights = released("t")
    files = [tmp_path / name for name in ("released.pth", "released.safetensors")]
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights.items()}, "meta": {}}, files[0])
    save_file(weights, files[1])
    first = build_variant("t")
    load(first, files[0])
    LRFormerCheckpointer(first, str(tmp_path)).save("ours")
    files += [tmp_path / name for name in ("ours.pth", "ours.safetensors", "converted.safetensors")]
    convert([files[2]], files[3])
    convert([files[0]], files[4], "ours")

    torch.manual_seed(0)
    inputs = [{"image": torch.rand(3, 64, 96) * 255, "height": 64, "width": 96}]
    with torch.no_grad():
        expected = first(inputs)[0]["sem_seg"]
        assert expected.std() > 0
        other = build_variant("t")
        for file in files[1:]:
            other.load_state_dict(changed(other.state_dict()))
            load(other, file)
            assert torch.equal(other(inputs)[0]["sem_seg"], expected), file


@pytest.mark.parametrize("key", [None, "model"])
def test_a_released_imagenet_file(key, released, build_variant, tmp_path, caplog):
    weights = {
        name.removeprefix("backbone."): tensor
        for name, tensor in released("t").items()
        if name.startswith("backbone.")
    }
    weights |= {"head.weight": torch.zeros(1000, 384), "head.bias": torch.zeros(1000)}
    torch.save({key: weights, "epoch": 299} if key else weights, tmp_path / "imagenet.pth")
    model = build_variant("t")
    checkpointer, level, report = load(model, tmp_path / "imagenet.pth", caplog)
    # The first block's key/value layer, by its names there and here.
    assert torch.equal(
        model.backbone.stages[0].blocks[0].attn.kv.weight, weights["block1.0.attn.kv.0.weight"]
    )
    assert all(name.startswith("sem_seg_head.") for name in checkpointer.fit.missing)
    assert level == "INFO"  # that it has no head is as it should be
    assert "a released ImageNet backbone" in report
    assert "head initialised" in report
    assert "left out (2): head.weight, head.bias" in report


def test_a_backbone_that_was_pre_trained_here(tiny, tmp_path, caplog):
    weights = changed(tiny().backbone.state_dict())
    # As tools/pretrain_imagenet.py writes it.
    state = {"model": weights | {"head.weight": torch.zeros(3, 32)}, "optimizer": {}, "epoch": 5}
    torch.save(state, tmp_path / "pretrained.pth")
    model = tiny()
    _, level, report = load(model, tmp_path / "pretrained.pth", caplog)
    assert_same(weights, model.backbone.state_dict())
    assert "an ImageNet backbone under this project's names" in report and level == "INFO"


def mask2former_file(file, classes=150, old_names=False):
    """A Mask2Former checkpoint with Swin-T, as the published ones are; returns its arrays."""
    shapes = {k: tuple(v) for k, v in json.loads(HEAD.read_text()).items()}
    pixel = "sem_seg_head.pixel_decoder."
    for i, channels in enumerate((768, 384, 192)):
        shapes[f"{pixel}input_proj.{i}.0.weight"] = (256, channels, 1, 1)
    shapes[f"{pixel}adapter_1.weight"] = (256, 96, 1, 1)
    for name in ("weight", "bias"):
        key = f"sem_seg_head.predictor.class_embed.{name}"
        shapes[key] = (classes + 1, *shapes[key][1:])
    shapes["criterion.empty_weight"] = (classes + 1,)
    shapes |= {
        "backbone.patch_embed.proj.weight": (96, 3, 4, 4),
        "backbone.layers.0.blocks.0.norm1.weight": (96,),
    }
    torch.manual_seed(0)
    arrays = {name: torch.rand(shape).numpy() for name, shape in shapes.items()}
    stored = arrays
    if old_names:
        stored = {
            k.replace(pixel, "sem_seg_head.").replace("query_feat", "static_query"): v
            for k, v in arrays.items()
        }
    content = {"model": stored, "__author__": "third_party", "matching_heuristics": True}
    file.write_bytes(pickle.dumps(content))
    return arrays


@pytest.mark.parametrize("old_names", [False, True])
def test_the_head_of_a_published_mask2former(build_variant, tmp_path, caplog, old_names):
    arrays = mask2former_file(tmp_path / "model_final.pkl", old_names=old_names)
    model = build_variant("plus_t")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    checkpointer, level, report = load(model, tmp_path / "model_final.pkl", caplog)
    wrong = [name for name, *_ in checkpointer.fit.wrong_shape]
    pixel = "sem_seg_head.pixel_decoder."
    assert wrong == [f"{pixel}input_proj.{i}.0.weight" for i in range(3)] + [
        f"{pixel}adapter_1.weight"
    ]
    after = model.state_dict()
    for name in before:
        is_taken = name in arrays and name not in wrong and name != "criterion.empty_weight"
        assert torch.equal(after[name], torch.as_tensor(arrays[name]) if is_taken else before[name])
    assert level == "WARNING"
    assert "a detectron2-format Mask2Former checkpoint with another backbone" in report
    assert "BACKBONE NOT LOADED" in report and "(2 parameters left out)" in report
    assert f"{pixel}adapter_1.weight (256x96x1x1, here 256x48x1x1)" in report


def test_the_weight_of_no_object_is_the_configs(build_variant, tmp_path):
    mask2former_file(tmp_path / "head.pkl")
    model = build_variant("plus_t", "cpu", "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT", 0.25)
    load(model, tmp_path / "head.pkl")
    assert model.criterion.empty_weight.tolist() == [1.0] * 150 + [0.25]


def test_mask2former_into_a_plain_model_is_refused(tiny, tmp_path):
    mask2former_file(tmp_path / "head.pkl")
    with pytest.raises(
        WeightsError, match="none of the 295 tensors .* Mask2Former .* another model"
    ):
        load(tiny(), tmp_path / "head.pkl")


def test_another_number_of_classes_renews_the_plain_classifier(tiny, tmp_path, caplog):
    weights = changed(tiny().state_dict())
    torch.save(weights, tmp_path / "five.pth")
    model = tiny("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 7)
    before = model.sem_seg_head.predictor.weight.clone()
    _, level, report = load(model, tmp_path / "five.pth", caplog)
    assert torch.equal(model.sem_seg_head.predictor.weight, before)
    after = model.state_dict()
    assert_same(weights, after, [k for k in weights if "predictor" not in k])
    assert (
        "classifier initialised anew (sem_seg_head.predictor): 5 classes in the file, 7 in the "
        "config"
    ) in report
    total = len([k for k in weights if not k.endswith("num_batches_tracked")])
    assert f"{total - 2} of {total} parameters loaded" in report
    assert level == "WARNING" and "shape" not in report and "empty_weight" not in report


def test_another_number_of_classes_renews_lrformer_plus_classifier(
    released, build_variant, tmp_path, caplog
):
    weights = released("t_plus")
    torch.save({"state_dict": weights}, tmp_path / "released.pth")
    model = build_variant("plus_t", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 19)
    _, _, report = load(model, tmp_path / "released.pth", caplog)
    assert (
        "classifier initialised anew (sem_seg_head.predictor.class_embed): 150 classes in the "
        "file, 19 in the config"
    ) in report
    assert report.count("\n") == 1  # the criterion's weights are not worth a line
    assert model.criterion.empty_weight.shape == (20,)
    query = "sem_seg_head.predictor.query_feat.weight"
    assert torch.equal(model.state_dict()[query], weights["decode_head.query_feat.weight"])


def test_missing_and_unexpected_parameters_are_grouped(tiny, tmp_path, caplog):
    weights = tiny().state_dict()
    for name in [k for k in weights if k.startswith("sem_seg_head.block2.")]:
        del weights[name]
    weights |= {f"auxiliary_head.convs.{i}.weight": torch.zeros(1) for i in range(40)}
    weights |= {f"teacher{i}.weight": torch.zeros(1) for i in range(9)}
    torch.save(weights, tmp_path / "partial.pth")
    checkpointer, level, report = load(tiny(), tmp_path / "partial.pth", caplog)
    assert level == "WARNING"
    assert all(name.startswith("sem_seg_head.block2.") for name in checkpointer.fit.missing)
    lines = report.splitlines()
    assert len(lines) == 3 and max(map(len, lines)) < 400
    assert f"missing in the file, so initialised ({len(checkpointer.fit.missing)}): " in lines[1]
    assert "sem_seg_head.block2" in lines[1]
    assert "not in this model, so left out (49): auxiliary_head (40), teacher0 (1)" in lines[2]
    assert lines[2].endswith("and 4 more")


def test_auxiliary_heads_of_released_files_are_reported(released, build_variant, tmp_path, caplog):
    weights = released("t") | {"auxiliary_head.conv_seg.weight": torch.zeros(150, 256, 1, 1)}
    torch.save({"state_dict": weights}, tmp_path / "released.pth")
    _, level, report = load(build_variant("t"), tmp_path / "released.pth", caplog)
    assert "left out (1): auxiliary_head.conv_seg.weight" in report
    assert level == "INFO"


@pytest.mark.parametrize("classes", [150, 19])  # with 19 not even the classifier's bias fits
def test_another_variant_is_refused_and_both_are_named(released, build_variant, tmp_path, classes):
    torch.save(released("t"), tmp_path / "t.pth")
    model = build_variant("s", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", classes)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(WeightsError) as raised:
        load(model, tmp_path / "t.pth")
    message = str(raised.value)
    assert "t.pth holds LRFormer-T (channels 48, 96, 240, 384; blocks 2, 2, 6, 3)" in message
    assert "backbone is LRFormer-S (channels 64, 128, 320, 512; blocks 3, 3, 12, 3)" in message
    assert_same(before, model.state_dict())


def test_nine_tenths_of_the_backbone_are_needed(tiny, tmp_path, caplog):
    weights = tiny().state_dict()
    names = [k for k in weights if k.startswith("backbone.") and "num_batches" not in k]
    limit = int(0.1 * len(names))
    for count in (limit, limit + 1):
        some = {k: v for k, v in weights.items() if k not in names[-count:]}
        torch.save(some, tmp_path / f"{count}.pth")
    load(tiny(), tmp_path / f"{limit}.pth")
    with pytest.raises(WeightsError, match=rf"{len(names) - limit - 1} of its {len(names)} "):
        load(tiny(), tmp_path / f"{limit + 1}.pth")


def test_weights_that_fit_nothing_are_refused(tiny, tmp_path):
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="none of the 1 tensors in .*other.pth .* encoder.wei"):
        load(tiny(), tmp_path / "other.pth")
    torch.save({"weight": torch.zeros(3, 3)}, tmp_path / "shape.pth")
    with pytest.raises(WeightsError, match="none of the 1 tensors"):
        load(torch.nn.Linear(2, 2), tmp_path / "shape.pth")


def test_a_head_alone_is_refused(tiny, tmp_path):
    weights = {k: v for k, v in tiny().state_dict().items() if k.startswith("sem_seg_head.")}
    torch.save(weights, tmp_path / "head.pth")
    with pytest.raises(WeightsError, match="fits 0 of the backbone's .* holds sem_seg_head"):
        load(tiny(), tmp_path / "head.pth")


def test_a_mixture_of_layouts_is_refused(tiny, released, tmp_path):
    torch.save(tiny().state_dict() | released("t"), tmp_path / "both.pth")
    with pytest.raises(WeightsError, match="both.pth: the names are a mixture of .* and .*"):
        load(tiny(), tmp_path / "both.pth")


def test_plain_weights_start_lrformer_plus(released, build_variant, tmp_path, caplog):
    torch.save(released("t"), tmp_path / "plain.pth")
    model = build_variant("plus_t")
    _, level, report = load(model, tmp_path / "plain.pth", caplog)
    weight = released("t")["backbone.block4.2.attn.proj.weight"]
    assert torch.equal(model.backbone.stages[3].blocks[2].attn.proj.weight, weight)
    assert "a released LRFormer checkpoint" in report and "missing" in report
    assert level == "WARNING"


class Counter:
    """Something that is checkpointed beside the model."""

    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


@pytest.mark.parametrize("resume", [True, False])
def test_only_a_resumed_training_takes_its_state(tiny, tmp_path, resume):
    model = tiny()
    LRFormerCheckpointer(model, str(tmp_path), trainer=Counter(7)).save("model", iteration=4)
    counter, other = Counter(0), tiny(seed=1)
    checkpointer = LRFormerCheckpointer(other, str(tmp_path), trainer=counter)
    rest = checkpointer.resume_or_load(str(tmp_path / "model.pth"), resume=resume)
    assert rest["iteration"] == 4
    assert counter.value == (7 if resume else 0)
    assert_same(model.state_dict(), other.state_dict())


def test_a_released_files_training_state_is_not_taken(released, build_variant, tmp_path):
    content = {"state_dict": released("t"), "iteration": 160000, "trainer": {"value": 7}}
    torch.save(content, tmp_path / "released.pth")
    counter = Counter(0)
    checkpointer = LRFormerCheckpointer(build_variant("t"), trainer=counter)
    assert checkpointer.load(str(tmp_path / "released.pth")) == {}
    assert counter.value == 0


def test_backbones_of_detectron2s_zoo_fit_models_that_have_them(tmp_path):
    from detectron2.config import get_cfg
    from detectron2.modeling import build_backbone

    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    model = torch.nn.Module()
    model.backbone = build_backbone(cfg)
    weights = changed(model.backbone.state_dict())
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(content))
    checkpointer = load(model, tmp_path / "R-18.pkl")
    assert not checkpointer.fit.initialised
    assert_same(weights, model.backbone.state_dict())


def test_pickles_are_allowed_by_a_flag_only(tiny, tmp_path):
    torch.save({"model": tiny().state_dict(), "cfg": Path("x")}, tmp_path / "pickle.pth")
    with pytest.raises(WeightsError, match="pathlib"):
        load(tiny(), tmp_path / "pickle.pth")
    assert load(tiny(), tmp_path / "pickle.pth", allow_pickle=True).fit.loaded
