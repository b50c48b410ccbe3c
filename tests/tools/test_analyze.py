"""tools/analyze.py as a user runs it."""

import csv
import io
import json
import re
from dataclasses import replace

import pytest
from PIL import Image

import analyze
from lrformer.analysis import TABLES
from lrformer.analysis import records as records_module

T = "ade20k/lrformer_t.yaml"


def run(capsys, *arguments):
    code = analyze.main(list(arguments))
    out = capsys.readouterr()
    assert code == 0, out.err
    return out.out


def cells(markdown):
    """Rows of the Markdown tables, as (title, cell) pairs; titles may repeat."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    titles, _, *rows = ([c.strip() for c in line.strip("|").split("|")] for line in lines)
    return [list(zip(titles, row, strict=True)) for row in rows]


@pytest.fixture
def small_tables(monkeypatch):
    """Of Tables 6 and 13 only the first rows."""
    few = {n: replace(TABLES[n], rows=TABLES[n].rows[:1]) for n in ("6", "13")}
    row = few["13"].rows[0]
    few["13"] = replace(few["13"], rows=(replace(row, size=(128, 128), flops=7.0, why="so."),))
    monkeypatch.setattr(records_module, "TABLES", few)
    monkeypatch.setattr(analyze, "TABLES", few)


def test_formats_hold_the_same_numbers(capsys):
    arguments = (T, "--size", "64", "96", "--opts", "MODEL.LRFORMER.DEPTHS", "[1, 1, 1, 1]")
    (record,) = json.loads(run(capsys, *arguments, "--format", "json"))
    (row,) = csv.DictReader(io.StringIO(run(capsys, *arguments, "--format", "csv")))
    (shown,) = cells(run(capsys, *arguments))
    shown = dict(shown)
    assert (record["height"], record["width"]) == (64, 96)
    assert {k: str(v) for k, v in record.items()} == row
    assert shown["input"] == "64 × 96"
    assert shown["parameters"] == f"{record['parameters'] / 1e6:.2f} M"
    assert shown["FLOPs"] == f"{record['flops'] / 1e9:.2f} G"
    assert record["flops"] > record["attention_flops"] > 0


def test_a_table_of_the_paper(capsys, small_tables):
    (record,) = json.loads(run(capsys, "--table", "6", "--format", "json"))
    assert record["parameters"] / 1e6 == pytest.approx(11.27, rel=0.01)
    assert record["flops"] / 1e9 == pytest.approx(1.72, rel=0.01)
    assert (record["parameters_paper"], record["flops_paper"]) == (13e6, 1.8e9)
    assert record["parameters_difference"] == pytest.approx(100 * (11.27 / 13 - 1), abs=0.1)
    text = run(capsys, "--table", "6")
    (row,) = cells(text)
    assert [cell for title, cell in row if title == "paper"] == ["13 M", "1.8 G"]
    off = [float(cell.split()[0]) for title, cell in row if title == "off by"]
    assert off == pytest.approx(
        [record["parameters_difference"], record["flops_difference"]], abs=0.05
    )
    why = r"^- LRFormer-T at 224 × 224 \(parameters -13\.\d %, FLOPs -4\.\d %\): the paper"
    assert re.search(why, text, re.MULTILINE)


def test_all_tables_into_a_file(capsys, small_tables, tmp_path):
    target = tmp_path / "new" / "tables.md"
    assert run(capsys, "--table", "all", "--output", str(target)) == ""
    text = target.read_text()
    assert "## Table 6" in text and "## Table 13" in text
    assert f"python tools/analyze.py --table all --output {target}" in text
    records = json.loads(run(capsys, "--table", "13", "6", "--format", "json"))
    assert [r["table"][:8] for r in records] == ["Table 13", "Table 6:"]


def test_breakdown_adds_up(capsys):
    text = run(capsys, T, "--size", "64", "64", "--depth", "1", "--format", "json")
    total, backbone, head = json.loads(text)
    assert [r["module"] for r in (total, backbone, head)] == ["total", "backbone", "sem_seg_head"]
    assert total["parameters"] == backbone["parameters"] + head["parameters"]
    assert backbone["parameters"] / 1e6 == pytest.approx(11.27, rel=0.01)
    assert total["activations"] == backbone["activations"] + head["activations"]
    # The head's own upsampling of the features belongs to no module below the network.
    assert backbone["flops"] + head["flops"] <= total["flops"]
    assert (
        len(json.loads(run(capsys, T, "--size", "64", "64", "--depth", "3", "--format", "json")))
        > 15
    )


def test_encoder_alone_by_option(capsys):
    text = run(capsys, "--config-file", T, "--backbone", "--size", "64", "64", "--format", "json")
    assert json.loads(text)[0]["parameters"] / 1e6 == pytest.approx(11.27, rel=0.01)


def test_zoo_is_every_architecture():
    names = [re.sub(r".*/lrformer_|\.yaml", "", config) for config in analyze.zoo()]
    assert names == ["t", "s", "b", "l", "xl", *("plus_" + v for v in ("t", "s", "b", "l", "xl"))]


def test_plot(capsys, tmp_path):
    picture, page = tmp_path / "curve.png", tmp_path / "page.md"
    sizes = ("--plot-sizes", "64", "256", "320")
    run(capsys, T, "--plot", str(picture), *sizes, "--output", str(page))
    with Image.open(picture) as image:
        assert image.width > 600 and image.height > 400
        assert len(image.convert("RGB").resize((90, 60)).getcolors(9999)) > 10
    text = page.read_text()
    assert "(curve.png)" in text
    assert [dict(row)["input"] for row in cells(text)][-1] == "320 × 320"
    side = int(re.search(r"twice as much at about (\d+) pixels", text).group(1))
    rows = [dict(row) for row in cells(text)]
    ratios = {int(r["input"].split()[0]): float(r["ratio"].split()[0]) for r in rows}
    below, above = max(s for s in ratios if s <= side), min(s for s in ratios if s > side)
    assert ratios[below] < 2 <= ratios[above]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "10"], "no Table 10 here; .* 3, 4, 5, 6, 7, 11, 12, 13"),
        (["no/such.yaml"], "there is no config file no/such.yaml"),
        ([T, "--opts", "MODEL.LRFORMER.DEPTH", "1"], "MODEL.LRFORMER.DEPTH"),
        ([T, "--measure", "--batch", "0"], "batch must be at least 1"),
    ],
)
def test_what_cannot_be_analysed(capsys, arguments, message):
    assert analyze.main(arguments) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to analyse"),
        ([T, "--size", "100", "64"], "a side must be a multiple of 32, not '100'"),
        ([T, "--depth", "-1"], "--depth cannot be negative"),
    ],
)
def test_wrong_arguments(capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_:
        analyze.main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
