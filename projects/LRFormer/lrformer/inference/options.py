"""How a model runs in inference: fused, in which memory format and data type, compiled, recorded.

None of it changes the model that it is applied to.
"""

import copy
import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import SemanticSegmentor
from torch import nn

from lrformer.host_memory import keep_freed_memory
from lrformer.layers import LRFormerBlock
from lrformer.modeling.mask2former.meta_arch import MaskFormer

from .fusion import fuse
from .network import Network, PlainSegmentor

DTYPES = ("float32", "auto", "bfloat16", "float16")


class RuntimeOptionError(ValueError):
    """An option that this machine or this model cannot run with."""


@dataclass(frozen=True)
class RuntimeOptions:
    """The keys of ``TEST.RUNTIME``.

    Attributes:
        fuse: :func:`lrformer.inference.fuse` the model; exact up to rounding.
        channels_last: keep the weights in the memory format that the maps have.
        dtype: "float32", "bfloat16", "float16" or "auto". Convolutions and matrix products are
            computed in it, and logits resized in float32. "auto" is bfloat16 where the device
            computes in it, else float16 on a GPU and float32 on a CPU.
        compile: run it through ``torch.compile``. Sizes may change: there is one compilation for
            square, one for wide and one for tall images, and for single ones and batches.
        cuda_graphs: record and replay the GPU's work, once for each size of batch.
        keep_memory: on a CPU, :func:`~lrformer.host_memory.keep_freed_memory` in this process.
    """

    fuse: bool = True
    channels_last: bool = True
    dtype: str = "float32"
    compile: bool = False
    cuda_graphs: bool = False
    keep_memory: bool = True

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> "RuntimeOptions":
        keys = cfg.TEST.RUNTIME
        return cls(
            fuse=keys.FUSE,
            channels_last=keys.CHANNELS_LAST,
            dtype=keys.DTYPE,
            compile=keys.COMPILE,
            cuda_graphs=keys.CUDA_GRAPHS,
            keep_memory=keys.KEEP_MEMORY,
        )

    def check(self, device: torch.device | str) -> None:
        """Raise RuntimeOptionError where ``device`` cannot run with these options."""
        kind = torch.device(device).type
        self.autocast_dtype(device)
        if self.compile:
            _check_compiler(kind)
        if self.cuda_graphs and kind != "cuda":
            raise RuntimeOptionError(
                f"TEST.RUNTIME.CUDA_GRAPHS is True, but the model is on the device {str(device)!r};"
                " graphs are for NVIDIA GPUs (MODEL.DEVICE cuda). Set it to False"
            )

    def autocast_dtype(self, device: torch.device | str) -> torch.dtype | None:
        """What to compute in on ``device``; None for float32.

        Raises:
            RuntimeOptionError: it does not compute in that.
        """
        # Not above: the trainer, which comes with it, imports this package.
        from lrformer.engine.amp import autocast_dtype, cpu_has_bfloat16

        if self.dtype not in DTYPES:
            raise RuntimeOptionError(
                f"TEST.RUNTIME.DTYPE is {self.dtype!r}; expected one of {', '.join(DTYPES)}"
            )
        on_cpu = torch.device(device).type == "cpu"
        if on_cpu and self.dtype == "float16":
            raise RuntimeOptionError(
                "TEST.RUNTIME.DTYPE is 'float16', which is for GPUs; on a CPU take 'auto' "
                "(bfloat16 if the CPU has it) or 'float32'"
            )
        if on_cpu and self.dtype == "bfloat16" and not cpu_has_bfloat16():
            raise RuntimeOptionError(
                "TEST.RUNTIME.DTYPE is 'bfloat16', but this CPU has no instructions for it "
                "(avx512_bf16, amx_bf16) and would be slower than in float32; take 'auto' or "
                "'float32'"
            )
        return None if self.dtype == "float32" else autocast_dtype(self.dtype, device)


