"""What is timed: a model's network in one of its variants, and whether it computes the right thing.

A network takes normalised images to logits at its own stride, or to the logits and masks of
queries; that is what FLOPs are counted of.
"""

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from timm.layers import LayerScale2d
from torch import Tensor, nn

from ..analysis.cases import counted
from ..analysis.counting import count_flops, count_parameters
from ..config import load_cfg
from ..export.graph import exportable, mask_scores
from ..export.onnx import check_packages, write_onnx
from ..inference.network import Network
from ..inference.options import RuntimeOptions, prepare_for_inference
from .peers import PEERS, Peer, build_peer

# What a variant may be made of, joined by "+".
OPTIONS = {
    "eager": "as PyTorch runs it, float32",
    "fused": "lrformer.inference.fuse (LRFormer only)",
    "channels_last": "weights and maps in channels-last memory",
    "bf16": "bfloat16 by autocast, weights cast beforehand",
    "fp16": "float16 by autocast, weights cast beforehand (GPUs)",
    "compile": "torch.compile",
    "cuda_graphs": "recorded and replayed (GPUs)",
    "onnx": "exported, run by onnxruntime (CPUs)",
}
ENDS = ("logits", "scores")
_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
# Relative errors ||a - b|| / ||b|| against the plain model in float32 that a variant may have: of
# per-pixel logits, and of queries, which attend inside masks cut at a threshold that rounding can
# pass.
_TOLERANCE = {"float32": (1e-3, 0.05), "bfloat16": (0.3, 0.6), "float16": (0.3, 0.6)}


class BenchmarkError(ValueError):
    """What cannot be timed, or computes something else; the message is one line."""


@dataclass(frozen=True)
class Case:
    """A network to be timed.

    Attributes:
        model, variant: what it is.
        run: images to the result.
        parameters: number.
        flops: multiply-adds of one image.
        dtype: that matrix products are computed in.
        error: relative error against the same model, eager and in float32.
    """

    model: str
    variant: str
    run: Callable[[], object]
    parameters: int
    flops: float
    dtype: str
    error: float

    @property
    def name(self) -> str:
        return f"{self.model}:{self.variant}"


def parse_variant(text: str, model: str, device: str) -> frozenset[str]:
    """The options that a variant is made of.

    Raises:
        BenchmarkError: an unknown option, or those that do not go together, with the model or with
            the device.
    """
    options = frozenset(text.split("+"))
    if unknown := sorted(options - set(OPTIONS)):
        raise BenchmarkError(
            f"{model}:{text}: there is no option {unknown[0]!r}, only {', '.join(OPTIONS)}"
        )
    on_gpu = torch.device(device).type == "cuda"
    wrong = {
        "'eager' stands alone": "eager" in options and len(options) > 1,
        "'onnx' stands alone": "onnx" in options and len(options) > 1,
        "either 'bf16' or 'fp16'": {"bf16", "fp16"} <= options,
        "'fused' is for LRFormer": "fused" in options and model in PEERS,
        "'onnx' is for the CPU": "onnx" in options and on_gpu,
        "'fp16' and 'cuda_graphs' are for GPUs": options & {"fp16", "cuda_graphs"} and not on_gpu,
    }
    for problem, found in wrong.items():
        if found:
            raise BenchmarkError(f"{model}:{text}: {problem}")
    return options


def build_case(
    model: str,
    variant: str,
    size: tuple[int, int],
    *,
    batch: int = 1,
    device: str = "cpu",
    threads: int | None = None,
    end: str = "logits",
    num_classes: int = 150,
    opts: Sequence = (),
) -> Case:
    """Build a model, randomly initialised, in a variant, and check what it computes.

    Args:
        model: a config's path or a name of :data:`PEERS`.
        variant: of :data:`OPTIONS`, joined by "+".
        size: (height, width) of the images, multiples of 32.
        batch: images at once.
        device: "cpu", "cuda", …
        threads: for onnxruntime; PyTorch's are set elsewhere.
        end: "logits": what the network gives; "scores": scores of every class at the images' size.
        num_classes: of peers; a config has its own.
        opts: over the config.

    Raises:
        BenchmarkError: it cannot be run so, or the result is not finite, has another shape, or is
            not that of the plain model.
        FileNotFoundError, ConfigError: of the config.
        ImportError: a package that it needs is missing.
    """
    options = parse_variant(variant, model, device)
    name = f"{model}:{variant}"
    torch.manual_seed(0)
    if model in PEERS:
        plain = build_peer(model, num_classes)
        parameters, flops = count_parameters(plain), count_flops(plain, *size)[""]
        plain.to(device)
    else:
        cfg = load_cfg(model, opts)
        cfg.MODEL.DEVICE, num_classes = device, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        parameters, counts = counted(cfg, size)
        plain, flops = build_model(cfg).eval(), counts.total
    _make_values_matter(plain)
    images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        found = _network(plain, frozenset({"eager"}))(images)
        expected = _outputs(found, size, end)
    if "onnx" in options:
        run = _onnx(plain, images, end, threads, name)
    else:
        network = _network(plain, options)

        def run() -> Sequence[Tensor]:
            with torch.inference_mode():
                return _outputs(network(images), size, end)

    dtype = _dtype(options)
    _check_shapes(name, expected, batch, num_classes, size, end)
    limit = _TOLERANCE[dtype][isinstance(found, dict)]
    error = _check(name, run(), expected, limit)
    return Case(model, variant, run, parameters, flops, dtype, error)


