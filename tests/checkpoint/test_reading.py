"""Which files of weights are read, and what is said of those that are not."""

import argparse
import functools
import http.server
import os
import pickle
import threading
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lrformer.checkpoint.reading import WeightsError, read_file, read_weights

WEIGHTS = OrderedDict(a=torch.arange(6.0).view(2, 3), b=torch.tensor(3))
WEIGHTS._metadata = OrderedDict({"": {"version": 1}})
ARRAYS = {name: tensor.numpy() for name, tensor in WEIGHTS.items()}


class Harmful:
    """Makes the folder ``mark`` when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def to_pickle(content, file, protocol=2):
    file.write_bytes(pickle.dumps(content, protocol=protocol))


def is_read(file, **options):
    weights = read_file(file, **options).weights
    assert list(weights) == list(WEIGHTS)
    return all(torch.equal(weights[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_files_of_pytorch(tmp_path, key, new):
    weights = {f"module.{name}": torch.nn.Parameter(t, False) for name, t in WEIGHTS.items()}
    content = {key: weights, "epoch": 3} if key else weights
    # The name says nothing.
    torch.save(content, tmp_path / "weights.safetensors", _use_new_zipfile_serialization=new)
    assert is_read(tmp_path / "weights.safetensors")
    assert read_file(tmp_path / "weights.safetensors").extras == ({"epoch": 3} if key else {})


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_arrays_as_in_detectron2s_zoo(tmp_path, protocol):
    to_pickle({"model": ARRAYS, "__author__": "someone"}, tmp_path / "zoo.pkl", protocol)
    assert is_read(tmp_path / "zoo.pkl")
    assert read_file(tmp_path / "zoo.pkl").extras == {"__author__": "someone"}


def test_pickles_of_tensors_as_mask2formers_scripts_write_them(tmp_path):
    content = {"model": WEIGHTS, "__author__": "third_party", "matching_heuristics": True}
    to_pickle(content, tmp_path / "swin.pkl")
    assert is_read(tmp_path / "swin.pkl")


def test_a_pickle_of_python_2(tmp_path):
    # As Python 2.7 with NumPy 1 writes {"model": {"a": numpy.array([1, 2], "f4")}} (its str holds
    # bytes, and modules have their old names).
    data = (
        b"\x80\x02}q\x00U\x05modelq\x01}q\x02U\x01aq\x03cnumpy.core.multiarray\n_reconstruct\nq\x04"
        b"cnumpy\nndarray\nq\x05K\x00\x85q\x06U\x01bq\x07\x87q\x08Rq\t(K\x01K\x02\x85q\ncnumpy\n"
        b"dtype\nq\x0bU\x02f4q\x0cK\x00K\x01\x87q\rRq\x0e(K\x03U\x01<q\x0fNNNJ\xff\xff\xff\xffJ"
        b"\xff\xff\xff\xffK\x00tq\x10b\x89U\x08\x00\x00\x80?\x00\x00\x00@q\x11tq\x12bss."
    )
    (tmp_path / "old.pkl").write_bytes(data)
    assert read_file(tmp_path / "old.pkl").weights["a"].tolist() == [1.0, 2.0]


def test_safetensors_with_metadata(tmp_path):
    metadata = {"format": "pt", "epoch": "3", "note": "as other programs write it"}
    save_file(dict(WEIGHTS), tmp_path / "weights.pth", metadata)
    assert is_read(tmp_path / "weights.pth")
    extras = read_file(tmp_path / "weights.pth").extras
    assert extras == {"epoch": 3, "note": "as other programs write it"}


@pytest.mark.parametrize("new", [True, False])
def test_scores_and_command_lines_of_other_projects_do_not_matter(tmp_path, new):
    meta = {"PALETTE": np.zeros((2, 3), np.uint8), "best": np.float64(0.5)}
    content = {"state_dict": WEIGHTS, "meta": meta, "args": argparse.Namespace(lr=1.0)}
    file = tmp_path / "mmseg.pth"
    torch.save(content, file, _use_new_zipfile_serialization=new)
    assert is_read(file)
    if not new:  # as NumPy 1 names its functions
        file.write_bytes(file.read_bytes().replace(b"cnumpy._core.", b"cnumpy.core."))
        assert is_read(file)
        assert read_file(file).extras["meta"]["best"] == 0.5


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_code_in_a_pickle_is_not_run_unless_allowed(tmp_path, kind):
    mark, file = tmp_path / "it_ran", tmp_path / "weights.pth"
    content = {"model": WEIGHTS, "note": Harmful(mark)}
    if kind == "pickle":
        to_pickle(content, file)
    else:
        torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(WeightsError, match=r"weights.pth is refused: .*(posix|nt).mkdir") as raised:
        read_file(file)
    assert not mark.exists()
    assert "MODEL.WEIGHTS_ALLOW_PICKLE" in str(raised.value)
    assert "--allow-pickle" in str(raised.value)
    assert is_read(file, allow_pickle=True)
    assert mark.exists()


def test_code_in_a_tensor_of_a_pickle_is_not_run(tmp_path):
    class Storage:
        def __reduce__(self):
            # What a pickled tensor asks for, given a file of torch.save with code in it.
            torch.save(Harmful(tmp_path / "it_ran"), tmp_path / "inner")
            return torch.storage._load_from_bytes, ((tmp_path / "inner").read_bytes(),)

    to_pickle({"model": {"a": Storage()}}, tmp_path / "weights.pkl")
    with pytest.raises(WeightsError):
        read_file(tmp_path / "weights.pkl")
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html>\n<html>404</html>", "a web page"),
        (b"<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a git-LFS pointer"),
        (b'{"error": "not found"}', "JSON"),
        (b"\x1f\x8b\x08\x00rest", "gzip"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"Not Found", r"of no kind that is known here \(it begins with b'Not Found'\)"),
        (bytes(100), "of no kind that is known here"),
    ],
)
def test_other_files_are_named(tmp_path, content, said):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=f"weights.pth is .*{said}"):
        read_file(tmp_path / "weights.pth")


def test_other_archives_are_named(tmp_path):
    with open(tmp_path / "arrays.pth", "wb") as file:
        np.savez(file, **ARRAYS)
    with pytest.raises(WeightsError, match="arrays.pth is a zip archive, not a checkpoint"):
        read_file(tmp_path / "arrays.pth")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "safetensors"])
def test_a_file_that_is_cut_off_is_named(tmp_path, kind, share):
    file = tmp_path / "weights"
    if kind == "pickle":
        to_pickle({"model": ARRAYS}, file)
    elif kind == "safetensors":
        save_file(dict(WEIGHTS), file)
    else:
        torch.save(WEIGHTS, file, _use_new_zipfile_serialization=kind == "zip")
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(WeightsError, match="weights is .*cut off.*download or copy it again"):
        read_file(file)


def test_zeros_inside_a_file_are_damage(tmp_path):
    torch.save(WEIGHTS, tmp_path / "weights.pth")
    data = bytearray((tmp_path / "weights.pth").read_bytes())
    start = data.index(b"\x80\x02")  # of the pickle in it
    data[start + 2 : start + 40] = bytes(38)
    (tmp_path / "weights.pth").write_bytes(data)
    with pytest.raises(WeightsError, match="weights.pth is damaged"):
        read_file(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds an object of type list"),
        ({"net": WEIGHTS, "epoch": 2}, "holds no tensors .* it holds: net, epoch"),
        ({"model": {}}, "holds no tensors"),
        ({"a": torch.zeros(1), "epoch": 2}, "epoch is of type int among the tensors"),
        ({"a": torch.zeros(1), "module.a": torch.zeros(1)}, "holds a twice"),
    ],
)
def test_other_contents_are_named(tmp_path, content, said):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=f"weights.pth.*{said}"):
        read_file(tmp_path / "weights.pth")


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.pth does not exist"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_weights(tmp_path)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves a folder; gives the folder and its address."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_url_is_downloaded_once(server):
    folder, address = server
    torch.save(WEIGHTS, folder / "weights.pth")
    url = f"{address}/weights.pth?download=1"
    assert torch.equal(read_weights(url).weights["a"], WEIGHTS["a"])
    (folder / "weights.pth").unlink()
    assert torch.equal(read_weights(url).weights["a"], WEIGHTS["a"])


def test_a_url_of_something_else_is_named_with_its_copy(server):
    folder, address = server
    (folder / "page.pth").write_text("<!DOCTYPE html>")
    with pytest.raises(WeightsError, match="a web page.*copy of http.*page.pth; remove it"):
        read_weights(f"{address}/page.pth")
    with pytest.raises(WeightsError, match="none.pth could not be downloaded: .*404"):
        read_weights(f"{address}/none.pth")
