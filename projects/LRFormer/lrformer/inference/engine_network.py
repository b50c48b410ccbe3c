"""A network that an engine runs, from a file that is exported once."""

import copy
import hashlib
import importlib
import logging
import os
import shutil
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import exportable
from .engines import ENGINES, EngineError, open_session
from .network import Network

logger = logging.getLogger(__name__)

# What MaskFormer's head returns, in the order of the file.
_MASKS = ("pred_logits", "pred_masks")


class EngineNetwork(nn.Module):
    """In the place of a :class:`Network`: the same images, the same outputs, from an engine.

    Args:
        network: in eval mode, with a head that returns logits or what MaskFormer's does.
        engine: of :data:`~lrformer.inference.engines.ENGINES`.
        dtype: to compute in: float32; bfloat16 (OpenVINO); float16 (on GPUs).
        requests: how many threads are to call it at the same time.
        cache: folder of exported networks; None: ``lrformer`` in the user's cache folder. The
            entry's name stands for network, weights, data type and versions; one that is broken is
            made anew.
        device: where the images are.

    Raises:
        EngineError: the engine is not here, or not for this device.
        OSError: the cache cannot be written.
    """

    def __init__(
        self,
        network: Network,
        engine: str,
        dtype: torch.dtype = torch.float32,
        requests: int = 1,
        cache: str | Path | None = None,
        device: torch.device | str = "cpu",
    ):
        super().__init__()
        self.size_divisibility = network.size_divisibility
        self.padding_constraints = network.padding_constraints
        options = {"requests": requests, "device": device}
        file_dtype = dtype
        if engine == "openvino":  # It computes in other types than the file's.
            file_dtype, options["dtype"] = torch.float32, str(dtype).removeprefix("torch.")
        entry = _cache_folder(cache) / _key(network, engine, file_dtype)
        file = entry / f"model{ENGINES[engine]}"
        options["cache"] = entry
        self.session = None
        if file.is_file():
            try:
                self.session = open_session(file, **options)
            except EngineError as error:
                logger.warning(f"{error}; it is made anew")
                shutil.rmtree(entry)
        if self.session is None:
            logger.info(f"exporting the model for {engine}, once: {entry}")
            _make_entry(network, file, file_dtype)
            self.session = open_session(file, **options)

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        outputs = self.session(images)
        return outputs[0] if len(outputs) == 1 else dict(zip(_MASKS, outputs, strict=True))


class _Graph(nn.Module):
    """A network as a function of float32 images that computes in its own data type."""

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.network, self.dtype = network.to(dtype), dtype

    def forward(self, images: Tensor) -> Any:
        outputs = self.network(images.to(self.dtype))
        return outputs if isinstance(outputs, Tensor) else tuple(outputs[key] for key in _MASKS)


def _make_entry(network: Network, file: Path, dtype: torch.dtype) -> None:
    """Write the file with its folder whole or not at all, whatever other processes do."""
    entry = file.parent
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(
            f"TEST.RUNTIME.CACHE: {entry.parent} cannot be made a folder ({error.strerror})"
        ) from error
    with tempfile.TemporaryDirectory(dir=entry.parent) as folder:
        made = Path(folder) / entry.name
        made.mkdir()
        _export(network, made / file.name, dtype)
        try:
            os.rename(made, entry)
        except OSError:
            if not file.is_file():  # as it is where another process was faster
                raise


def _export(network: Network, file: Path, dtype: torch.dtype) -> None:
    divisor = max(network.size_divisibility, 1)
    unit = max(divisor, 32)
    height, width = (divisor * torch.export.Dim(name) for name in ("height", "width"))
    sizes = {0: torch.export.Dim("batch"), 2: height, 3: width}
    with torch.inference_mode(False), torch.no_grad():
        engine = "openvino" if file.suffix == ".xml" else "onnxruntime"
        graph = _Graph(exportable(copy.deepcopy(network).cpu(), engine), dtype).eval()
        images = torch.zeros(2, 3, 2 * unit, 3 * unit)
        program = torch.export.export(graph, (images,), dynamic_shapes={"images": sizes})
        if file.suffix == ".onnx":
            from ..export.onnx import write_onnx  # which needs this package

            write_onnx(program, file, "logits")
        else:
            import openvino

            openvino.save_model(openvino.convert_model(program), file, compress_to_fp16=False)


def _cache_folder(folder: str | Path | None) -> Path:
    if folder:
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lrformer"


def _key(network: Network, engine: str, dtype: torch.dtype) -> str:
    """A name for all that the exported file depends on."""
    versions = [(name, importlib.import_module(name).__version__) for name in ("torch", engine)]
    digest = hashlib.sha256(repr((versions, dtype)).encode())
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):  # in place of our version
        digest.update(file.read_bytes())
    # The network itself, and not the config: that may have been changed since.
    for name, module in network.named_modules():
        digest.update(repr((name, type(module).__qualname__, _settings(module))).encode())
    for name, x in chain(network.named_parameters(), network.named_buffers()):
        digest.update(repr((name, x.dtype, tuple(x.shape))).encode())
        digest.update(x.detach().cpu().flatten().view(torch.uint8).numpy())
    return f"{engine}-{digest.hexdigest()[:32]}"


def _settings(module: nn.Module) -> dict[str, Any]:
    """A module's numbers, texts and functions."""
    plain = bool, int, float, str, tuple, list
    values = {k: getattr(v, "__qualname__", v) for k, v in vars(module).items()}
    return {k: v for k, v in values.items() if isinstance(v, plain)}
