"""Files of SegFormer and RTFormer, from each of their sources."""

import os
import pickle
import re
from pathlib import Path

import pytest
import torch

import deterministic_weights
from lrformer import build_model
from lrformer.checkpoint import LRFormerCheckpointer, WeightsError
from lrformer.checkpoint.convert import convert
from lrformer.checkpoint.reading import read_file

DATA = Path(__file__).parents[1] / "data"


def load(config, file, device="cpu", opts=()):
    with torch.device(device):
        model = build_model(config, device=device, opts=opts)
    checkpointer = LRFormerCheckpointer(model)
    checkpointer.load(str(file))
    return model, checkpointer.fit


@pytest.fixture(scope="module")
def b0():
    arrays = deterministic_weights.state_dict(DATA / "segformer_b0.json")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def expected(b0, tmp_path_factory):
    """The backbone of B0 from the authors' file, whose outputs other tests compare."""
    file = tmp_path_factory.mktemp("weights") / "released.pth"
    torch.save({"state_dict": b0, "meta": {}}, file)
    return load("models/segformer_b0.yaml", file)[0].backbone.state_dict()


def assert_same_backbone(model, expected):
    found = model.backbone.state_dict()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.filterwarnings("ignore:.*meta parameter:UserWarning")
@pytest.mark.parametrize(
    ("name", "config"),
    [
        *((f"segformer_b{i}", f"models/segformer_b{i}.yaml") for i in range(6)),
        *((f"rtformer_{v}", f"ade20k/rtformer_{v}.yaml") for v in ("slim", "base")),
        *((f"rtformer_{v}_cityscapes", f"cityscapes/rtformer_{v}.yaml") for v in ("slim", "base")),
    ],
)
def test_every_released_file_loads_with_every_parameter(keys_named, tmp_path, name, config):
    shapes = keys_named(name)
    torch.save({n: torch.zeros(()).expand(s) for n, s in shapes.items()}, tmp_path / "file")
    _, fit = load(config, tmp_path / "file", "meta")
    skipped = [n for n in shapes if "conv_seg" in n or n.endswith("num_batches_tracked")]
    assert len(fit.loaded) == len(shapes) - len(skipped)
    assert not fit.initialised and not fit.unexpected


def mmsegmentation_1(released):
    """The names and shapes of a backbone in mmsegmentation 1.x."""
    rules = (
        (r"patch_embed(\d)\.proj", "layers.{0}.0.projection"),
        (r"patch_embed(\d)\.norm", "layers.{0}.0.norm"),
        (r"block(\d)\.(\d+)\.attn\.proj", "layers.{0}.1.{1}.attn.attn.out_proj"),
        (r"block(\d)\.(\d+)\.mlp\.fc1", "layers.{0}.1.{1}.ffn.layers.0"),
        (r"block(\d)\.(\d+)\.mlp\.dwconv\.dwconv", "layers.{0}.1.{1}.ffn.layers.1"),
        (r"block(\d)\.(\d+)\.mlp\.fc2", "layers.{0}.1.{1}.ffn.layers.4"),
        (r"block(\d)\.(\d+)", "layers.{0}.1.{1}"),
        (r"\.norm(\d)\.", ".layers.{0}.2."),
    )
    renamed = {}
    for name, tensor in released.items():
        if name.endswith(("attn.kv.weight", "attn.kv.bias")):
            continue
        if match := re.fullmatch(r"(.*attn)\.q\.(\w+)", name):
            key_value = released[name.replace(".q.", ".kv.")]
            name, tensor = f"{match[1]}.attn.in_proj_{match[2]}", torch.cat([tensor, key_value])
        if ".mlp.fc" in name and tensor.ndim == 2:
            tensor = tensor[..., None, None]
        for pattern, new in rules:
            if match := re.search(pattern, name):
                stage = int(match[1]) - 1
                name = name.replace(match[0], new.format(stage, *match.groups()[1:]))
                break
        renamed[name] = tensor
    return renamed


def test_mmsegmentation_1(b0, expected, tmp_path):
    weights = mmsegmentation_1({n: t for n, t in b0.items() if n.startswith("backbone.")})
    # Its head is another network, whose classifier would fit.
    weights |= {
        "decode_head.fusion_conv.conv.weight": torch.zeros(256, 1024, 1, 1),
        "decode_head.conv_seg.weight": torch.zeros(150, 256, 1, 1),
    }
    torch.save({"state_dict": weights}, tmp_path / "mmseg.pth")
    model, fit = load("models/segformer_b0.yaml", tmp_path / "mmseg.pth")
    assert_same_backbone(model, expected)
    assert set(fit.unexpected) == {name for name in weights if name.startswith("decode_head.")}
    assert all(name.startswith("sem_seg_head.") for name in fit.missing)


