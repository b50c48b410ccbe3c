"""Which data type a model computes in: the names that config keys and options have, and "auto"."""

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NAMES = ("auto", *DTYPES)


class PrecisionError(ValueError):
    """A data type that there is not, or that the device does not compute in."""


def autocast_dtype(name: str, device: torch.device | str, key: str) -> torch.dtype | None:
    """The data type for ``torch.autocast``; None where float32 is meant.

    Args:
        name: of :data:`NAMES`; "auto" is bfloat16 where the device computes in it, else float16 on
            a GPU and float32 elsewhere.
        device: where the model is.
        key: the config key or option that ``name`` is from, for the message.

    Raises:
        PrecisionError: another name.
    """
    if name not in NAMES:
        raise PrecisionError(f"{key} is {name!r}; expected one of {', '.join(NAMES)}")
    if name != "auto":
        return None if name == "float32" else DTYPES[name]
    if has_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if torch.device(device).type == "cuda" else None


def check_native(name: str, device: torch.device | str, key: str) -> None:
    """Raise PrecisionError where ``device`` would be slower in the data type than in float32."""
    if torch.device(device).type != "cpu":
        return
    if name == "float16":
        raise PrecisionError(
            f"{key} is 'float16', which is for GPUs; on a CPU take 'auto' (bfloat16 if the CPU has "
            "it) or 'float32'"
        )
    if name == "bfloat16" and not has_bfloat16(device):
        raise PrecisionError(
            f"{key} is 'bfloat16', but this CPU has no instructions for it (avx512_bf16, amx_bf16) "
            "and would be slower than in float32; take 'auto' or 'float32'"
        )


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether the device computes in bfloat16, rather than emulates it slowly."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    # PyTorch before 2.10 has the question for x86 only, and not in its public interface.
    ask = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return ask is not None and ask()
