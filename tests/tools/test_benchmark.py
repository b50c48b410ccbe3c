"""tools/benchmark.py as a user runs it."""

import json
import re

import pytest

import benchmark as tool
from lrformer.benchmark import run as run_module
from lrformer.benchmark.limits import build_limits

T = "models/lrformer_t.yaml"
TINY = [
    *("MODEL.LRFORMER.EMBED_DIMS", "[8, 16, 24, 32]", "MODEL.LRFORMER.DEPTHS", "[1, 1, 1, 1]"),
    *("MODEL.LRFORMER.NUM_HEADS", "[1, 2, 2, 4]", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32"),
]
QUICK = ["--size", "64", "64", "--rounds", "2", "--warmup", "0", "--threads", "1"]


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    monkeypatch.setattr(
        run_module, "build_limits", lambda device, dtypes: build_limits(device, dtypes, 64, 2**16)
    )


def test_json_and_markdown(tmp_path, capsys):
    file = tmp_path / "new" / "speed.json"
    arguments = [f"{T}:eager,channels_last", *QUICK]
    code = tool.main([*arguments, "--format", "json", "--output", str(file), "--opts", *TINY])
    assert code == 0, capsys.readouterr().err
    rows = json.loads(file.read_text())["rows"]
    assert [(r["model"], r["variant"]) for r in rows] == [(T, "eager"), (T, "channels_last")]
    assert tool.main([*arguments, "--opts", *TINY]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Printed by `python tools/benchmark.py {T}:eager,channels_last --size")
    titles, _, *shown = (line for line in out.splitlines() if line.startswith("|"))
    assert "images/s" in titles and f"time / that of {T}:eager" in titles
    assert len(shown) == 2 and all(" ms " in line for line in shown)


def test_variants_of_each_model():
    variants = ["eager", "fused+bf16", "bf16"]
    assert tool._cases(["a.yaml", "segformer-b1", "b.yaml:onnx,eager"], variants) == [
        *(("a.yaml", v) for v in variants),
        *(("segformer-b1", v) for v in ("eager", "bf16")),
        *(("b.yaml", v) for v in ("onnx", "eager")),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such.yaml"], "there is no config file no/such.yaml"),
        ([T, "--size", "64", "65"], "multiples of 32, not 64 x 65"),
        ([f"{T}:slow"], "there is no option 'slow'"),
        ([T, "--baseline", "x"], f"the baseline x is not among {T}:eager"),
        ([T, "--opts", "MODEL.LRFORMER.DEPTH", "1"], "MODEL.LRFORMER.DEPTH"),
    ],
)
def test_what_cannot_be_timed(arguments, message, capsys):
    assert tool.main([arguments[0], *QUICK, *arguments[1:]]) == 2
    error = capsys.readouterr().err
    assert re.search(re.escape(message), error) and error.count("\n") == 1