@pytest.mark.parametrize("form", [dict, mmsegmentation_1])
def test_imagenet_files_start_any_model(b0, expected, tmp_path, form):
    weights = form({n: t for n, t in b0.items() if n.startswith("backbone.")})
    weights = {name.removeprefix("backbone."): tensor for name, tensor in weights.items()}
    weights |= {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    torch.save(weights, tmp_path / "mit_b0.pth")
    opts = ["MODEL.BACKBONE.NAME", "MixVisionTransformer"]
    for config in ("segformer_b0", "lrformer_s", "lrformer_plus_t"):
        model, fit = load(f"models/{config}.yaml", tmp_path / "mit_b0.pth", opts=opts)
        assert_same_backbone(model, expected)
        assert set(fit.unexpected) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("kind", ["Segmentation", "ImageClassification"])
def test_folders_of_hugging_face(tmp_path, name, kind):
    transformers = pytest.importorskip("transformers")
    names = {"Segmentation": "SemanticSegmentation"}
    theirs = getattr(transformers, f"SegformerFor{names.get(kind, kind)}")(
        transformers.SegformerConfig(num_labels=150)
    )
    theirs.save_pretrained(tmp_path)
    if name.endswith(".bin"):
        torch.save(read_file(tmp_path / "model.safetensors").weights, tmp_path / name)
        (tmp_path / "model.safetensors").unlink()
    _, fit = load("models/segformer_b0.yaml", tmp_path)
    if kind == "Segmentation":
        assert not fit.initialised and not fit.unexpected
    else:
        assert set(fit.unexpected) == {"head.weight", "head.bias"}
        assert all(name.startswith("sem_seg_head.") for name in fit.missing)


def test_paddle_files_with_code_are_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it_ran"),)

    arrays = deterministic_weights.state_dict(DATA / "rtformer_slim.json")
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps({**arrays, "x": Harmful()}, protocol=4))
    with pytest.raises(WeightsError, match=r"a.pdparams is refused: .*(posix|nt).mkdir"):
        load("models/rtformer_slim.yaml", tmp_path / "a.pdparams")
    assert not (tmp_path / "it_ran").exists()


def test_rtformers_imagenet_file(tmp_path):
    arrays = deterministic_weights.state_dict(DATA / "rtformer_slim.json")
    arrays = {k: v for k, v in arrays.items() if not k.startswith(("spp.", "seghead"))}
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps(arrays, protocol=4))
    model, fit = load("models/rtformer_slim.yaml", tmp_path / "a.pdparams")
    assert len(fit.loaded) == len(arrays) and not fit.unexpected
    key = model.backbone.layer4.attn_l.k.weight
    assert torch.equal(key, torch.from_numpy(arrays["layer4.attn_l.k"]))


def test_another_model_is_refused_and_both_are_named(b0, tmp_path):
    torch.save(b0, tmp_path / "b0.pth")
    for config, name in (
        ("segformer_b1", "MiT-B1 (channels 64, 128, 320, 512; blocks 2, 2, 2, 2)"),
        ("rtformer_slim", "RTFormer-Slim (32 channels)"),
        ("lrformer_t", "LRFormer-T (channels 48, 96, 240, 384; blocks 2, 2, 6, 3)"),
    ):
        with pytest.raises(WeightsError, match="b0.pth is a SegFormer checkpoint") as raised:
            load(f"models/{config}.yaml", tmp_path / "b0.pth")
        assert "MiT-B0 (channels 32, 64, 160, 256; blocks 2, 2, 2, 2)" in str(raised.value)
        assert name in str(raised.value)


def test_conversion_to_our_names_and_no_others(b0, expected, tmp_path):
    torch.save(b0, tmp_path / "b0.pth")
    convert([tmp_path / "b0.pth"], tmp_path / "ours.safetensors", "ours")
    model, fit = load("models/segformer_b0.yaml", tmp_path / "ours.safetensors")
    assert not fit.initialised and not fit.unexpected
    assert_same_backbone(model, expected)
    with pytest.raises(WeightsError, match="no released names of it are known here"):
        convert([tmp_path / "ours.safetensors"], tmp_path / "other.pth", "released")
