"""Engines that run exported files."""

import importlib.util
from collections import Counter
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

import torch
from torch import Tensor

# The engines, which are called as their packages and our extras, and the files that they run.
ENGINES = {"openvino": ".xml", "onnxruntime": ".onnx"}
# OpenVINO compiles a model for a size of batches that has come so often: that takes about two
# seconds and saves a sixth of each call. For so many sizes, as each takes the memory of a model.
REPEATS, FIXED_SIZES = 128, 4
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
        requests: how many threads are to call the session at the same time.
        threads: of the engine, all requests together; None: as many as PyTorch's.
        cache: folder for what an engine compiles, so that it starts faster the next time.
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
    check_engine(engine, device)
    if engine == "onnxruntime" and dtype != "float32":
        raise EngineError(f"{path}: onnxruntime computes as the file says, not in {dtype}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    threads = threads or torch.get_num_threads()
    try:
        if engine == "openvino":
            return _OpenVINO(path, dtype, requests, threads, cache)
        return _ONNXRuntime(path, max(1, threads // requests), cache, device)
    except Exception as error:  # Each engine has its own kinds, without a common one.
        text = " ".join(str(error).split())
        raise EngineError(f"{path}: {engine} cannot open it: {text}") from error


def check_engine(engine: str, device: torch.device | str) -> None:
    """Raise EngineError where an engine is not installed, or not for a device."""
    kind = torch.device(device).type
    if importlib.util.find_spec(engine) is None:
        raise EngineError(f"{engine} is not installed here: pip install 'lrformer[{engine}]'")
    if engine == "openvino" and kind != "cpu":
        raise EngineError(
            f"openvino runs on CPUs here, but the device is {device}: take cpu, or onnxruntime"
        )
    if engine == "onnxruntime" and kind != "cpu" and not _gpu_providers():
        raise EngineError(
            f"onnxruntime as it is installed does not run on {device}: take cpu, or "
            "pip install onnxruntime-gpu in its place"
        )


def _gpu_providers() -> list[str]:
    import onnxruntime

    names = "TensorrtExecutionProvider", "CUDAExecutionProvider"
    return [name for name in names if name in onnxruntime.get_available_providers()]


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
    """A model for all sizes, and one for each size that comes often."""

    def __init__(
        self, path: Path, dtype: str, requests: int, threads: int, cache: str | Path | None
    ):
        import openvino

        self._core = openvino.Core()
        self._model = self._core.read_model(path)
        info = self._model.get_rt_info().items()
        self.metadata = {key: str(x.value) for key, x in info if isinstance(x, openvino.OVAny)}
        self.outputs = tuple(x.get_any_name() for x in self._model.outputs)
        self._config = {
            "INFERENCE_PRECISION_HINT": _HINTS[dtype],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": requests,
        }
        self._cache, self._num_requests = cache, requests
        # Both by shape of the images; None: any.
        self._requests = {None: self._compile(None)}
        self._calls: Counter = Counter()
        self._compiling = Lock()

    def __call__(self, images: Tensor) -> list[Tensor]:
        requests = self._requests_for(tuple(images.shape))
        request = requests.get()
        try:
            found = request.infer([images.contiguous().numpy()], share_inputs=True)
            return [torch.from_numpy(x) for x in found.values()]
        finally:
            requests.put(request)

    def _requests_for(self, shape: tuple[int, ...]) -> SimpleQueue:
        with self._compiling:
            self._calls[shape] += 1
            often = self._calls[shape] > REPEATS and len(self._requests) <= FIXED_SIZES
            if often and shape not in self._requests:
                self._requests[shape] = self._compile(shape)
            return self._requests.get(shape, self._requests[None])

    def _compile(self, shape: tuple[int, ...] | None) -> SimpleQueue:
        model, config = self._model, self._config
        if shape is not None:
            model = model.clone()
            model.reshape({0: list(shape)})
        elif self._cache is not None:  # Of each size it would fill the disk and gain little.
            config = config | {"CACHE_DIR": str(self._cache)}
        compiled = self._core.compile_model(model, "CPU", config)
        requests: SimpleQueue = SimpleQueue()
        for _ in range(self._num_requests):
            requests.put(compiled.create_infer_request())
        return requests


class _ONNXRuntime(Session):
    def __init__(
        self, path: Path, threads: int, cache: str | Path | None, device: torch.device | str
    ):
        import onnxruntime

        options, providers = onnxruntime.SessionOptions(), ["CPUExecutionProvider"]
        options.intra_op_num_threads = threads
        if (device := torch.device(device)).type == "cuda":
            own = {"TensorrtExecutionProvider": {}}
            if cache is not None:
                keys = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(cache)}
                own["TensorrtExecutionProvider"] = keys
            common = {"device_id": device.index or 0}
            gpu = [(name, common | own.get(name, {})) for name in _gpu_providers()]
            providers = [*gpu, *providers]
        self._session = onnxruntime.InferenceSession(path, options, providers)
        self.outputs = tuple(x.name for x in self._session.get_outputs())
        self._input = self._session.get_inputs()[0].name
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, images: Tensor) -> list[Tensor]:
        found = self._session.run(None, {self._input: images.cpu().numpy()})
        return [torch.from_numpy(x).to(images.device) for x in found]
