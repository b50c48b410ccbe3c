"""Models at any size, in any state: no crash, no NaN, the numbers of the plain model in float64.

The reference is the plain model's own copy in float64 on one image after the other. FIRE_CASES
sets how many cases are tried, 300 by default.
"""

import copy
import io
import math
import os
import pickle
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
import torch.distributed as dist
from detectron2.modeling import build_model
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import lrformer.timm_models  # noqa: F401 - registers the models
from lrformer import Predictor, load_cfg
from lrformer.export import ExportOptions, export_model
from lrformer.inference.exported import load_exported
from lrformer.ops import accelerate
from tests.conftest import TINY

_KEYS = TINY | {
    # At the released 1e-6 attention would not be seen.
    "MODEL.LRFORMER.LAYER_SCALE_INIT": [0.5, 0.5, 0.5, 0.5],
    "MODEL.LRFORMER.PRE_NORM_BLOCKS": [[], [0], [], []],
    "MODEL.LRFORMER.DROP_PATH_RATE": 0.0,
    "MODEL.MIT.EMBED_DIMS": [8, 16, 40, 64],
    "MODEL.MIT.DEPTHS": [1, 1, 1, 1],
    "MODEL.MIT.DROP_PATH_RATE": 0.0,
    "MODEL.RTFORMER.WIDTH": 8,
    "MODEL.RTFORMER.DROP_PATH_RATE": 0.0,
    "MODEL.SEM_SEG_HEAD.LAYER_SCALE_INIT": 0.5,
    "MODEL.SEM_SEG_HEAD.DROPOUT": 0.0,
    "MODEL.MASK_FORMER.DEC_LAYERS": 2,
    "INPUT.MIN_SIZE_TEST": 64,
    "DATASETS.TEST": (),
}
_ON_MIT = {"MODEL.BACKBONE.NAME": "MixVisionTransformer"}
MODELS = {
    "lrformer_t": {},
    "segformer_b0": {},
    "rtformer_slim": {},
    **{f"lrformer_s_{head}": _ON_MIT for head in ("ppm", "da", "cc", "ocr")},
}
# Of one stage and one pool: exporting takes its time.
_SMALL = {
    "MODEL.LRFORMER.OUT_FEATURES": ["res2"],
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2"],
    "MODEL.LRFORMER.PYRAMID_SIZES": [8],
}
CASES = int(os.environ.get("FIRE_CASES", 300))


