"""``bench.py count`` and ``bench.py table`` as a user runs them."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from bench import scaling, table

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "paper_tables.md"
T = "ade20k/lrformer_t.yaml"


def test_formats_hold_the_same_numbers(bench, cells, tiny, tmp_path):
    arguments = ("count", T, "--size", 64, 96)
    json_file, csv_file = tmp_path / "new" / "t.json", tmp_path / "t.csv"
    assert bench(*arguments, "--output", json_file, *tiny) == ""
    bench(*arguments, "--output", csv_file, *tiny)
    page = bench(*arguments, *tiny)
    found = json.loads(json_file.read_text())
    (record,) = found["records"]
    (row,) = csv.DictReader(io.StringIO(csv_file.read_text()))
    shown = dict(cells(page)[0])
    assert {k: str(v) for k, v in record.items()} == row
    assert (record["height"], record["width"]) == (64, 96) and shown["input"] == "64 × 96"
    assert shown["parameters"] == f"{record['parameters'] / 1e6:.2f} M"
    assert shown["FLOPs"] == f"{record['flops'] / 1e9:.2f} G"
    assert record["flops"] > record["attention_flops"] > 0
    assert found["conditions"]["threads"] and found["conditions"]["torch"]
    assert page.splitlines()[-1].startswith(f"Printed by `python tools/bench.py count {T} --size 6")


def test_modules(bench, cells):
    rows = [dict(row) for row in cells(bench("count", T, "--size", 64, 64, "--depth", 1))]
    assert [row["module"] for row in rows] == ["total", "backbone", "sem_seg_head"]
    parameters = [float(row["parameters"].split()[0]) for row in rows]
    assert parameters == pytest.approx([13.26, 11.27, 1.99], abs=0.005)


def test_plot(tiny, tmp_path):
    picture = tmp_path / "new" / "curve.png"
    found = scaling.scaling_table(T, tuple(tiny), picture, sizes=(64, 256, 320))
    with Image.open(picture) as image:
        assert image.width > 600 and len(image.convert("RGB").getcolors(9999)) > 10
    assert re.search(r"twice as much at about (\d+) pixels", found.remarks[1])


def figures(number, *names, of="LRFormer"):
    rows = [row for row in table.paper_rows(number) if row["model"].startswith(of)]
    return [tuple(row.get(name) for name in names) for row in rows]


def test_figures_are_the_papers():
    numbers = ["3", "4", "5", "6", "7", "8", "10", "11", "12", "13"]
    assert list(table.TABLES) == [*numbers, "RTFormer-2", "RTFormer-3", "RTFormer-4"]
    both = ("parameters", "flops")
    assert figures("3", *both) == [(13, 17), (32, 40), (69, 75), (113, 183), (113, 183)]
    assert figures("3", "miou") == [(46.7,), (50.0,), (51.0,), (52.6,), (54.2,)]
    b1, b2, b3, b5 = figures("3", *both, "miou", of="SegFormer")
    assert (b1, b2) == ((14, 16, 42.2), (28, 62, 46.5))
    assert (b3, b5) == ((47, 96, 49.4), (85, 183, 51.0))
    assert figures("4", *both) == [(13, 17), (32, 40), (69, 75), (113, 122)]
    assert figures("5", *both) == [(13, 122), (32, 295), (67, 555), (111, 908)]
    assert figures("6", *both)[:4] == [(13, 1.8), (30, 4.7), (62, 9.3), (101, 15.7)]
    assert figures("6", *both)[4:] == [(101, 46.3), (187, 31.6)]
    assert dict(figures("7", "value", "flops")) == {4: 38, 8: 38, 16: 40, 32: 52, 48: 74, 64: 108}
    sizes = [("small", 36.2, 46.3), ("medium", 48.1, 59.7), ("large", 57.2, 68.3)]
    assert figures("8", "classes", "miou", "macc")[::2] == sizes
    sizes = [("small", 33.7, 42.3), ("medium", 45.3, 56.8), ("large", 53.8, 64.3)]
    assert figures("8", "classes", "miou", "macc")[1::2] == sizes
    widths = ((128, 30, 27), (256, 31, 32), (384, 32, 40), (512, 37, 50), (768, 46, 79))
    heads = figures("10", *both, "miou", of="")
    assert heads[:2] == [(32, 40, 49.5), (34, 48, 48.0)]
    assert heads[2:] == [(44, 82, 48.4), (42, 94, 48.9), (42, 84, 48.6)]
    assert figures("11", "value", *both) == [*widths, (1024, 58, 117)]
    assert figures("12", "flops", "attention_flops") == [(40, 0.8), (145, 0.9), (319, 1.1)]
    found = figures("12", "flops", "attention_flops", of="SegFormer")
    assert found == [(62, 3.4), (279, 54), (802, 293.6)]
    assert figures("13", *both) == [(31, 53), (48, 70), (80, 94), (119, 192), (205, 365)]


def sections():
    parts = re.split(r"^## Table (\S+):", PAGE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_page_has_every_row_and_reason():
    assert list(sections()) == list(table.TABLES)
    for number, section in sections().items():
        if number == "8":  # quoted
            continue
        lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
        for line, row in zip(lines, table.paper_rows(number), strict=True):
            model, size, *_ = (cell.strip() for cell in line.split("|")[1:])
            counted = f"{row['size'][0]} × {row['size'][1]}" if "config" in row else "–"
            assert (model, size) == (row["model"], counted)
            assert "flops" not in row or f" {row['flops']:g} G " in line
            off = [float(x) for x in re.findall(r"([+-]\d+\.\d+) %", line)]
            explained = re.search(rf"^- .*{re.escape(model)} at {size} \(", section, re.MULTILINE)
            assert max(map(abs, off), default=0) <= 3 or explained
        assert "not explained" not in section


@pytest.mark.parametrize("number", ["6", "8", "10", "RTFormer-4"])
def test_the_page_is_what_the_tool_prints(number, bench, cells, monkeypatch):
    few = table.TABLES[number] | {"rows": table.TABLES[number]["rows"][:1]}
    monkeypatch.setitem(table.TABLES, number, few)
    assert cells(bench("table", number)) == cells(sections()[number])[:1]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["count", "no/such.yaml"], "no/such.yaml"),
        (["count", T, "MODEL.LRFORMER.DEPTH", "1"], "MODEL.LRFORMER.DEPTH"),
        (["count", T, T, "--plot", "x.png"], "--plot"),
        (["count", T, "--output", "x.txt"], "x.txt"),
        (["table", "3", "MODEL.LRFORMER.DEPTHS", "1"], "MODEL.LRFORMER.DEPTHS"),
    ],
)
def test_what_cannot_be_counted(refused, arguments, name):
    assert name in refused(*arguments)


def test_as_a_script(tmp_path):
    command = [sys.executable, ROOT / "tools" / "bench.py", "table", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "RTFormer-4, all" in " ".join(done.stdout.split())
