import json

import pytest
import torch

import ablate_plus
from lrformer.analysis import ablation
from lrformer.analysis.ablation import ALL, ablate
from lrformer.analysis.measure import MeasureOptions
from lrformer.analysis.published import OPTIMISATIONS, STEPS, published
from lrformer.modeling.mask2former import inference, matcher, ms_deform_attn, transformer_decoder
from lrformer.modeling.mask2former.criterion import SetCriterion


def names(step):
    single = [name for name, x in OPTIMISATIONS.items() if step in x.steps]
    return [*([name] for name in single), single]


@pytest.fixture
def model(tiny):
    """Makes the tiny model with weights that let every part matter."""

    def make(*opts):
        model = tiny("MODEL.LRFORMER.DROP_PATH_RATE", 0.0, *opts)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        return model

    return make


@pytest.fixture
def same_points(monkeypatch):
    """Random points depend on nothing but how many are drawn."""

    def rand(*size, device=None):
        generator = torch.Generator().manual_seed(size[-2])
        return torch.empty(size[-2:]).uniform_(generator=generator).expand(size).clone()

    monkeypatch.setattr(torch, "rand", rand)


@pytest.fixture
def inputs(sample):
    torch.manual_seed(2)
    return [sample((0, 2, 4), 48, 64), sample((1, 3), 64, 40)]


