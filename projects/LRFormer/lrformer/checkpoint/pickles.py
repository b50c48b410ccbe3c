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


class PickleRefused(pickle.UnpicklingError):
    """A pickle needs more than tensors, arrays and plain containers; the message says what."""


def load_pickle(path: Path, allow_pickle: bool = False) -> Any:
    """The object in a pickle that is not PyTorch's, such as a file of detectron2's model zoo.

    ``allow_pickle`` runs whatever it asks for; else PickleRefused is raised where that is more than
    weights need. A damaged pickle raises any exception. Python 2's are understood too.
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
        # PyTorch's refusals name what the pickle needs, its other errors do not.
        if needs := re.search(r"(?:GLOBAL|class|function) ([\w.]+\.\w+)", str(error)):
            raise PickleRefused(needs[1]) from error
        raise


def _alias(module: str, name: str, function: Callable) -> Callable:
    """``function`` under the name by which a pickle asks for it."""

    def alias(*args):
        return function(*args)

    alias.__module__, alias.__name__, alias.__qualname__ = module, name, name
    return alias


# NumPy's functions, taken from pickles of today's: their modules' names change, and that of its
# core has changed with version 2.
_NUMPY = [np.ndarray, np.dtype] + [
    _alias(f"{core}.{module}", name, function)
    for core in ("numpy.core", "numpy._core")
    for module, name, function in (
        ("multiarray", "_reconstruct", np.zeros(1).__reduce__()[0]),
        ("multiarray", "scalar", np.float32(1).__reduce__()[0]),
        ("numeric", "_frombuffer", np.zeros(1).__reduce_ex__(5)[0]),
    )
]
_DTYPES = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDSU"}

# What files of torch.save may hold besides what PyTorch allows: scores, command lines.
_HARMLESS = [*_NUMPY, *_DTYPES, codecs.encode, argparse.Namespace]

_BUILTINS = (set, frozenset, bytes, bytearray)
_ALLOWED = {
    **{(item.__module__, item.__name__): item for item in (*_NUMPY, *_BUILTINS, OrderedDict)},
    ("_codecs", "encode"): codecs.encode,  # bytes, in pickles that Python 2 could read
    # Not PyTorch's functions themselves, which a pickle could set attributes of.
    ("torch._utils", "_rebuild_tensor_v2"): lambda *args: torch._utils._rebuild_tensor_v2(*args),
    ("torch._utils", "_rebuild_parameter"): lambda *args: torch._utils._rebuild_parameter(*args),
    # What torch.storage calls in a plain pickle of a tensor, but safe.
    ("torch.storage", "_load_from_bytes"): lambda data: torch.load(
        io.BytesIO(data), weights_only=True
    ),
}


class _WeightsUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise PickleRefused(f"{module}.{name}")
        return _ALLOWED[module, name]
