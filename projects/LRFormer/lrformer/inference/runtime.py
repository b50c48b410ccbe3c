"""How a config's ``TEST`` keys run a model: what takes the place of its forward, what wraps it."""

import copy
import logging
import os
import shlex
import shutil
from dataclasses import dataclass, replace

import torch
from detectron2.config import CfgNode
from detectron2.modeling import SemanticSegmentor
from detectron2.utils.logger import log_first_n
from torch import nn

from ..modeling.mask2former import MaskFormer
from ..ops import accelerate
from ..ops.route import is_stock
from ..precision import autocast_dtype, check_native
from .engine_network import EngineNetwork
from .engines import ENGINES, check_engine
from .exported import ExportedModel
from .network import Network, PlainSegmentor, gives_logits
from .sliding_window import SlidingWindow
from .tasks import TASK_KEYS, predicted_tasks, tasks_of
from .tta import SemanticTTA

logger = logging.getLogger(__name__)

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")


@dataclass(frozen=True)
class RuntimeOptions:
    """The keys of ``TEST.RUNTIME``.

    Attributes:
        dtype: of :data:`lrformer.precision.NAMES`; logits are resized in float32 always.
        compile: run the network through ``torch.compile``, for each size of batch.
        compile_mode: of :data:`COMPILE_MODES`. "reduce-overhead" also records the work of an NVIDIA
            GPU as CUDA graphs; "max-autotune" also tries out kernels.
        engine: what runs the network: "torch", or one of
            :data:`~lrformer.inference.engines.ENGINES`.
        requests: how many batches an engine is to run at the same time.
        cache: folder of what was exported for an engine; "": in the user's cache folder.
    """

    dtype: str = "float32"
    compile: bool = False
    compile_mode: str = "default"
    engine: str = "torch"
    requests: int = 1
    cache: str = ""

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> "RuntimeOptions":
        keys = cfg.TEST.RUNTIME
        values = keys.DTYPE, keys.COMPILE, keys.COMPILE_MODE, keys.ENGINE, keys.REQUESTS, keys.CACHE
        return cls(*values)

    def check(self, device: torch.device | str) -> torch.dtype | None:
        """What ``device`` is to compute in; None for float32.

        Raises:
            ValueError: it cannot run with these options.
        """
        if self.compile_mode not in COMPILE_MODES:
            raise ValueError(
                f"TEST.RUNTIME.COMPILE_MODE is {self.compile_mode!r}; expected one of "
                f"{', '.join(COMPILE_MODES)}"
            )
        kind, name = torch.device(device).type, self.dtype
        if self.compile:
            _check_compiler(kind)
        if self.engine not in ("torch", *ENGINES):
            raise ValueError(
                f"TEST.RUNTIME.ENGINE is {self.engine!r}; expected one of torch, "
                f"{', '.join(ENGINES)}"
            )
        if self.requests < 1:
            raise ValueError(f"TEST.RUNTIME.REQUESTS is {self.requests}, expected at least 1")
        if self.engine != "torch":
            check_engine(self.engine, device)
            if self.compile:
                raise ValueError(
                    "TEST.RUNTIME.COMPILE is for ENGINE torch, not for "
                    f"{self.engine}, which compiles by itself: set it to False"
                )
        elif self.requests > 1:
            raise ValueError(
                f"TEST.RUNTIME.REQUESTS is {self.requests}, which is for ENGINE "
                f"{' and '.join(ENGINES)}; with torch leave it 1"
            )
        if self.engine == "onnxruntime":
            known = ("auto", "float32") + (("float16",) if kind == "cuda" else ())
            if name not in known:
                raise ValueError(
                    f"TEST.RUNTIME.DTYPE is {name!r}, but onnxruntime on {device} computes in "
                    f"{' or '.join(known[1:])}"
                )
            return torch.float16 if kind == "cuda" and name != "float32" else None
        dtype = autocast_dtype(self.dtype, device, "TEST.RUNTIME.DTYPE")
        check_native(self.dtype, device, "TEST.RUNTIME.DTYPE")
        return dtype


