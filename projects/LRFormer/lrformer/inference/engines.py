"""Engines that run exported files."""

import importlib.util
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import torch
from torch import Tensor

# The engines, which are called as their packages and our extras, and the files that they run.
ENGINES = {"openvino": ".xml", "onnxruntime": ".onnx"}
_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class EngineError(ValueError):
    """An engine that is not here or cannot do what it is asked for; the message is one line."""


def open_session(
    path: str | Path,
    *,
    dtype: str = "float32",
    requests: int = 1,
    threads: int | None = None,
    cache: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> "Session":
    """Open a file of OpenVINO (.xml) or ONNX (.onnx) to be run.

    Args:
        path: the file; which engine runs it is said by its suffix.
        dtype: of :data:`lrformer.precision.DTYPES`, for OpenVINO to compute in. ONNX Runtime
            computes as the file says and takes "float32" only.
        requests: how many threads may call the session at the same time without waiting.
        threads: of the engine, all requests together; None: as many as PyTorch's.
        cache: folder for what OpenVINO compiles, so that it starts faster the next time.
        device: ONNX Runtime runs on its GPU where it is one, with TensorRT or CUDA as its package
            has them; OpenVINO on the CPU always.

    Raises:
        EngineError: the engine's package is missing, it cannot run the file like this, or the
            file is broken.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    engine = {suffix: name for name, suffix in ENGINES.items()}.get(path.suffix)
    if engine is None:
        raise EngineError(f"{path}: expected a file of {' or '.join(ENGINES.values())}")
    check_engine(engine, dtype, device)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    threads = threads or torch.get_num_threads()
    try:
        if engine == "openvino":
            return _OpenVINO(path, dtype, requests, threads, cache)
        return _ONNXRuntime(path, threads, device)
    except EngineError:
        raise
    except Exception as error:  # Each engine has its own kinds, without a common one.
        raise EngineError(
            f"{path}: {engine} cannot open it: {' '.join(str(error).split())}"
        ) from error


def check_engine(engine: str, dtype: str, device: torch.device | str) -> None:
    """Raise EngineError where an engine is not installed or not for a data type or device."""
    kind = torch.device(device).type
    if importlib.util.find_spec(engine) is None:
        raise EngineError(
            f"{engine} is not installed here: pip install {engine}, or "
            f"pip install 'lrformer[{engine}]'"
        )
    if engine == "openvino":
        if kind != "cpu":
            raise EngineError(f"openvino runs on CPUs, but the device is {device}")
    elif dtype != "float32":
        raise EngineError(f"onnxruntime computes in the file's own data type, not in {dtype}")


class Session:
    """A file's function: a batch of images of any size in, tensors out; for several threads.

    Attributes:
        outputs: names of what it returns, in the file's order.
        metadata: texts by key that the file carries.
    """

    outputs: tuple[str, ...]
    metadata: dict[str, str]

    def __call__(self, images: Tensor) -> list[Tensor]:
        """The outputs for ``images``, NxCxHxW of the file's data type, on the device of these."""
        raise NotImplementedError


class _OpenVINO(Session):
    def __init__(
        self, path: Path, dtype: str, requests: int, threads: int, cache: str | Path | None
    ):
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        info = model.get_rt_info().items()
        self.metadata = {key: str(x.value) for key, x in info if isinstance(x, openvino.OVAny)}
        self.outputs = tuple(x.get_any_name() for x in model.outputs)
        config = {
            "INFERENCE_PRECISION_HINT": _HINTS[dtype],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": requests,
        }
        if cache is not None:
            config["CACHE_DIR"] = str(cache)
        compiled = core.compile_model(model, "CPU", config)
        self._requests: SimpleQueue = SimpleQueue()
        for _ in range(requests):
            self._requests.put(compiled.create_infer_request())

    def __call__(self, images: Tensor) -> list[Tensor]:
        with self._request() as request:
            found = request.infer([images.contiguous().numpy()], share_inputs=True)
            return [torch.from_numpy(x) for x in found.values()]

    @contextmanager
    def _request(self):
        request = self._requests.get()
        try:
            yield request
        finally:
            self._requests.put(request)


class _ONNXRuntime(Session):
    def __init__(self, path: Path, threads: int, device: torch.device | str):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(path, options, _providers(device))
        self.outputs = tuple(x.name for x in self._session.get_outputs())
        self._input = self._session.get_inputs()[0].name
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, images: Tensor) -> list[Tensor]:
        found = self._session.run(None, {self._input: images.cpu().numpy()})
        return [torch.from_numpy(x).to(images.device) for x in found]


def _providers(device: torch.device | str) -> Sequence:
    import onnxruntime

    wanted: list = ["CPUExecutionProvider"]
    if (device := torch.device(device)).type == "cuda":
        options = {"device_id": device.index or 0}
        names = "TensorrtExecutionProvider", "CUDAExecutionProvider"
        wanted = [(x, options) for x in names if x in onnxruntime.get_available_providers()]
        if not wanted:
            raise EngineError(
                "onnxruntime as it is installed has no CUDA: pip install onnxruntime-gpu in its "
                "place, or take the CPU"
            )
        wanted.append("CPUExecutionProvider")
    return wanted
