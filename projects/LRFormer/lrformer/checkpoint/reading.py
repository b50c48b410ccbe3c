"""Files of weights: what kind a file is, and the tensors in it."""

import contextlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .hub import download
from .pickles import PickleRefused, load_pickle, load_torch

# Under what the tensors are, in the files of this project, detectron2, mmsegmentation, timm, DeiT.
_WEIGHTS_KEYS = ("model", "state_dict")

_ZIP = b"PK\x03\x04"
# The first object of files that torch.save wrote before PyTorch 1.6.
_LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"

# In Paddle's files, beside the arrays: names that its programs have for them.
_PADDLE_NAMES = "StructuredToParameterName@@"

# In this order, in the folders of Hugging Face's models.
_HUGGING_FACE = ("model.safetensors", "pytorch_model.bin")

# How files begin that are downloaded or named by mistake.
_OTHER_KINDS = {
    b"version https://git-lfs": "a git-LFS pointer, not the file itself; fetch it: git lfs pull",
    b"<": "a web page (HTML) or XML, not weights; use the address of the file itself",
    b"{": "a JSON text, not weights",
    b"\x1f\x8b": "a gzip archive; unpack it first",
}


class WeightsError(ValueError):
    """A file of weights that cannot be used; the message says which, why, and what to do."""


@dataclass
class FileContents:
    """What a file of weights holds: name -> tensor on the CPU, and the entries beside them."""

    weights: dict[str, Tensor]
    extras: dict[str, Any] = field(default_factory=dict)


def check_weights_exist(path_or_url: str | Path) -> None:
    """:func:`find_file` of a path or of a name on the hub, for its errors; URLs are left alone."""
    if "://" not in str(path_or_url) or str(path_or_url).startswith("hf://"):
        find_file(path_or_url)


def find_file(path_or_url: str | Path) -> Path:
    """The local file of a path, or of a URL, which is downloaded into a cache.

    A folder of a Hugging Face model stands for the file of weights in it; hf://… is a file on
    their hub, see :func:`lrformer.checkpoint.hub.download`.

    Raises FileNotFoundError where there is no such file, WeightsError where the download fails.
    """
    if "://" not in str(path_or_url):
        path = Path(path_or_url)
        for file in (path, *(path / name for name in _HUGGING_FACE)):
            if file.is_file():
                return file
        is_folder = f" (it is a folder without {' or '.join(_HUGGING_FACE)})" * path.is_dir()
        raise FileNotFoundError(
            f"there is no file of weights {path_or_url}{is_folder} (looked from {Path.cwd()})"
        )
    try:
        if str(path_or_url).startswith("hf://"):
            return download(str(path_or_url))
        # Not above: files can be read without detectron2.
        from detectron2.utils.file_io import PathManager

        return Path(PathManager.get_local_path(str(path_or_url)))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path_or_url} could not be downloaded: {error}") from error


def read_weights(path_or_url: str | Path, allow_pickle: bool = False) -> FileContents:
    """:func:`find_file`, then :func:`read_file`."""
    path = find_file(path_or_url)
    try:
        return read_file(path, allow_pickle)
    except WeightsError as error:
        if "://" not in str(path_or_url):
            raise
        raise WeightsError(
            f"{error} (this is the copy of {path_or_url}; remove it to have it downloaded again)"
        ) from error


def read_file(path: Path, allow_pickle: bool = False) -> FileContents:
    """Read a file of weights: safetensors, PyTorch's formats, or a pickle of arrays.

    What kind it is shows in its content, whatever its name. The tensors may be the file's object
    itself, or stand under "model" or "state_dict"; ``module.`` prefixes of their names are removed.

    Args:
        path: an existing file.
        allow_pickle: load pickles that hold more than tensors, arrays, numbers and texts too, which
            may run any code.

    Raises:
        WeightsError: it is of another kind, damaged, or a pickle that is refused.
    """
    loaded, metadata = _load(path, allow_pickle)
    if not isinstance(loaded, Mapping):
        kind = type(loaded).__name__
        raise WeightsError(f"{path} holds an object of type {kind}; expected names and tensors")
    key = next((k for k in _WEIGHTS_KEYS if isinstance(loaded.get(k), Mapping)), None)
    weights = loaded if key is None else loaded[key]
    extras = metadata if key is None else {k: v for k, v in loaded.items() if k != key}
    return FileContents(_tensors(weights, path), extras)


