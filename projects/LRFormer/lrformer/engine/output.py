"""The folder that a training writes: one training at a time, on disks that fill up."""

import errno
import fcntl
import logging
import os
import platform
import sys
from functools import partial
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

# What file systems without locks say.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def claim(folder: str | Path, alone: bool) -> IO[str]:
    """Make ``folder`` and, where ``alone``, keep other trainings out of it.

    Returns:
        An open file that holds the lock until it is closed or this process has ended, in whatever
        way. Child processes do not hold it, as they would with ``flock``.

    Raises:
        OSError: the folder cannot be written, or another training has it.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        lock = open(Path(folder) / ".lock", "a+")  # noqa: SIM115
        if alone:
            _lock(lock)
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {platform.node()}")
            lock.flush()
    except BlockingIOError as error:
        lock.seek(0)
        raise OSError(
            f"OUTPUT_DIR {folder}: another training ({lock.read()}) is writing there; stop it, or "
            "give another OUTPUT_DIR"
        ) from error
    except OSError as error:
        raise OSError(f"OUTPUT_DIR {folder} cannot be written: {error.strerror}") from error
    return lock


def _lock(file: IO[str]) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning(f"{file.name}: no locks there, so a second training would not be noticed")


def tolerate_lost_lines(*names: str) -> None:
    """Let logs end with one warning where their files cannot be written, as on a full disk.

    Otherwise :mod:`logging` prints a traceback for each line, and Python one more at the end.

    Args:
        names: of loggers whose files these are.
    """
    for handler in (handler for name in names for handler in logging.getLogger(name).handlers):
        if isinstance(handler, logging.StreamHandler) and handler.stream is not sys.stdout:
            handler.handleError = partial(_end_log, handler)


def _end_log(handler: logging.StreamHandler, record: logging.LogRecord) -> None:
    error = sys.exc_info()[1]
    if not isinstance(error, OSError):
        logging.StreamHandler.handleError(handler, record)
        return
    print(f"warning: {handler.stream.name} ends here: {error.strerror}", file=sys.stderr)
    # What is still in the stream's buffer would fail once more when it is closed.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, handler.stream.fileno())
    os.close(nowhere)