def prepare_for_inference(model: nn.Module, options: RuntimeOptions) -> nn.Module:
    """A model that predicts what ``model`` does, run as the options say.

    Args:
        model: in eval mode; it stays as it is. Options are for detectron2's
            ``SemanticSegmentor`` with a head that has ``layers`` (as ``LRHead``), and for
            ``MaskFormer``; with another model ``fuse`` and ``channels_last`` do nothing.
        options: in this order: fuse, weights' memory format and data type, compile, record.

    Returns:
        A model with detectron2's interface, whose weights are its own where an option changes them.
        A ``SemanticSegmentor`` becomes a :class:`PlainSegmentor`, which also gives class maps.

    Raises:
        RuntimeOptionError: the machine or the model does not go with an option.
        ValueError: the model is in training mode.
    """
    if not _has_network(model):
        _refuse(model, options)
        return model
    if model.training:
        raise ValueError(f"{type(model).__name__} is in training mode; call .eval() on it first")
    options.check(model.device)
    if options.keep_memory and torch.device(model.device).type == "cpu":
        keep_freed_memory()
    dtype = options.autocast_dtype(model.device)
    if options.fuse and any(isinstance(part, LRFormerBlock) for part in model.modules()):
        prepared = fuse(model)
    elif options.channels_last or dtype is not None or not _is_plain(model):
        prepared = copy.deepcopy(model)
    else:
        prepared = model
    if options.channels_last:
        prepared.to(memory_format=torch.channels_last)
    if dtype is not None:
        _cast_weights(prepared, dtype)
    network = Network(
        prepared.backbone,
        prepared.sem_seg_head,
        dtype=dtype,
        compile=options.compile,
        cuda_graphs=options.cuda_graphs,
    )
    if _is_plain(prepared):
        return PlainSegmentor(prepared, network)
    prepared.backbone, prepared.sem_seg_head = network, nn.Identity()
    return prepared.eval()


def agreement(
    reference: Callable[[np.ndarray], np.ndarray],
    other: Callable[[np.ndarray], np.ndarray],
    images: Iterable,
) -> dict[str, float]:
    """How far two predictors give the same class maps: what an option costs in accuracy.

    Args:
        reference, other: :class:`~lrformer.Predictor` objects, or functions from an image to its
            H x W class map.
        images: whatever they take: arrays or paths.

    Returns:
        "images", their number; "agreement", percent of all their pixels that have the same class
        in both; "worst", that of the image where it is lowest.

    Raises:
        ValueError: there are no images, or maps of different sizes.
    """
    same = total = count = 0
    worst = 1.0
    for image in images:
        a, b = reference(image), other(image)
        if a.shape != b.shape:
            raise ValueError(f"image {count}: the class maps are {a.shape} and {b.shape}")
        equal = int((a == b).sum())
        same, total, count = same + equal, total + a.size, count + 1
        worst = min(worst, equal / a.size)
    if not count:
        raise ValueError("there are no images to compare predictions on")
    return {"images": count, "agreement": 100 * same / total, "worst": 100 * worst}


def _is_plain(model: nn.Module) -> bool:
    """Whether it is a SemanticSegmentor whose head enlarges what its ``layers`` give."""
    head = getattr(model, "sem_seg_head", None)
    own_forward = type(model) is SemanticSegmentor
    return own_forward and hasattr(head, "layers") and hasattr(head, "common_stride")


def _has_network(model: nn.Module) -> bool:
    return _is_plain(model) or isinstance(model, MaskFormer)


def _refuse(model: nn.Module, options: RuntimeOptions) -> None:
    asked = {
        f"TEST.RUNTIME.DTYPE {options.dtype}": options.dtype != "float32",
        "TEST.RUNTIME.COMPILE True": options.compile,
        "TEST.RUNTIME.CUDA_GRAPHS True": options.cuda_graphs,
    }
    if refused := [key for key, on in asked.items() if on]:
        raise RuntimeOptionError(
            f"{' and '.join(refused)}: is for detectron2's SemanticSegmentor with a head that has "
            f"'layers' (as LRHead) and for MaskFormer; this model is a {type(model).__name__}"
        )


def _cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast once what autocast would cast in every call; norms keep their float32."""
    for module in (model.backbone, model.sem_seg_head):
        for part in module.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                for parameter in part.parameters(recurse=False):
                    parameter.data = parameter.data.to(dtype)


def _check_compiler(kind: str) -> None:
    """torch.compile writes C++ for CPUs, and for GPUs Triton's kernels, whose start needs C."""
    leave = "or leave TEST.RUNTIME.COMPILE False"
    if kind == "cuda" and importlib.util.find_spec("triton") is None:
        raise RuntimeOptionError(
            "TEST.RUNTIME.COMPILE: torch.compile needs Triton on a GPU, which is not installed: "
            f"pip install triton, {leave}"
        )
    # PyTorch looks for no others.
    names, variable = ({"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++"),), "CXX"
    if kind == "cuda":
        names, variable = ("cc", "gcc", "clang"), "CC"
    wanted = os.environ.get(variable)
    if not any(shutil.which(name) for name in (shlex.split(wanted)[:1] if wanted else names)):
        found = f"{variable} is {wanted!r}" if wanted else f"no {' or '.join(names)} in PATH"
        raise RuntimeOptionError(
            f"TEST.RUNTIME.COMPILE: torch.compile needs a compiler, and there is none ({found}). "
            f"Install one (Debian, Ubuntu: apt install g++), or set {variable} to one's path, "
            f"{leave}"
        )