def cases(share):
    """Settings for a share of all cases: the same ones each time, unless there are more of them."""
    return settings(
        max_examples=max(1, round(share * CASES)),
        deadline=None,
        derandomize=CASES == 300,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def sizes(draw, short=1):
    """Height and width from 1 to 600, aspect ratios to 1:100."""
    one = draw(st.integers(short, 600))
    other = draw(st.integers(max(short, one // 100), min(600, 100 * one)))
    return (one, other) if draw(st.booleans()) else (other, one)


class Scaled(nn.Module):
    """What LoRA and others put in a module's place."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 0.5 * self.inner(x)


class Change(NamedTuple):
    """A hook of, or a module in the place of, one of the convolutions and linear layers."""

    kind: str
    share: float

    def apply(self, model):
        names = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        parent, _, leaf = names[int(self.share * len(names))].rpartition(".")
        module = model.get_submodule(parent)
        if self.kind == "hook":
            getattr(module, leaf).register_forward_hook(_half)
        else:
            setattr(module, leaf, Scaled(getattr(module, leaf)))


def _half(module, inputs, output):
    return 0.5 * output


def _saved(model):
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


def _frozen(model):
    return model.requires_grad_(False)


TREATMENTS = {
    "accelerate": accelerate,
    "channels_last": lambda model: model.to(memory_format=torch.channels_last),
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "save": _saved,
    "ema": lambda model: ModelEmaV3(model).module,
    "frozen": _frozen,
}
CHANGES = st.lists(
    st.builds(Change, st.sampled_from(("hook", "place")), st.floats(0, 0.99)), max_size=2
)
STATES = st.lists(st.sampled_from(list(TREATMENTS)), max_size=3)
MODES = st.sampled_from((torch.inference_mode, torch.no_grad, torch.enable_grad))


@cache
def _built(name, small=False):
    torch.manual_seed(0)
    keys = _KEYS | MODELS.get(name, {}) | (_SMALL if small else {})
    cfg = load_cfg(f"models/{name}.yaml", list(chain(*keys.items())))
    return cfg, build_model(cfg).eval()


def _build(name, **options):
    return copy.deepcopy(_built(name, **options)[1])


def _images(size, batch):
    random = torch.Generator().manual_seed(size[0] * 601 + size[1])
    return [
        torch.randint(0, 256, (3, *size), generator=random, dtype=torch.uint8) for _ in range(batch)
    ]


def _inputs(images):
    return [{"image": x, "height": x.shape[1], "width": x.shape[2]} for x in images]


def _prepare(model, changes, states):
    """The model as it is used, and its plain copy in float64."""
    for change in changes:
        change.apply(model)
    plain = copy.deepcopy(model).double()
    for state in states:
        model = TREATMENTS[state](model)
    return model, plain


def _loss(maps):
    return sum((x * torch.linspace(-1, 1, x.numel()).view_as(x)).sum() for x in maps.values())


def _close(found, expected, limit):
    found, expected = found.detach().double(), expected.detach()
    assert found.shape == expected.shape
    assert found.isfinite().all()
    assert (found - expected).norm() <= limit * expected.norm() + 1e-6


@cases(0.5)
@given(
    st.sampled_from(list(MODELS)), sizes(), st.integers(1, 2), CHANGES, STATES, MODES, st.booleans()
)
@example("segformer_b0", (33, 1), 1, [], [], torch.inference_mode, True)
@example("segformer_b0", (2, 1), 1, [], [], torch.inference_mode, True)
def test_models_predict_what_float64_does(name, size, batch, changes, states, mode, mixed):
    model, plain = _prepare(_build(name), changes, states)
    images = _images(size, batch)
    with mode(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        found = model(_inputs(images))
    with torch.no_grad():
        for image, result in zip(images, found, strict=True):
            # oneDNN's convolution in bfloat16 is wrong where a window of MiT is as wide as the map.
            is_wrong = name not in ("lrformer_t", "rtformer_slim") and min(size) <= 32
            limit = (math.inf if is_wrong else 0.3) if mixed else 1e-3
            _close(result["sem_seg"], plain(_inputs([image]))[0]["sem_seg"], limit)


@cases(0.15)
@given(st.sampled_from(("lrformer_t", "segformer_b0")), sizes(), CHANGES, STATES, st.booleans())
def test_backbones_take_images_of_any_size(name, size, changes, states, train):
    if name == "segformer_b0":  # reduces windows of 32 pixels to one key
        size = tuple(max(side, 32) for side in size)
    model, plain = _prepare(_build(name).backbone, changes, states)
    image = torch.stack(_images(size, 2)).double() / 255
    inputs = image.float().requires_grad_(), image.requires_grad_()
    if train:  # with the statistics of the evaluation: those of two numbers amplify rounding
        for module in chain(*(x.train().modules() for x in (model, plain))):
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    outputs = [x(y) for x, y in zip((model, plain), inputs, strict=True)]
    for key, expected in outputs[1].items():
        _close(outputs[0][key], expected, 1e-3)
    for output in outputs:
        _loss(output).backward()
    _close(inputs[0].grad, inputs[1].grad, 1e-2)


@cases(0.1)
@given(sizes(33), st.sampled_from(["accelerate", "channels_last", "pickle"]), st.booleans())
def test_plus_predicts_what_float64_does(size, state, mixed):
    model, plain = _prepare(_build("lrformer_plus_t"), (), (state,))
    (image,) = _images(size, 1)
    with torch.inference_mode():
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            found = model(_inputs([image]))[0]["sem_seg"].double()
        expected = plain(_inputs([image]))[0]["sem_seg"]
    assert found.shape == expected.shape and found.isfinite().all()
    # Masks are cut at a threshold, which rounding can pass.
    assert (found - expected).abs().median() <= (0.3 if mixed else 1e-3) * expected.abs().max()


@cases(0.15)
@given(sizes(), st.booleans(), st.sampled_from(("plain", "windows", "augmented")))
def test_the_predictor_gives_the_image_its_size_and_the_likeliest_classes(size, gray, kind):
    opts: list[Any] = ["TEST.AUG.ENABLED", kind == "augmented", "TEST.AUG.MIN_SIZES", (32, 64)]
    opts += ["TEST.SLIDING_WINDOW.ENABLED", kind == "windows"]
    opts += ["TEST.SLIDING_WINDOW.CROP_SIZE", [64, 64], "TEST.SLIDING_WINDOW.STRIDE", [48, 48]]
    keys = list(chain(*_KEYS.items()))
    predictor = Predictor(load_cfg("models/lrformer_t.yaml", [*keys, *opts]), _build("lrformer_t"))
    image = _images(size, 1)[0].permute(1, 2, 0).numpy()
    image = image[:, :, :1].repeat(3, 2) if gray else image
    classes = predictor(image)
    assert classes.shape == size and classes.dtype == np.int64
    scores = predictor.predict(image)["sem_seg"]
    assert scores.isfinite().all()
    chosen = scores.gather(0, torch.from_numpy(classes)[None])[0]
    assert (scores.amax(0) - chosen).max() <= 1e-4 * scores.abs().max()


@cases(0.1)
@given(st.sampled_from(("lrformer_tiny", "mit_b0")), sizes(), CHANGES, STATES, MODES)
def test_timm_models_take_images_of_any_size(name, size, changes, states, mode):
    torch.manual_seed(0)
    model = timm.create_model(
        name, embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), num_classes=7
    )
    if name == "mit_b0":
        size = tuple(max(side, 32) for side in size)
    model, plain = _prepare(model.eval(), changes, states)
    images = torch.stack(_images(size, 2)).double() / 255
    with mode():
        found = model(images.float())
    with torch.no_grad():
        _close(found, plain(images), 1e-3)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    cfg, model = _built("lrformer_t", small=True)
    export_model(cfg, model, path, ExportOptions(), [(70, 101)])
    return load_exported(path, None, ["INPUT.MIN_SIZE_TEST", 64])[1]


@pytest.mark.slow
@cases(0.1)
@given(sizes())
def test_an_exported_model_takes_images_of_any_size(exported, size):
    (image,) = _images(size, 1)
    with torch.no_grad():
        expected = _build("lrformer_t", small=True).double()(_inputs([image]))[0]["sem_seg"]
    _close(exported(_inputs([image]))[0]["sem_seg"], expected, 1e-3)


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
def test_ddp_gives_the_gradients_of_float64(tmp_path):
    dist.init_process_group("gloo", f"file://{tmp_path}/join", rank=0, world_size=1)
    try:
        model, plain = _prepare(_build("lrformer_t").backbone, (), ("accelerate",))
        ddp = DistributedDataParallel(model)
        for size in ((64, 64), (33, 200), (1, 100)):
            image = torch.stack(_images(size, 2)).double() / 255
            for x, y in ((ddp, image.float()), (plain, image)):
                x.zero_grad()
                _loss(x(y)).backward()
            for (key, found), expected in zip(
                model.named_parameters(), plain.parameters(), strict=True
            ):
                assert (found.grad is None) == (expected.grad is None), key
                if expected.grad is not None and expected.grad.norm() > 1e-3:
                    _close(found.grad, expected.grad, 1e-2)
    finally:
        dist.destroy_process_group()
