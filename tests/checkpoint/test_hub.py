"""Weights by their names on the Hugging Face hub, of which a small one runs on this machine."""

import io
import logging

import pytest
import timm
import torch

import lrformer.timm_models  # noqa: F401  (it registers them)
from lrformer import build_model
from lrformer.checkpoint import WeightsError, check_weights_exist
from lrformer.checkpoint.hub import download
from lrformer.checkpoint.reading import find_file, read_weights

NAME = "hf://owner/models/lrformer_t.pth"


@pytest.fixture
def serve(hub):
    """Puts what torch.save writes of an object onto the hub."""

    def serve(name, content):
        stream = io.BytesIO()
        torch.save(content, stream)
        hub.files[name.removeprefix("hf://")] = stream.getvalue()
        return hub

    return serve


@pytest.fixture
def weights(serve):
    serve(NAME, {"a": torch.arange(3.0)})
    return serve


@pytest.mark.parametrize("revision", ["", "@main", "@{commit}"])
def test_a_file_is_downloaded_once_and_its_commit_logged(hub, weights, caplog, revision):
    name = NAME + revision.format(commit=hub.commit)
    with caplog.at_level(logging.INFO):
        assert torch.equal(read_weights(name).weights["a"], torch.arange(3.0))
    assert f"is @{hub.commit}" in caplog.text
    find_file(name)
    # The revision where the hub itself writes it, and the commit of the log.
    find_file(f"hf://owner/models@{hub.commit}/lrformer_t.pth")
    assert hub.sent == ["owner/models/lrformer_t.pth"]


def test_a_file_in_a_folder(hub):
    hub.files["owner/models/ade20k/t.pth"] = b"1"
    hub.files["owner/models/other"] = b"2"
    assert find_file("hf://owner/models/ade20k/t.pth").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hf://owner/models", r"expected hf://owner/repository/file"),
        ("hf://owner/none/a.pth", r"there is no http\S*/owner/none, or it is private: .*HF_TOKEN"),
        ("hf://owner/models/none.pth", r"http\S*/owner/models/tree/main has no such file"),
        (NAME + "@v2", r"http\S*/owner/models has no branch, tag or commit v2"),
        ("hf://gated/models/a.pth", r"its authors ask .* at http\S*/gated/models; then log in"),
    ],
)
def test_what_cannot_be_downloaded_is_explained_before_a_model_is_built(hub, weights, name, reason):
    hub.files["gated/models/a.pth"] = b"1"
    with pytest.raises(WeightsError, match=f"{name} could not be downloaded: {reason}"):
        check_weights_exist(name)


def test_a_token_opens_a_gated_repository(hub, monkeypatch):
    hub.files["gated/models/a.pth"] = b"1"
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert find_file("hf://gated/models/a.pth").read_bytes() == b"1"


def test_offline_the_cache_is_used(hub, weights, monkeypatch):
    find_file(NAME)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_file(NAME).is_file()
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids .* not in .*hub"):
        find_file("hf://owner/models/other.pth")


def test_without_a_network_the_cache_is_used(hub, weights, monkeypatch):
    find_file(NAME)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    hub.shutdown()
    hub.server_close()
    assert find_file(NAME).is_file()
    with pytest.raises(WeightsError, match=f"{hub.url} cannot be reached, and it is not in"):
        find_file("hf://owner/models/other.pth")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(OSError, match="pip install huggingface_hub"):
        download(NAME)


def test_a_model_has_the_weights_of_the_hub(serve, released):
    serve(NAME, {"state_dict": released("t"), "meta": {}})
    model = build_model("ade20k/lrformer_t.yaml", NAME, "cpu")
    expected = released("t")["decode_head.conv_seg.weight"]
    assert torch.equal(model.sem_seg_head.predictor.weight, expected)


def test_timm_has_the_weights_of_the_hub(serve, imagenet):
    serve("hf://owner/models/t_imagenet.pth", imagenet)
    source = {"hf_hub_id": "owner/models", "hf_hub_filename": "t_imagenet.pth", "num_classes": 10}
    model = timm.create_model(
        "lrformer_tiny", num_classes=10, pretrained=True, pretrained_cfg_overlay=source
    )
    assert torch.equal(model.head.weight, imagenet["head.weight"])
    assert torch.equal(model.stem.conv1.weight, imagenet["patch_embed1.conv1.0.weight"])
