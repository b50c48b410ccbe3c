"""The page and its JSON file, as command lines write them."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from scipy.stats import bootstrap

import report
from lrformer.engine import Trainer
from lrformer.engine.run import main

COLORS = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (9, 9, 9)]
CONFIG = ["--config-file", "models/lrformer_t.yaml"]


class _Page(HTMLParser):
    """Checks that elements are closed, and gathers ids, links and the bytes of images."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.images = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.append(attributes.get("id"))
        self.links += [attributes[x] for x in ("href", "src", "xlink:href") if attributes.get(x)]
        if tag == "img":
            data = attributes["src"].removeprefix("data:image/webp;base64,")
            self.images.append(Image.open(io.BytesIO(base64.b64decode(data))))
        if tag not in ("meta", "img", "input", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def trained(arguments, output, tmp_path_factory):
    """The folder of the report of a training."""
    folder = tmp_path_factory.mktemp("trained")
    assert main([*CONFIG, "--report", str(folder), *arguments, "SEED", "1"]) == 0
    return folder


def test_a_training_ends_with_its_report(trained, output, labels):
    saved = json.loads((trained / "report.json").read_text(), parse_constant=pytest.fail)
    results = output / "inference" / "reported_sem_seg" / "sem_seg_results.json"
    results = json.loads(results.read_text())
    assert saved["scores"]["mIoU"]["value"] == results["mIoU"]
    assert saved["scores"]["mIoU"]["low"] <= results["mIoU"] <= saved["scores"]["mIoU"]["high"]
    for mine, theirs in zip(saved["classes"], results["classes"], strict=True):
        assert {x: mine[x] for x in ("name", "IoU", "ACC")}.items() <= theirs.items()
    assert saved["classes"][3]["ACC"] is None
    assert saved["sizes"] == results["sizes"]
    digest = hashlib.sha256((output / "model_final.pth").read_bytes()).hexdigest()
    assert saved["card"]["weights' SHA-256"] == digest
    evaluated = [x["iteration"] for x in saved["curves"] if x["mIoU"] is not None]
    assert evaluated == [1, 3]
    assert sum(map(sum, saved["confusion"])) == sum((x != 255).sum() for x in labels.values())

    text = (trained / "report.html").read_text()
    page = _Page(text)
    assert [x for x in page.links if not x.startswith(("#", "data:"))] == []
    assert {x[1:] for x in page.links if x.startswith("#")} <= set(page.ids)
    assert not re.findall(r"url\((?!data:|#)", text)
    assert "&lt;blue&gt; &amp; more" in text and "<blue>" not in text
    assert len(text) < 10e6 / 200 * len(labels)
    # Each image's prediction, truth and errors; the first that is shown is the worst.
    maps = [np.asarray(x.convert("RGBA")) for x in page.images if x.size == (96, 64)]
    assert len(maps) == 3 * len(labels)
    scores = {name: x["mIoU"] for name, x in saved["per_image"].items()}
    worst = next(x for name, x in labels.items() if name.endswith(min(scores, key=scores.get)))
    known = worst != 255
    assert (maps[1][known] == np.array([(*x, 255) for x in COLORS])[worst[known]]).all()
    assert (maps[1][~known][:, 3] == 0).all()
    red = (maps[2] == (214, 39, 40, 255)).all(2)
    assert (red == (known & (maps[0] != maps[1]).any(2))).all()


@pytest.fixture(scope="module")
def both(trained, arguments, output, tmp_path_factory):
    """The folders of two reports: of the training, and of its weights on smaller images."""
    folder = tmp_path_factory.mktemp("evaluated")
    keys = ["MODEL.WEIGHTS", str(output / "model_final.pth"), "INPUT.MIN_SIZE_TEST", "32"]
    assert main([*CONFIG, "--eval-only", "--report", str(folder), *arguments, *keys]) == 0
    return trained, folder


def _pixels(saved):
    """N x 3 x K, and the images' names."""
    pixels = np.zeros((len(saved["per_image"]), 3, 4))
    for row, image in zip(pixels, saved["per_image"].values(), strict=True):
        for label, counts in image["pixels"].items():
            row[:, int(label)] = counts
    return pixels


def _mious(pixels):
    labelled, predicted, correct = pixels.sum(0)
    union = labelled + predicted - correct
    return 100 * np.mean((correct / np.maximum(union, 1))[union > 0])


def test_two_reports_side_by_side(both, tmp_path, capsys):
    assert report.main([*map(str, both), "--output", str(tmp_path / "new" / "both.html")]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "new" / "both.json").read_text())["difference"]
    first, second = (json.loads((x / "report.json").read_text()) for x in both)
    assert first["curves"] == second["curves"] != []
    difference = second["scores"]["mIoU"]["value"] - first["scores"]["mIoU"]["value"]
    assert found["mIoU"]["value"] == difference != 0
    assert f"mIoU {difference:+.2f}" in printed
    pixels = [_pixels(x) for x in (first, second)]
    scipys = bootstrap(
        (np.arange(6),),
        lambda i: _mious(pixels[1][i]) - _mious(pixels[0][i]),
        vectorized=False,
        method="percentile",
        n_resamples=3000,
        rng=0,
    ).confidence_interval
    ends = [found["mIoU"]["low"], found["mIoU"]["high"]]
    assert ends == pytest.approx(list(scipys), abs=0.15 * (scipys.high - scipys.low))
    text = (tmp_path / "new" / "both.html").read_text()
    _Page(text)
    assert all(f"{x:,.2f}" in text for x in (first["scores"]["mIoU"]["value"], abs(difference)))


