import pytest
import torch

from lrformer.precision import autocast_dtype, check_native, has_bfloat16


@pytest.mark.parametrize(
    "device, native, expected",
    [
        ("cpu", True, torch.bfloat16),
        ("cpu", False, None),
        ("cuda", True, torch.bfloat16),
        ("cuda:1", False, torch.float16),
        ("mps", True, None),
    ],
)
def test_auto_takes_what_the_device_computes_in(monkeypatch, device, native, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert autocast_dtype("auto", device, "KEY") is expected


def test_a_named_type_is_taken_as_it_is_and_another_names_the_key():
    assert autocast_dtype("float32", "cpu", "KEY") is None
    assert autocast_dtype("bfloat16", "cpu", "KEY") is torch.bfloat16
    assert autocast_dtype("float16", "cuda", "KEY") is torch.float16
    with pytest.raises(ValueError, match="SOLVER.AMP.DTYPE is 'half'.* auto, float32, bfloat16"):
        autocast_dtype("half", "cpu", "SOLVER.AMP.DTYPE")


def test_what_a_cpu_emulates_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    for name in ("float16", "bfloat16"):
        with pytest.raises(ValueError, match=f"TEST.RUNTIME.DTYPE is '{name}'"):
            check_native(name, "cpu", "TEST.RUNTIME.DTYPE")
        check_native(name, "cuda", "TEST.RUNTIME.DTYPE")
    check_native("auto", "cpu", "TEST.RUNTIME.DTYPE")


def test_the_cpu_is_asked_for_bfloat16():
    try:
        with open("/proc/cpuinfo") as file:
            flags = file.read()
    except OSError:
        pytest.skip("needs /proc/cpuinfo")
    if "avx" not in flags or not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("needs an x86 CPU and a PyTorch that tells its capabilities")
    assert has_bfloat16("cpu") == ("avx512_bf16" in flags or "amx_bf16" in flags)
