"""Which data type mixed precision computes in on the machine at hand."""

import logging

import torch

logger = logging.getLogger(__name__)

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast_dtype(name: str, device: torch.device | str) -> torch.dtype | None:
    """The data type for ``torch.autocast``; None where float32 is the right one.

    Args:
        name: ``SOLVER.AMP.DTYPE``: "bfloat16", "float16", or "auto": bfloat16 where the device
            computes in it, else float16 on a GPU and float32 elsewhere.
        device: where the model is.

    Raises:
        ValueError: another name.
    """
    if name != "auto":
        if name not in _DTYPES:
            raise ValueError(f"SOLVER.AMP.DTYPE is {name!r}; expected auto, {' or '.join(_DTYPES)}")
        return _DTYPES[name]
    kind = torch.device(device).type
    if kind == "cuda":
        # Older GPUs emulate bfloat16, slower than they compute in float16.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if kind == "cpu" and cpu_has_bfloat16():
        return torch.bfloat16
    return None


def cpu_has_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16; without them it is slower than float32."""
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    # PyTorch before 2.10 has the question for x86 only, and not in its public interface.
    ask = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return ask is not None and ask()