def _load(path: Path, allow_pickle: bool) -> tuple[Any, dict[str, Any]]:
    """The file's object, and what safetensors say beside it."""
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        raise WeightsError(f"{path} is empty (0 bytes); download or copy it again")
    if head[5:9] == b"\0\0\0{":  # the length of the header, in eight bytes, and its first
        return _load_safetensors(path)
    for start, kind in _OTHER_KINDS.items():
        if head.lstrip().startswith(start):
            raise WeightsError(f"{path} is {kind}")
    is_torch = head.startswith(_ZIP) or _LEGACY_TORCH in head[:16]
    if is_torch and (problem := damage(path)):
        raise _damaged(path, problem)
    try:
        return (load_torch if is_torch else load_pickle)(path, allow_pickle), {}
    except MemoryError:
        raise
    except PickleRefused as error:
        raise WeightsError(
            f"{path} is refused: it is a pickle that needs {error} besides tensors, and loading it "
            "could run code. If you trust where it comes from, set MODEL.WEIGHTS_ALLOW_PICKLE to "
            "True (tools without a config: --allow-pickle)"
        ) from error
    except Exception as error:  # damaged pickles raise any kind
        if not is_torch and head[:1] != b"\x80":
            raise WeightsError(
                f"{path} is of no kind that is known here (it begins with {head[:16]!r}); expected "
                "a checkpoint of PyTorch or detectron2, or safetensors"
            ) from error
        raise _damaged(path, _reason(error)) from error


def damage(path: Path) -> str | None:
    """What is wrong with a file of ``torch.save``, by the checksums in it; None where it is whole.

    PyTorch itself does not look at them when it loads. Files of PyTorch before 1.6 have none.
    """
    if not path.is_file():
        return "there is no such file"
    with open(path, "rb") as file:
        if not file.read(512).startswith(_ZIP):
            return None if path.stat().st_size else "it is empty"
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except Exception as error:  # damaged archives raise many kinds
        return _reason(error)
    return None if record is None else f"the checksum of its record {record} is wrong"


def _reason(error: Exception) -> str:
    # PyTorch's first sentence; the next ones advise to load without safety.
    text = str(error).strip().split("\n")[0].split(". ")[0]
    return f"{type(error).__name__}: {text}"


def _damaged(path: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"{path} is damaged, cut off or no checkpoint ({path.stat().st_size:,} bytes; {reason}); "
        "download or copy it again"
    )


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise _damaged(path, _reason(error)) from error
    metadata.pop("format", None)
    return weights, {name: _from_json(text) for name, text in metadata.items()}


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # other programs write plain texts
        return text


def _tensors(weights: Mapping, path: Path) -> dict[str, Tensor]:
    if not weights:
        raise WeightsError(f"{path} holds no tensors")
    tensors = {}
    for name, value in weights.items():
        if name == _PADDLE_NAMES:
            continue
        if isinstance(value, np.ndarray | np.generic):
            with contextlib.suppress(TypeError):  # of texts and objects
                value = torch.from_numpy(np.asarray(value))
        if not isinstance(value, Tensor):
            raise WeightsError(
                f"{path}: {name} is of type {type(value).__name__}; expected names mapped to "
                "tensors only, as the file's object or under 'model' or 'state_dict' in it"
            )
        name = str(name).removeprefix("module.")
        if name in tensors:
            raise WeightsError(f"{path} holds {name} twice, with and without 'module.'")
        tensors[name] = value.detach()
    return tensors