def _make_values_matter(model: nn.Module) -> None:
    """Random values for what starts at 0, 1 or next to nothing, so that checks see all of it."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, LayerScale2d):
            nn.init.uniform_(module.gamma, 0.5, 1.5)


def _dtype(options: frozenset[str]) -> str:
    return next((_DTYPES[option] for option in options if option in _DTYPES), "float32")


def _network(plain: nn.Module, options: frozenset[str]) -> nn.Module:
    """Images to the network's outputs in float32, run with these options; ``plain`` stays."""
    runtime = RuntimeOptions(
        fuse="fused" in options,
        channels_last="channels_last" in options,
        dtype=_dtype(options),
        compile="compile" in options,
        cuda_graphs="cuda_graphs" in options,
        keep_memory=False,  # of the whole process, see BenchmarkOptions
    )
    if not isinstance(plain, Peer):
        prepared = prepare_for_inference(plain, runtime)
        return prepared.network if hasattr(prepared, "network") else prepared.backbone
    device = next(plain.parameters()).device
    runtime.check(device)
    dtype = runtime.autocast_dtype(device)
    peer = copy.deepcopy(plain)
    if runtime.channels_last:
        peer.to(memory_format=torch.channels_last)
    if dtype is not None:
        for part in peer.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                part.to(dtype)
    return Network(
        peer,
        nn.Identity(),
        dtype=dtype,
        compile=runtime.compile,
        cuda_graphs=runtime.cuda_graphs,
    )


def _outputs(found: Tensor | dict[str, Tensor], size: tuple[int, int], end: str) -> list[Tensor]:
    """The network's tensors, or scores of every class at the images' size."""
    if isinstance(found, Tensor):
        if end == "scores":
            found = F.interpolate(found, size, mode="bilinear", align_corners=False)
        return [found]
    logits, masks = found["pred_logits"], found["pred_masks"]
    return [mask_scores(logits, masks, size)] if end == "scores" else [logits, masks]


class _Exported(nn.Module):
    """:func:`_network` and :func:`_outputs` as one module to be exported."""

    def __init__(self, plain: nn.Module, end: str):
        super().__init__()
        ours = not isinstance(plain, Peer)
        parts = [plain.backbone, plain.sem_seg_head] if ours else [plain, nn.Identity()]
        self.backbone, self.head = exportable(nn.ModuleList(copy.deepcopy(parts)))
        self.end = end

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.backbone(images)
        layers = getattr(self.head, "layers", self.head)
        return _outputs(layers(features), images.shape[-2:], self.end)


def _onnx(
    plain: nn.Module, images: Tensor, end: str, threads: int | None, name: str
) -> Callable[[], list[Tensor]]:
    """The network as an ONNX file in onnxruntime: ours for images of any size, others for this."""
    check_packages()
    import onnxruntime

    dims = {i: torch.export.Dim(n, min=2) for i, n in ((2, "height"), (3, "width"))}
    dims = None if isinstance(plain, Peer) else {"images": {i: 32 * d for i, d in dims.items()}}
    sizes = onnxruntime.SessionOptions()
    sizes.intra_op_num_threads = threads or torch.get_num_threads()
    # Its threads would go on waiting for work while another network is timed.
    sizes.add_session_config_entry("session.force_spinning_stop", "1")
    sizes.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        try:
            write_onnx(_Exported(plain, end).eval(), images, path, dynamic_shapes=dims)
        except torch.onnx.ExportError as error:
            raise BenchmarkError(f"{name}: {str(error).splitlines()[0]}") from error
        session = onnxruntime.InferenceSession(path, sizes, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: images.numpy()}
    return lambda: [torch.from_numpy(found) for found in session.run(None, inputs)]


def _check_shapes(
    name: str,
    found: Sequence[Tensor],
    batch: int,
    num_classes: int,
    size: tuple[int, int],
    end: str,
) -> None:
    """Of the plain model, which variants are compared with."""
    height, width = size
    if end == "scores":
        good = found[0].shape == (batch, num_classes, height, width)
    elif len(found) == 1:
        stride = height / found[0].shape[-2]
        good = found[0].shape[:2] == (batch, num_classes) and stride in (4, 8)
        good = good and found[0].shape[-1] * stride == width
    else:
        logits, masks = found
        queries = logits.shape[1]
        good = logits.shape == (batch, queries, num_classes + 1)
        good = good and masks.shape == (batch, queries, height // 4, width // 4)
    if not good:
        shapes = " and ".join(str(tuple(x.shape)) for x in found)
        raise BenchmarkError(
            f"{name}: the outputs have the shapes {shapes}, which are not those of {num_classes} "
            f"classes on {batch} images of {height} x {width}"
        )


def _check(name: str, found: Sequence[Tensor], expected: Sequence[Tensor], limit: float) -> float:
    """The largest relative error of the outputs."""
    if [x.shape for x in found] != [x.shape for x in expected]:
        shapes = [tuple(x.shape) for x in found], [tuple(x.shape) for x in expected]
        raise BenchmarkError(f"{name}: outputs of {shapes[0]}, the plain model's are {shapes[1]}")
    if not all(x.isfinite().all() for x in (*found, *expected)):
        raise BenchmarkError(f"{name}: the output is not finite")
    pairs = zip(found, expected, strict=True)
    error = max(float((a.float() - b).norm() / b.norm()) for a, b in pairs)
    if error > limit:
        raise BenchmarkError(
            f"{name}: relative error {error:.1e} against the plain model in float32 (limit "
            f"{limit:g}); it is not timed"
        )
    return error