def test_reports_that_cannot_be_compared(both, tmp_path, capsys):
    first, second = both[0], tmp_path / "second"
    shutil.copytree(both[1], second)
    output = ["--output", str(tmp_path / "x.html")]
    assert report.main([str(first), str(first), *output]) == 2
    assert "name two reports" in capsys.readouterr().err
    assert report.main([str(first), str(tmp_path / "nowhere"), *output]) == 2
    assert "nowhere" in capsys.readouterr().err
    other = json.loads((second / "report.json").read_text())
    other["classes"].reverse()
    (second / "report.json").write_text(json.dumps(other))
    assert report.main([str(first), str(second), *output]) == 2
    assert "different classes" in capsys.readouterr().err
    (second / "report.json").write_text("{}")
    assert report.main([str(first), str(second), *output]) == 2
    assert "is no report" in capsys.readouterr().err


def test_instances_have_no_page_yet(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "verify_datasets", lambda *args: pytest.fail("too late"))
    (tmp_path / "weights.pth").touch()
    for task in ("instance", "panoptic"):
        config = ["--config-file", f"demo/lrformer_plus_t_{task}.yaml", "--eval-only"]
        keys = ["MODEL.WEIGHTS", str(tmp_path / "weights.pth"), "OUTPUT_DIR", str(tmp_path / "o")]
        assert main([*config, "--report", str(tmp_path / "report"), *keys]) == 2
        assert "semantic segmentation only" in capsys.readouterr().err


_CLICKS = """<script>
document.querySelector(".gallery .panel").click();
const slider = document.querySelector("dialog input");
slider.value = 0.2;
slider.dispatchEvent(new Event("input", {bubbles: true}));
document.querySelector("dialog .shown").click();
const state = {
  open: dialog.open,
  shown: document.querySelector("dialog .shown").innerText.trim(),
  focused: document.activeElement.className,
  opacity: getComputedStyle(document.querySelector(".gallery .stack img")).opacity,
  loaded: [...document.images].every((image) => image.naturalWidth > 0),
};
document.body.dataset.state = JSON.stringify(state);
</script></body>"""


@pytest.mark.slow
def test_a_browser_enlarges_and_blends(trained, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium")
    page = tmp_path / "clicked.html"
    page.write_text((trained / "report.html").read_text().replace("</body>", _CLICKS))
    options = ["--headless", "--no-sandbox", f"--user-data-dir={tmp_path}/user", "--dump-dom"]
    done = subprocess.run([browser, *options, page.as_uri()], capture_output=True, text=True)
    (state,) = re.findall(r'data-state="([^"]+)"', done.stdout)
    assert json.loads(state.replace("&quot;", '"')) == {
        "open": True,
        "shown": "truth",
        "focused": "panel shown",
        "opacity": "0.2",
        "loaded": True,
    }
