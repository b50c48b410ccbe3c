"""The paper's figures as data, and the committed page of what the tool printed."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lrformer.analysis import TABLES, analyze_config, paper_table, render
from lrformer.analysis import records as records_module

PAGE = Path(__file__).parents[2] / "docs" / "paper_tables.md"


def figures(number):
    return [(row.size[1], row.parameters, row.flops) for row in TABLES[number].rows]


def test_figures_are_the_papers():
    assert list(TABLES) == ["3", "4", "5", "6", "7", "11", "12", "13"]
    assert figures("3") == [(512, 13, 17), (512, 32, 40), (512, 69, 75), (640, 113, 183)]
    assert figures("4")[-1] == (512, 113, 122)
    assert figures("5") == [(2048, 13, 122), (2048, 32, 295), (2048, 67, 555), (2048, 111, 908)]
    assert {row.size[0] for row in TABLES["5"].rows} == {1024}
    assert figures("6")[:2] == [(224, 13, 1.8), (224, 30, 4.7)]
    assert figures("6")[-2:] == [(384, 101, 46.3), (224, 187, 31.6)]
    assert [row.flops for row in TABLES["7"].rows] == [38, 38, 40, 52, 74, 108]
    assert [row.training_memory for row in TABLES["7"].rows] == [3.9, 4.0, 4.2, 5.3, 7.4, 10.9]
    assert [row.flops for row in TABLES["11"].rows] == [27, 32, 40, 50, 79, 117]
    assert [row.parameters for row in TABLES["11"].rows] == [30, 31, 32, 37, 46, 58]
    twelve = [
        (row.size[0], row.batch, row.training_memory, row.flops, row.attention_flops)
        for row in TABLES["12"].rows
    ]
    assert twelve == [
        (512, 2, 4.2, 40, 0.8),
        (1024, 1, 5.7, 145, 0.9),
        (1536, 1, 15.3, 319, 1.1),
    ]
    assert figures("13")[0] == (512, 31, 53)
    assert figures("13")[-1] == (640, 205, 365)


def test_a_config_finds_its_figures():
    record = analyze_config("coco_stuff/lrformer_t.yaml", (512, 512))
    assert record["parameters"] / 1e6 == pytest.approx(13.26, rel=0.01)
    assert record["flops"] / 1e9 == pytest.approx(16.7, rel=0.01)
    assert (record["parameters_paper"], record["flops_paper"]) == (13e6, 17e9)
    assert record["flops_difference"] == pytest.approx(100 * (record["flops"] / 17e9 - 1))
    # A size that the paper does not have: its parameters only. Another model: nothing.
    record = analyze_config("models/lrformer_plus_t.yaml", (32, 32))
    assert record["parameters_paper"] == 31e6 and "flops_paper" not in record
    opts = ["MODEL.LRFORMER.DEPTHS", "[1, 1, 1, 1]"]
    assert "parameters_paper" not in analyze_config("ade20k/lrformer_t.yaml", (32, 32), opts=opts)


def test_unknown_table():
    with pytest.raises(ValueError, match=r"no Table 10 here.* 3, 4, 5, 6, 7, 11, 12, 13"):
        paper_table("10")


def sections():
    parts = re.split(r"^## Table (\d+)", PAGE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_page_has_every_row():
    for number, table in TABLES.items():
        rows = [line for line in sections()[number].splitlines() if line.startswith("| LRFormer")]
        assert len(rows) == len(table.rows)
        for line, row in zip(rows, table.rows, strict=True):
            assert line.split("|")[1].strip() == row.model
            assert line.split("|")[2].strip() == f"{row.size[0]} × {row.size[1]}"
            assert f" {row.flops:g} G " in line


@pytest.mark.parametrize("number", ["6", "12"])
def test_the_page_is_what_the_tool_prints(number, monkeypatch):
    table = TABLES[number]
    few = {number: replace(table, rows=table.rows[:1])}
    monkeypatch.setattr(records_module, "TABLES", few)
    (printed,) = render(paper_table(number).records, "markdown").splitlines()[2:]
    cells = [cell.strip() for cell in printed.split("|")]
    page = [[c.strip() for c in line.split("|")] for line in sections()[number].splitlines()]
    assert cells in page


def test_what_is_off_by_more_than_3_percent_is_explained():
    for section in sections().values():
        assert "not explained" not in section
        remarks = "\n".join(line for line in section.splitlines() if line.startswith("- "))
        for line in section.splitlines():
            off = [float(x) for x in re.findall(r"([+-]\d+\.\d+) %", line)]
            if line.startswith("| LRFormer") and max(map(abs, off)) > 3:
                model, size = (cell.strip() for cell in line.split("|")[1:3])
                assert f"{model} at {size}" in remarks
