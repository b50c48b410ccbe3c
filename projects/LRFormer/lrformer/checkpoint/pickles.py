"""Pickles of weights, read without running what else they may hold."""

import argparse
import codecs
import contextlib
import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Both names of NumPy's core: before and after version 2.
_CORES = ("numpy.core", "numpy._core")


class PickleRefused(pickle.UnpicklingError):
    """A pickle needs more than tensors, arrays and plain containers; the message says what."""


def load_pickle(path: Path, allow_pickle: bool = False) -> Any:
    """The object in a pickle that is not PyTorch's, such as a file of detectron2's model zoo.

    Args:
        path: Python 2's pickles are understood too.
        allow_pickle: run whatever the pickle asks for.

    Raises:
        PickleRefused: it needs more than weights do.
        Exception: it is damaged; pickle raises many kinds.
    """
    with open(path, "rb") as file:
        unpickler = pickle.Unpickler if allow_pickle else _WeightsUnpickler
        return unpickler(file, encoding="latin1").load()


def load_torch(path: Path, allow_pickle: bool = False) -> Any:
    """The object in a file of ``torch.save``, its tensors on the CPU; otherwise as above."""
    # PyTorch 2.4 cannot allow these for one file only, and refuses them.
    allow = getattr(torch.serialization, "safe_globals", lambda _: contextlib.nullcontext())
    try:
        # An open file: of a path, PyTorch looks at the suffix.
        with open(path, "rb") as file, allow(_HARMLESS):
            return torch.load(file, map_location="cpu", weights_only=not allow_pickle)
    except pickle.UnpicklingError as error:
        if needs := _needs(str(error)):
            raise PickleRefused(needs) from error
        raise


def _needs(message: str) -> str | None:
    """What PyTorch's refusal to load a file names, or None where it says something else."""
    found = re.search(r"(?:GLOBAL|class|function) ([\w.]+\.\w+)", message)
    return found[1] if found else None


def _load_storage(data: bytes) -> Any:
    # What torch.storage calls in a plain pickle of a tensor, but safe.
    return torch.load(io.BytesIO(data), weights_only=True)


def _rebuild_tensor(*args) -> torch.Tensor:
    return torch._utils._rebuild_tensor_v2(*args)


def _rebuild_parameter(*args) -> torch.nn.Parameter:
    return torch._utils._rebuild_parameter(*args)


def _alias(module: str, name: str, function: Callable) -> Callable:
    """``function`` under the name by which a pickle asks for it."""

    def alias(*args):
        return function(*args)

    alias.__module__, alias.__name__, alias.__qualname__ = module, name, name
    return alias


def _numpy_functions() -> list[Callable]:
    # Taken from pickles of today's NumPy, because the modules' names change.
    reconstruct = np.zeros(1).__reduce__()[0]
    scalar = np.float32(1).__reduce__()[0]
    from_buffer = np.zeros(1).__reduce_ex__(5)[0]
    return [
        _alias(f"{core}.{module}", name, function)
        for core in _CORES
        for module, name, function in (
            ("multiarray", "_reconstruct", reconstruct),
            ("multiarray", "scalar", scalar),
            ("numeric", "_frombuffer", from_buffer),
        )
    ]


_NUMPY = [np.ndarray, np.dtype, *_numpy_functions()]
_DTYPES = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDSU"}

# What files of torch.save may hold besides what PyTorch allows: scores, command lines.
_HARMLESS = [*_NUMPY, *_DTYPES, codecs.encode, argparse.Namespace]

_ALLOWED = {
    **{(item.__module__, item.__name__): item for item in _NUMPY},
    ("collections", "OrderedDict"): OrderedDict,
    **{("builtins", item.__name__): item for item in (set, frozenset, bytes, bytearray)},
    ("_codecs", "encode"): codecs.encode,  # bytes, in pickles that Python 2 could read
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _load_storage,
}


class _WeightsUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise PickleRefused(f"{module}.{name}")
        return _ALLOWED[module, name]
