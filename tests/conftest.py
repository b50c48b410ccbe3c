"""For tests in any folder: log handlers as before, a small LRFormer+, and a hub on this machine."""

import hashlib
import http.server
import json
import logging
import threading
from itertools import chain
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.logger import setup_logger

from lrformer import load_cfg

CONFIG = Path(__file__).parents[1] / "configs" / "models" / "lrformer_plus_t.yaml"
TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.LRFORMER.EMBED_DIMS": [8, 16, 24, 32],
    "MODEL.LRFORMER.DEPTHS": [1, 1, 1, 1],
    "MODEL.LRFORMER.NUM_HEADS": [1, 2, 2, 4],
    "MODEL.LRFORMER.MLP_RATIOS": [2, 2, 2, 2],
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 32,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 1,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 32,
    "MODEL.MASK_FORMER.NHEADS": 4,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 64,
    "MODEL.MASK_FORMER.DEC_LAYERS": 4,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 10,
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 64,
}


@pytest.fixture(autouse=True)
def _unchanged_loggers():
    """Undo detectron2's ``setup_logger``, after which neither ``caplog`` nor the root logger hears.

    It does nothing when it is called again with the same arguments; so much is forgotten, too.
    """
    yield
    for name in ("detectron2", "fvcore", "lrformer"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
    setup_logger.cache_clear()


@pytest.fixture
def tiny_opts():
    """The overrides that make LRFormer+ small."""
    return dict(TINY)


@pytest.fixture
def tiny_cfg():
    """Makes a config of LRFormer+ with few channels, layers, queries and five classes."""
    return lambda *opts: load_cfg(CONFIG, [*chain(*TINY.items()), *opts])


@pytest.fixture
def tiny(tiny_cfg):
    """Builds the model of ``tiny_cfg`` with the same random weights each time."""

    def build(*opts):
        torch.manual_seed(0)
        return build_model(tiny_cfg(*opts))

    return build


@pytest.fixture
def sample():
    """Makes an input of 48x64 whose image has one vertical stripe for each label."""

    def make(labels=(0, 2), height=48, width=64):
        instances = Instances((height, width))
        instances.gt_classes = torch.tensor(labels, dtype=torch.int64)
        stripe = torch.arange(width) * max(len(labels), 1) // width
        masks = [(stripe == i).expand(height, width) for i in range(len(labels))]
        empty = torch.zeros(0, height, width, dtype=torch.bool)
        instances.gt_masks = torch.stack(masks) if masks else empty
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        return {"image": image, "instances": instances, "height": height, "width": width}

    return make


class Hub(http.server.ThreadingHTTPServer):
    """As much of the Hugging Face hub as is asked for when files are downloaded.

    ``files`` are contents by owner, repository and file: "owner/repository/file"; "gated/…" needs
    the token "secret". There is one revision, ``commit`` or "main". ``sent`` are the files sent.
    """

    commit = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files, self.sent = {}, []

    def add(self, repository, folder):
        """Serve the files of a folder."""
        self.files |= {f"{repository}/{x.name}": x.read_bytes() for x in folder.iterdir()}


class _HubHandler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        path = self.path.split("?")[0].removeprefix("/").removeprefix("api/models/")
        owner, repository, *rest = path.split("/")
        repositories = {"/".join(name.split("/")[:2]) for name in self.server.files}
        error, content = None, b""
        if not rest and path in repositories:
            content = json.dumps({"id": path}).encode()
        elif rest[:1] != ["resolve"] or f"{owner}/{repository}" not in repositories:
            error = 401, "RepoNotFound"
        elif owner == "gated" and self.headers.get("authorization") != "Bearer secret":
            error = 403, "GatedRepo"
        elif rest[1] not in ("main", self.server.commit):
            error = 404, "RevisionNotFound"
        elif (name := "/".join([owner, repository, *rest[2:]])) not in self.server.files:
            error = 404, "EntryNotFound"
        else:
            content = self.server.files[name]
            self.server.sent += [name] if self.command == "GET" else []
        self.send_response(error[0] if error else 200)
        if error:
            self.send_header("X-Error-Code", error[1])
        self.send_header("X-Repo-Commit", self.server.commit)
        self.send_header("ETag", hashlib.sha1(content).hexdigest())
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content

    def do_GET(self):
        self.wfile.write(self.do_HEAD())

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A :class:`Hub` that huggingface_hub asks, with an empty cache and without a token."""
    from huggingface_hub import constants

    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server
        server.shutdown()
