"""What is timed: a case is a model and a runtime, which together are a callable.

A runtime is made of parts that are joined by "+" in a variant's name. Every model is run by the
same functions in the same way.
"""

import copy
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.modeling import build_model
from timm.layers import LayerScale2d
from torch import Tensor, nn

from lrformer import load_cfg, precision
from lrformer.export.onnx import write_onnx
from lrformer.inference.runtime import cast_weights
from lrformer.ops import accelerate, exportable, restore

from .meters import MemoryMeter
from .models import PEERS, Network, build_peer
from .options import WITHOUT, dtype_of, parse_parts

PARTS = {
    "eager": "as PyTorch runs it, float32",
    "accelerated": "lrformer.ops.accelerate (LRFormer only)",
    **dict.fromkeys(WITHOUT, "accelerated but for that class"),
    "channels_last": "weights and images in channels-last memory",
    "bfloat16": "by autocast, weights cast beforehand",
    "float16": "by autocast, weights cast beforehand (GPUs)",
    "compile": "torch.compile",
    "reduce-overhead": "torch.compile with CUDA graphs (GPUs)",
    "max-autotune": "torch.compile that tries kernels out",
    "openvino": "exported, in OpenVINO (CPUs; pip install 'lrformer[openvino]')",
    "onnxruntime": "exported, in ONNX Runtime, float32 (CPUs; pip install 'lrformer[export]')",
}
# Relative errors ||a - b|| / ||b|| against the plain model in float32 that a variant may have: of
# per-pixel logits, and of queries, which attend inside masks cut at a threshold that rounding can
# pass.
_TOLERANCE = {"float32": (1e-3, 0.05), "bfloat16": (0.3, 0.6), "float16": (0.3, 0.6)}

Run = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        error: relative, of the outputs, against the same model eager and in float32.
        memory: bytes at the peak of a call beyond weights and images; None where nobody tells.
    """

    model: str
    variant: str
    run: Run
    error: float
    memory: int | None

    @property
    def name(self) -> str:
        return f"{self.model}:{self.variant}"


def build_plain(model: str, device: str, opts: Sequence = ()) -> nn.Module:
    """A config's detectron2 model or a peer, randomly initialised, in eval mode on the device."""
    torch.manual_seed(0)
    if model in PEERS:
        plain = build_peer(model).to(device)
    else:
        plain = build_model(load_cfg(model, [*opts, "MODEL.DEVICE", device])).eval()
    # Values that start at 0, 1 or next to nothing become random: errors then see all of it.
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, LayerScale2d):
            nn.init.uniform_(module.gamma, 0.5, 1.5)
    return plain


def build_cases(
    model: str, plain: nn.Module, variants: Sequence[str], images: Tensor
) -> list[Case]:
    """Cases of one model, each with weights of its own, checked against the plain model.

    Args:
        model, plain: its name, and what :func:`build_plain` made of it.
        variants: parts of :data:`PARTS`, joined by "+".
        images: normalised, N x 3 x H x W, on the model's device.

    Raises:
        ValueError: of :func:`.options.parse_parts` and :func:`check`.
    """
    device = images.device.type
    expected = prepare(copy.deepcopy(plain), frozenset({"eager"}), images)()
    cases = []
    for variant in variants:
        parts = parse_parts(f"{model}:{variant}", variant, PARTS, device)
        run = prepare(copy.deepcopy(plain), parts, images)
        limit = _TOLERANCE[dtype_of(parts)][len(expected) > 1]
        error = check(f"{model}:{variant}", run(), expected, limit)
        meter = MemoryMeter(device)
        run()
        memory = None if meter.before is None else meter.peak() - meter.before
        cases.append(Case(model, variant, run, error, memory))
    return cases


def prepare(model: nn.Module, parts: frozenset[str], images: Tensor) -> Run:
    """The callable of a model, which is used up, on a runtime."""
    without = [WITHOUT[part] for part in parts if part in WITHOUT]
    if "accelerated" in parts or without:
        accelerate(model)
    if without:
        restore(model, *without)
    network = Network(model) if hasattr(model, "sem_seg_head") else model
    for engine in parts & set(_ENGINES):
        return _ENGINES[engine](exportable(network, engine), dtype_of(parts), images)
    context, dtype = nullcontext(), precision.DTYPES[dtype_of(parts)]
    if "channels_last" in parts:
        network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    if dtype != torch.float32:
        context = torch.autocast(images.device.type, dtype)
        cast_weights(network, dtype)
    for mode in parts & {"compile", "reduce-overhead", "max-autotune"}:
        network = torch.compile(network, mode="default" if mode == "compile" else mode)

    def run() -> Sequence[Tensor]:
        with torch.inference_mode(), context:
            return network(images)

    return run


def _in_openvino(network: nn.Module, dtype: str, images: Tensor) -> Run:
    import openvino

    hint = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[dtype]
    config = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    graph = openvino.convert_model(torch.export.export(network, (images,)))
    request = openvino.compile_model(graph, "CPU", config).create_infer_request()
    feed = {0: images.numpy()}
    return lambda: [torch.from_numpy(x) for x in request.infer(feed).values()]


def _in_onnxruntime(network: nn.Module, dtype: str, images: Tensor) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    program = torch.export.export(network, (images,))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(program, path, "logits")
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images.numpy()}
    return lambda: [torch.from_numpy(x) for x in session.run(None, feed)]


_ENGINES = {"openvino": _in_openvino, "onnxruntime": _in_onnxruntime}


def check(name: str, found: Sequence[Tensor], expected: Sequence[Tensor], limit: float) -> float:
    """The largest relative error of the outputs; ValueError where it is above ``limit``."""
    if [x.shape for x in found] != [x.shape for x in expected]:
        shapes = [tuple(x.shape) for x in found], [tuple(x.shape) for x in expected]
        raise ValueError(f"{name}: outputs of {shapes[0]}, the plain model's are {shapes[1]}")
    if not all(x.isfinite().all() for x in (*found, *expected)):
        raise ValueError(f"{name}: the output is not finite")
    pairs = zip(found, expected, strict=True)
    error = max(float((a.float() - b).norm() / b.norm()) for a, b in pairs)
    if error > limit:
        raise ValueError(
            f"{name}: relative error {error:.1e} against the plain model in float32 (limit "
            f"{limit:g}); it is not timed"
        )
    return error
