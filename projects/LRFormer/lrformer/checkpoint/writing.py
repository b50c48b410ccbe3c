"""Files that are written whole or not at all."""

import contextlib
import io
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch


def save(state: Any, file: Path) -> None:
    """``torch.save``, see :func:`replacing`; signals wait until the file is whole.

    Raises:
        OSError: it cannot be written; the message says why, how much space it needs and is left.
    """
    try:
        with signals_wait(), replacing(file) as partial, open(partial, "wb") as stream:
            try:
                torch.save(state, stream)
            except RuntimeError as error:
                # PyTorch's words ("unexpected pos") come after the system's.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
    except OSError as error:
        size = _Size()
        torch.save(state, size)
        raise OSError(f"{error}; it needs {size.bytes / 1e6:.1f} MB") from error


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Give a path beside ``file`` to write to; it takes the file's place once all is on the disk.

    A break leaves the old file as it was. OSError says how much space is left.
    """
    partial = file.with_name(f"{file.name}.partial")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, file)
        _sync(file.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)  # before the space is counted
        free = shutil.disk_usage(file.parent).free / 1e6
        reason = error.strerror or error
        raise OSError(f"cannot write {file}: {reason}; {free:.1f} MB are left there") from error
    finally:
        partial.unlink(missing_ok=True)


def set_aside(file: Path) -> Path:
    """Rename a damaged file, if it is there, so that it can be looked into; its new path."""
    aside = file.with_name(f"{file.name}.damaged")
    with contextlib.suppress(FileNotFoundError):
        os.replace(file, aside)
    return aside


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGUSR1 have their effect only at the end."""
    if threading.current_thread() is not threading.main_thread():  # which gets all signals
        yield
        return
    came: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Size(io.RawIOBase):
    """Counts what is written to it."""

    bytes = 0

    def write(self, data) -> int:
        self.bytes += len(data)
        return len(data)
