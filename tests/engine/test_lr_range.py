"""--find-lr: the learning-rate check."""

import numpy as np
import pytest

from lrformer.engine import run
from lrformer.engine.lr_range import advice


def test_a_tenth_of_the_rate_of_the_least_loss():
    rates = np.geomspace(1e-6, 1, 601)
    # Falls by a third up to a rate of 1e-2, which the smoothing sees a few rates later.
    losses = 1 + np.abs(np.log10(rates) + 2) / 4
    text = advice(rates, losses, 1e-3)
    suggested = float(text.partition("SOLVER.BASE_LR ")[2].partition(";")[0])
    assert suggested == pytest.approx(1e-3, rel=0.2)
    assert "check the data" in advice(rates, np.linspace(1, 2, 601), 1e-3)


def test_the_check_trains_and_keeps_nothing(tiny_cfg, tmp_path, capsys):
    file = tmp_path / "tiny.yaml"
    file.write_text(tiny_cfg.dump())
    assert run.main(["--config-file", str(file), "--find-lr"]) == 0
    assert "A tenth of that suits a training: SOLVER.BASE_LR 0." in capsys.readouterr().out
    assert not list((tmp_path / "output").glob("*.pth"))


def test_it_says_which_options_it_does_not_go_with(tiny_cfg, tmp_path, capsys):
    file = tmp_path / "tiny.yaml"
    file.write_text(tiny_cfg.dump())
    with pytest.raises(SystemExit):
        run.main(["--config-file", str(file), "--find-lr", "--eval-only"])
    assert "without --eval-only" in capsys.readouterr().err