@pytest.mark.parametrize("switched", names("inference"), ids=", ".join)
@pytest.mark.parametrize("before", [False, True])
def test_published_inference_gives_the_same_scores(model, inputs, switched, before):
    inputs[1] |= {"height": 90, "width": 70}  # of the prediction, unlike the image
    net = model("MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE", before).eval()
    with torch.no_grad():
        ours = net(inputs)
        with published(*switched):
            theirs = net(inputs)
    for a, b in zip(ours, theirs, strict=True):
        assert a["sem_seg"].std() > 1e-3
        torch.testing.assert_close(a["sem_seg"], b["sem_seg"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("switched", names("training"), ids=", ".join)
def test_published_training_gives_the_same_losses_and_gradients(
    model, inputs, same_points, switched
):
    net = model().train()

    def step():
        net.zero_grad()
        losses = net(inputs)
        sum(losses.values()).backward()
        gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
        return {name: loss.detach() for name, loss in losses.items()}, gradients

    ours = step()
    with published(*switched):
        theirs = step()
    assert ours[0].keys() == theirs[0].keys() and len(ours[0]) == 12
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-4, atol=1e-5)
    assert ours[1].keys() == theirs[1].keys()
    assert any("sampling_offsets" in name for name in ours[1])
    # Of a bias before a norm the gradient is 0 but for rounding.
    least = 1e-3 * torch.stack([gradient.norm() for gradient in ours[1].values()]).max()
    for name, gradient in ours[1].items():
        error = (gradient - theirs[1][name]).norm() / gradient.norm().clamp(min=least)
        assert error < 1e-3, name


@pytest.mark.parametrize(
    ("name", "owner", "attribute"),
    [
        ("deformable attention", ms_deform_attn, "_pytorch"),
        ("masked attention", transformer_decoder, "_inside"),
        ("semantic inference", inference.EnlargedMasks, "bands"),
        ("matching and losses", matcher.HungarianMatcher, "costs"),
    ],
)
def test_what_is_switched_off_does_not_run_until_it_is_back(
    tiny, inputs, monkeypatch, name, owner, attribute
):
    def ours(*args, **kwargs):
        raise NotImplementedError("ours runs")

    # So that what is replaced is put back is seen too: ours is back after an error.
    net = tiny().train("inference" not in OPTIMISATIONS[name].steps)
    monkeypatch.setattr(owner, attribute, ours)
    with torch.no_grad():
        with pytest.raises(ZeroDivisionError), published(name):
            net(inputs)
            raise ZeroDivisionError
        with pytest.raises(NotImplementedError, match="ours runs"):
            net(inputs)


def test_masks_are_resized_by_query_only_in_the_published_formulation(tiny, inputs, monkeypatch):
    resize, channels = transformer_decoder.resize, set()

    def spy(x, size):
        channels.add(x.shape[1])
        return resize(x, size)

    monkeypatch.setattr(transformer_decoder, "resize", spy)
    net = tiny().eval()
    with torch.no_grad():
        with published("mask resolution"):
            net(inputs)
        assert channels == {10}  # queries
        channels.clear()
        net(inputs)
    assert channels == {32}  # channels of the mask features


def test_ratios_are_those_of_neighbouring_passes_whatever_the_machine_does(tiny_cfg, monkeypatch):
    ours, machine = SetCriterion.forward, iter(range(1, 1000))

    def seconds(step):
        slow = next(machine) // 2  # every pair at another speed
        return slow * (4.0 if SetCriterion.forward is not ours else 1.0)

    monkeypatch.setattr(ablation._Step, "seconds", seconds)
    monkeypatch.setattr(ablation, "_peak_memory", lambda step, off, *_: 300 if off else 200)
    monkeypatch.setattr(ablation, "_cases", lambda step: [("matching and losses",)])
    options = MeasureOptions(threads=1, iterations=5, warmup=0)
    next(machine)  # so that both of a pair run at one speed
    [row] = ablate(tiny_cfg(), (64, 64), options, ["training"])
    assert (row.step, row.optimisation) == ("training", "matching and losses")
    assert (row.time_before, row.time_after) == (12, 3)
    assert (row.time_ratio_p25, row.time_ratio, row.time_ratio_p75) == (0.25, 0.25, 0.25)
    assert (row.memory_before, row.memory_after) == (300, 200)
    assert row.memory_ratio == pytest.approx(2 / 3)


@pytest.fixture
def tiny_command(tiny_cfg, tmp_path, monkeypatch):
    """Arguments for the tiny config; memory is measured in this process, to spare its start."""
    monkeypatch.setattr(ablation, "in_fresh_process", lambda function, *args: function(*args))
    config = tmp_path / "tiny.yaml"
    config.write_text(tiny_cfg("VERSION", 2).dump())
    size = ["--size", "64", "64", "--pairs", "1", "--warmup", "0", "--threads", "1"]
    return ["--config-file", str(config), *size]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_tool_measures_every_optimisation_and_all_of_them(tiny_command, tmp_path, dtype):
    file = tmp_path / "new" / "ablation.json"
    command = [*tiny_command, "--dtype", dtype, "--format", "json", "--output", str(file)]
    assert ablate_plus.main(command) == 0
    result = json.loads(file.read_text())
    assert result["conditions"]["dtype"] == dtype
    assert result["conditions"]["threads"] == 1
    assert result["conditions"]["deformable_attention"] == "pytorch"
    found = [(row["step"], row["optimisation"]) for row in result["rows"]]
    wanted = [(s, n[0] if len(n) == 1 else ALL) for s in STEPS for n in names(s)]
    assert found == wanted and len(wanted) == 11
    for row in result["rows"]:
        assert row["time_ratio"] == pytest.approx(row["time_after"] / row["time_before"])


def test_the_table_names_the_device_and_the_units(tiny_command, capsys):
    assert ablate_plus.main([*tiny_command, "--what", "inference"]) == 0
    text = capsys.readouterr().out
    assert "height: 64, width: 64, batch: 1" in text and f"torch: {torch.__version__}" in text
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| inference")]
    assert len(rows) == 6 and all(len(row) == 10 for row in rows)
    assert rows[-1][2].strip() == ALL and rows[0][3].strip().endswith(" ms")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--opts", "MODEL.MASK_FORMER.TEST.INSTANCE_ON", "True"], "only SEMANTIC_ON"),
        (["--opts", "MODEL.META_ARCHITECTURE", "SemanticSegmentor"], "'SemanticSegmentor'"),
        (["--instances", "0"], "at least 1"),
        (["--batch", "0"], "batch must be at least 1"),
        (["--device", "mps"], "'mps'"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(tiny_command, capsys, extra, message):
    assert ablate_plus.main([*tiny_command, *extra]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
