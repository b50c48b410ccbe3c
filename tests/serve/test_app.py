"""The HTTP interface and the page: answers, limits, and what harms nobody else."""

import base64
import io
import json
import shutil
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import Metadata
from PIL import Image
from torch import nn

pytest.importorskip("fastapi")
testclient = pytest.importorskip("starlette.testclient")

import serve as serve_tool  # noqa: E402
from lrformer import Predictor  # noqa: E402
from lrformer.serve import Limits  # noqa: E402
from lrformer.serve.app import create_app  # noqa: E402
from lrformer.serve.batching import Batcher  # noqa: E402

NAMES, COLORS = ["red", "green", "blue"], [(200, 0, 0), (0, 200, 0), (0, 0, 200)]


class Brightest(nn.Module):
    """Scores are the colours / 50; it works while ``free`` is set, and fails on white."""

    def __init__(self):
        super().__init__()
        self.batches, self.free = [], threading.Event()
        self.free.set()

    def forward(self, batched_inputs):
        assert self.free.wait(10)
        self.batches.append(len(batched_inputs))
        if any(x["image"].min() == 255 for x in batched_inputs):
            raise RuntimeError("white")
        return [
            {"sem_seg": F.interpolate(x["image"][None] / 50, (x["height"], x["width"]))[0]}
            for x in batched_inputs
        ]


@pytest.fixture
def model():
    return Brightest()


@pytest.fixture
def predictor(model):
    metadata = Metadata(stuff_classes=NAMES, stuff_colors=COLORS)
    return Predictor(model=model, metadata=metadata)


@pytest.fixture
def client(predictor):
    def make(**limits):
        app = create_app({"a": predictor, "b": predictor}, Limits(**limits))
        return testclient.TestClient(app, raise_server_exceptions=False)

    return make


def make_image(seed=0, height=20, width=31):
    return np.random.default_rng(seed).integers(0, 200, (height, width, 3), dtype=np.uint8)


def encode(image, format="png", **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, format, **options)
    return file.getvalue()


