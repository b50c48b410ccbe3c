"""The demo's recipe with a tiny model as users run it: train, evaluate, draw."""

import re
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

import visualize
from demo import write_demo_scenes
from lrformer import build_model
from lrformer.data import builtin
from lrformer.engine import run
from lrformer.visualization import draw_picture
from lrformer.visualization.segments import phrase_metadata, phrase_segment

CONFIG = str(Path(__file__).parents[2] / "configs" / "demo" / "referring_t.yaml")
SMALL = {
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.MAX_ITER": 3,
    "DATALOADER.NUM_WORKERS": 0,
}


@pytest.fixture
def scenes(tmp_path):
    """Six demo scenes where the registered names look for them; the folder of their images."""
    pytest.importorskip("transformers", "5.0")
    path, _ = write_demo_scenes(tmp_path, num_train=4, num_val=2, height=64, width=80)

    def register(root):
        for name in [name for name in DatasetCatalog.list() if name.startswith("demo_scenes_")]:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        builtin.register_all(str(root))

    register(tmp_path)
    yield path / "images" / "val"
    register(builtin.default_root())


def test_train_evaluate_and_draw(scenes, tiny_opts, tmp_path, capsys):
    output = tmp_path / "output"
    opts = {**tiny_opts, **SMALL, "OUTPUT_DIR": output}

    def score(*options, **keys):
        argv = ["--config-file", CONFIG, *options, *map(str, chain(*{**opts, **keys}.items()))]
        assert run.main(argv) == 0
        return re.search(r"referring_val: gIoU (\S+)", capsys.readouterr().out)[1]

    trained = score()
    assert score("--eval-only", **{"MODEL.WEIGHTS": output / "model_final.pth"}) == trained

    def draw(name, *options):
        argv = ["--config-file", CONFIG, "--weights", output / "model_final.pth", "--output"]
        argv += [tmp_path / name, *options, *chain(*{**tiny_opts, **SMALL}.items())]
        return visualize.main([str(x) for x in argv])

    image = scenes / "demo_000000.jpg"
    # The phrase stands below the image, whether anything was found or not.
    assert draw("drawn", "--input", image, "--phrase", "red car", "where may I walk?") == 0
    pictures = [tmp_path / "drawn" / f"demo_000000_{i}.png" for i in range(2)]
    one, other = (np.asarray(Image.open(picture)) for picture in pictures)
    assert one.shape[0] > 64 and one.shape[1] == 80
    assert not np.array_equal(one[64:], other[64 : len(one)])
    options = ("--dataset", "demo_scenes_referring_val", "--ground-truth", "--limit", 3)
    assert draw("dataset", *options) == 0
    assert len(list((tmp_path / "dataset").iterdir())) == 3
    assert draw("nothing", "--input", image) == 2
    assert "--phrase" in capsys.readouterr().err


def test_the_quick_start_runs(tmp_path, monkeypatch):
    """What docs/referring.md shows, with random weights."""
    pytest.importorskip("transformers", "5.0")
    text = (Path(CONFIG).parents[2] / "docs" / "referring.md").read_text(encoding="utf-8")
    (quick_start,) = re.findall("```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "output" / "referring").mkdir(parents=True)
    Image.new("RGB", (70, 50), "gray").save(tmp_path / "street.jpg")
    model = build_model("demo/referring_t.yaml", device="cpu")
    torch.save(model.state_dict(), tmp_path / "output" / "referring" / "model_final.pth")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(quick_start, names)
    masks = names["masks"]["referring"]
    assert masks.shape == (2, 50, 70) and masks.dtype == torch.bool


def test_a_phrase_that_nothing_was_found_for_stands_below_the_image():
    nothing = [phrase_segment(np.zeros((64, 80), bool))]
    image = np.zeros((64, 80, 3), np.uint8)
    picture = draw_picture(image, {"prediction": nothing}, phrase_metadata("red car"))
    assert len(picture) > 64 and (picture[64:] < 128).any()
