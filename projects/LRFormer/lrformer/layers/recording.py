"""Whether what runs is being recorded, to be run again elsewhere or otherwise."""

import torch


def is_recorded() -> bool:
    """By ``torch.compile``, ``torch.export`` or ``torch.jit.trace``."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_exported() -> bool:
    """By ``torch.export``; before PyTorch 2.7, which does not tell, by ``torch.compile`` too."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()