def bomb(side):
    """A PNG file of a few bytes whose header says so many pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def read(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_the_label_map_and_the_json_of_an_image(client):
    image = make_image(height=150)
    response = client().post("/predict", content=encode(image))
    assert response.status_code == 200 and response.headers["content-type"] == "image/png"
    assert np.array_equal(read(response.content), image.argmax(2))

    answer = client().post("/predict?output=json&model=b", content=encode(image)).json()
    assert (answer["width"], answer["height"]) == (31, 150)
    assert np.array_equal(read(base64.b64decode(answer["labels"])), image.argmax(2))
    powers = np.exp(image / 50)
    expected = 255 * powers.max(2) / powers.sum(2)
    assert np.abs(read(base64.b64decode(answer["confidence"])) - expected).max() < 0.51
    for label, found in enumerate(answer["classes"]):
        fraction = found.pop("fraction")
        assert fraction == pytest.approx((image.argmax(2) == label).mean())
        assert found == {"id": label, "name": NAMES[label], "color": list(COLORS[label])}


def test_an_image_is_turned_upright_as_its_camera_says(client):
    exif = Image.Exif()
    exif[274] = 6
    response = client().post("/predict", content=encode(make_image(), exif=exif))
    assert read(response.content).shape == (31, 20)


@pytest.mark.parametrize(
    "content, status",
    [
        (b"", 400),
        (b"hello", 400),
        (encode(make_image(), "jpeg")[:400], 400),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 400),  # would start a program
        (bomb(9000), 413),
        (bomb(20000), 413),
        (bytes(10**6 + 1), 413),
        ((bytes(10**5) for _ in range(11)), 413),  # does not say how much is to come
    ],
    ids=["nothing", "text", "cut", "eps", "large", "bomb", "bytes", "stream"],
)
def test_a_hostile_upload_is_refused_and_the_server_lives(client, model, content, status):
    client = client(bytes=10**6)
    response = client.post("/predict", content=content)
    assert response.status_code == status and response.json()["detail"]
    assert model.batches == []
    assert client.post("/predict", content=encode(make_image())).status_code == 200


def test_a_model_that_fails_is_the_servers_fault(client):
    client = client()
    assert (
        client.post("/predict", content=encode(np.full((4, 4, 3), 255, np.uint8))).status_code
        == 500
    )
    assert client.post("/predict", content=encode(make_image())).status_code == 200
    assert client.post("/predict?model=c", content=encode(make_image())).status_code == 404
    assert client.post("/predict?output=xml", content=encode(make_image())).status_code == 422


def test_so_many_requests_at_a_time_and_so_long(client, model):
    image = encode(make_image())
    with client(requests=2, seconds=1) as client, ThreadPoolExecutor(3) as pool:
        model.free.clear()
        waiting = [pool.submit(client.post, "/predict", content=image) for _ in range(3)]
        assert sorted(x.result().status_code for x in waiting) == [429, 504, 504]
        model.free.set()
        assert client.post("/predict", content=image).status_code == 200


def test_what_waits_is_predicted_together_and_one_image_harms_no_other(predictor, model):
    batcher = Batcher(predictor, batch_size=4)
    model.free.clear()
    images = [make_image(0), make_image(1), np.full((20, 31, 3), 255, np.uint8), make_image(2)]
    first = batcher.submit(make_image(3))
    while not first.running():
        time.sleep(0.01)
    futures = [batcher.submit(image) for image in images]
    cancelled = batcher.submit(make_image(4))
    assert cancelled.cancel()
    model.free.set()
    for image, future in zip(images, futures, strict=True):
        if image.min() == 255:
            assert isinstance(future.exception(10), RuntimeError)
        else:
            assert np.array_equal(future.result(10)[0], image.argmax(2))
    assert model.batches == [1, 4, 1, 1, 1, 1]


def test_the_interface_describes_itself(client):
    described = client().get("/openapi.json").json()["paths"]["/predict"]["post"]
    assert list(described["requestBody"]["content"]) == ["image/*"]
    assert {"200", "400", "413", "429", "504"} <= described["responses"].keys()
    assert client().get("/models").json()["models"] == ["a", "b"]


def test_only_this_machine_is_served_unless_told_otherwise(tmp_path, monkeypatch, tiny, tiny_opts):
    torch.save({"model": tiny().state_dict()}, tmp_path / "weights.pth")
    calls = []
    monkeypatch.setattr("uvicorn.run", lambda app, host, port: calls.append((host, port)))
    model = ["--config-file", "models/lrformer_plus_t.yaml"]
    model += ["--weights", str(tmp_path / "weights.pth")]
    opts = list(map(str, chain(*tiny_opts.items())))
    assert serve_tool.main([*model, *opts]) == 0
    assert serve_tool.main([*model, "--host", "0.0.0.0", "--port", "80", *opts]) == 0
    assert calls == [("127.0.0.1", 8000), ("0.0.0.0", 80)]


@contextmanager
def served(app):
    """The address of a real server."""
    uvicorn = pytest.importorskip("uvicorn")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.slow
def test_the_page_in_a_browser(predictor, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    if not (chromium := shutil.which("chromium")):
        pytest.skip("needs chromium")
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :40, 0] = image[:, 40:, 1] = 250
    image[:10] = (0, 0, 90)
    file = tmp_path / "image.png"
    file.write_bytes(encode(image))
    with (
        served(create_app({"a": predictor, "b": predictor})) as address,
        playwright.sync_playwright() as p,
    ):
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(address)
        page.wait_for_selector("#model option", state="attached")
        page.evaluate(
            """base64 => {
                const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
                const dataTransfer = new DataTransfer();
                dataTransfer.items.add(new File([bytes], "image.png", {type: "image/png"}));
                const drop = new DragEvent("drop", {dataTransfer});
                document.getElementById("drop").dispatchEvent(drop);
            }""",
            base64.b64encode(file.read_bytes()).decode(),
        )
        legend = page.locator("#legend label")
        legend.first.wait_for()
        assert legend.all_inner_texts() == ["red\n50.0 %", "green\n25.0 %", "blue\n25.0 %"]

        def pixel(x, y):
            return page.evaluate(f"[...context.getImageData({x}, {y}, 1, 1).data.slice(0, 3)]")

        assert pixel(5, 30) == pytest.approx([250 * 0.4 + 200 * 0.6, 0, 0], abs=2)
        legend.get_by_role("checkbox").first.uncheck()
        assert pixel(5, 30) == [250, 0, 0]
        assert pixel(50, 30) == pytest.approx([0, 250 * 0.4 + 200 * 0.6, 0], abs=2)
        page.locator("#opacity").fill("100")
        assert pixel(50, 30) == pytest.approx([0, 200, 0], abs=1)
        box = page.locator("#canvas").bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.9)
        assert page.inner_text("#hover") == "green 99 %"  # e^5 / (e^5 + 2)
        for button, check in (("#mask", check_mask), ("#json", check_json)):
            with page.expect_download() as download:
                page.click(button)
            check(download.value.path().read_bytes(), image.argmax(2))
        page.select_option("#other", "b")
        page.wait_for_selector("#cut:not([hidden])")
        page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"x"})
        page.wait_for_selector("#status.error")
        browser.close()
    assert errors == []


def check_mask(data, expected):
    assert np.array_equal(read(data), expected)


def check_json(data, expected):
    assert np.array_equal(read(base64.b64decode(json.loads(data)["labels"])), expected)