def build_inference_model(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Run a model as ``TEST.RUNTIME`` says, with ``TEST.SLIDING_WINDOW`` and ``TEST.AUG``.

    With both windows and augmentation, every augmented image is predicted by windows. A wrapped
    model predicts ``sem_seg`` only; a warning says so where the model alone predicts more.

    Args:
        cfg: its ``TEST`` keys are used, and ``INPUT.ALIGN_TEST`` for the augmented sizes.
        model: in eval mode; it stays as it is, and what is returned has its interface.

    Raises:
        ValueError: of :func:`prepare_for_inference`; or there are no ``sem_seg`` to average.
    """
    lost = [task for task in tasks_of(cfg) or () if task not in predicted_tasks(cfg)]
    if lost:
        logger.warning(
            "TEST.SLIDING_WINDOW or TEST.AUG is ENABLED: only 'sem_seg' is predicted; set "
            f"{' and '.join(TASK_KEYS[task] for task in lost)} to False to save their time"
        )
    model = prepare_for_inference(model, RuntimeOptions.from_cfg(cfg))
    windows, aug = cfg.TEST.SLIDING_WINDOW, cfg.TEST.AUG
    if windows.ENABLED:
        model = SlidingWindow(model, windows.CROP_SIZE, windows.STRIDE, windows.BATCH_SIZE)
    if aug.ENABLED:
        model = SemanticTTA(
            model,
            min_sizes=aug.MIN_SIZES,
            max_size=aug.MAX_SIZE,
            flip=aug.FLIP,
            align=cfg.INPUT.ALIGN_TEST,
            # Mask classification already weights its masks by class probabilities.
            softmax=cfg.MODEL.META_ARCHITECTURE != "MaskFormer",
        )
    return model


def prepare_for_inference(model: nn.Module, options: RuntimeOptions) -> nn.Module:
    """A model that predicts what ``model`` does, run as the options say.

    Here it is decided what runs in the place of a model's own ``forward``, and the log says it:

    - ``SemanticSegmentor`` itself with a :class:`PerPixelHead`: a :class:`PlainSegmentor`;
    - :class:`MaskFormer` itself: its own, with a :class:`Network` as its backbone and head;
    - :class:`ExportedModel`: its file;
    - any other model, subclasses and models with hooks among them: its own, in float32.

    The network is PyTorch's or an engine's (:class:`EngineNetwork`).

    Args:
        model: in eval mode; it stays as it is.
        options: how to run its network.

    Raises:
        ValueError: an option is not for this machine or model, or the model is in training mode.
    """
    if isinstance(model, ExportedModel) and not options.compile:
        return model
    name = type(model).__name__
    plain = is_stock(model, SemanticSegmentor) and gives_logits(model.sem_seg_head)
    if not plain and not is_stock(model, MaskFormer):
        defaults = replace(RuntimeOptions(), compile_mode=options.compile_mode, cache=options.cache)
        if options != defaults:
            raise ValueError(
                f"TEST.RUNTIME (ENGINE {options.engine}, DTYPE {options.dtype}, COMPILE "
                f"{options.compile}) is for detectron2's SemanticSegmentor with a PerPixelHead and "
                f"for MaskFormer; this {name} runs as it is: set ENGINE to torch, DTYPE to float32 "
                "and COMPILE to False"
            )
        _log(f"{name}: its own forward predicts, in float32")
        return model
    if model.training:
        raise ValueError(f"{name} is in training mode; call .eval() on it first")
    prepared, dtype = copy.deepcopy(model), options.check(model.device)
    how = f"in {str(dtype or torch.float32).removeprefix('torch.')}"
    if options.engine == "torch":
        network = _torch_network(accelerate(prepared), dtype, options)
        how += f", compiled ({options.compile_mode})" if options.compile else ""
    else:
        network = Network(prepared.backbone, prepared.sem_seg_head).eval()
        network = EngineNetwork(
            network,
            options.engine,
            dtype or torch.float32,
            options.requests,
            options.cache,
            model.device,
        ).eval()
        how += f" by {options.engine}"
    if plain:
        _log(f"{name}: {PlainSegmentor.__name__} predicts in the place of its forward, {how}")
        return PlainSegmentor(prepared, network)
    _log(f"{name}: its own forward predicts, with backbone and head {how}")
    prepared.backbone, prepared.sem_seg_head = network, nn.Identity()
    return prepared.eval()


def _torch_network(model: nn.Module, dtype: torch.dtype | None, options: RuntimeOptions) -> Network:
    network = Network(model.backbone, model.sem_seg_head, dtype).eval()
    network.to(memory_format=torch.channels_last)
    if dtype is not None:
        cast_weights(network, dtype)
    if options.compile:
        # Static: with sizes as symbols the compiler takes many minutes over pools and resizes.
        # Each size of batch is compiled by itself, up to torch.compile's limit of eight; others run
        # as they are, which it logs.
        network.compile(mode=options.compile_mode, dynamic=False)
    return network


def _log(text: str) -> None:
    """Once a process: a training evaluates many times."""
    log_first_n(logging.INFO, text, name=__name__, key="message")


def cast_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Cast once what autocast would cast in every call; norms keep their float32."""
    for part in network.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            for parameter in part.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def _check_compiler(kind: str) -> None:
    """torch.compile writes C++ for CPUs, and for GPUs Triton's kernels, whose start needs C."""
    variable, names = ("CC", "cc gcc clang") if kind == "cuda" else ("CXX", "g++ clang++ cl")
    names = shlex.split(os.environ.get(variable, ""))[:1] or names.split()
    if not any(shutil.which(name) for name in names):
        raise ValueError(
            f"TEST.RUNTIME.COMPILE: torch.compile needs a compiler, and there is no "
            f"{' or '.join(names)}: set {variable} to one's path, or leave it False"
        )
