"""LISA's parts, counted by hand."""

import csv

import pytest


def _transformer(tokens, dim, hidden, depth, matrices):
    """Multiply-adds: four projections, the matrices of the feed-forward part, two products."""
    return depth * (tokens * (4 * dim**2 + matrices * dim * hidden) + 2 * tokens**2 * dim)


def test_flops_of_lisa_with_vit_l_by_hand(bench, tmp_path):
    pytest.importorskip("transformers", "5.0")
    pytest.importorskip("peft")
    bench("referring", "models/lisa_vit_l.yaml", "--output", tmp_path / "out.csv")
    rows = {row["part"]: row for row in csv.DictReader((tmp_path / "out.csv").open())}
    flops = {part: float(row["flops"]) for part, row in rows.items()}
    patches = 64 * 64 * 3 * 16**2 * 1024
    assert flops["backbone"] == pytest.approx(_transformer(4097, 1024, 4096, 24, 2) + patches, 1e-3)
    tower = _transformer(577, 1024, 4096, 24, 2) + 576 * 3 * 14**2 * 1024
    projector = 576 * (1024 * 4096 + 4096**2)
    llama = _transformer(616, 4096, 11008, 32, 3) + 616 * 4096 * 32064
    adapters = 32 * 2 * 616 * 2 * 8 * 4096
    expected = tower + projector + llama + adapters
    assert flops["language model"] == pytest.approx(expected, rel=1e-3)
    parts = ("backbone", "neck", "SAM's mask decoder", "language model")
    assert flops["LISA"] == sum(flops[part] for part in parts)
