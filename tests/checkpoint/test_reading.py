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

from lrformer.checkpoint import WeightsError, check_weights_exist
from lrformer.checkpoint.reading import read_file, read_weights

WEIGHTS = OrderedDict(a=torch.arange(6.0).view(2, 3), b=torch.tensor(3))
WEIGHTS._metadata = OrderedDict({"": {"version": 1}})
ARRAYS = {name: tensor.numpy() for name, tensor in WEIGHTS.items()}


class Harmful:
    """Makes the folder ``mark`` when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


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


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("weights", [ARRAYS, WEIGHTS])  # detectron2's zoo; Mask2Former's scripts
def test_pickles_of_arrays_and_of_tensors(tmp_path, weights, protocol):
    content = {"model": weights, "__author__": "someone"}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(content, protocol))
    assert is_read(tmp_path / "zoo.pkl")
    assert read_file(tmp_path / "zoo.pkl").extras == {"__author__": "someone"}


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
    assert read_file(tmp_path / "weights.pth").extras == {"epoch": 3, "note": metadata["note"]}


@pytest.mark.parametrize("kind", ["zip", "legacy", "legacy of NumPy 1"])
def test_scores_and_command_lines_of_other_projects_do_not_matter(tmp_path, kind):
    meta = {"PALETTE": np.zeros((2, 3), np.uint8), "best": np.float64(0.5)}
    content = {"state_dict": WEIGHTS, "meta": meta, "args": argparse.Namespace(lr=1.0)}
    file = tmp_path / "mmseg.pth"
    torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")
    if kind == "legacy of NumPy 1":  # which names its functions so
        file.write_bytes(file.read_bytes().replace(b"cnumpy._core.", b"cnumpy.core."))
    assert is_read(file)
    assert read_file(file).extras["meta"]["best"] == 0.5


def write(content, file, kind):
    if kind == "pickle":
        file.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_code_in_a_pickle_is_not_run_unless_allowed(tmp_path, kind):
    mark, file = tmp_path / "it_ran", tmp_path / "weights.pth"
    write({"model": WEIGHTS, "note": Harmful(mark)}, file, kind)
    with pytest.raises(WeightsError, match=r"weights.pth is refused: .*(posix|nt).mkdir") as raised:
        read_file(file)
    assert not mark.exists()
    assert "MODEL.WEIGHTS_ALLOW_PICKLE" in str(raised.value)
    assert is_read(file, allow_pickle=True) and mark.exists()


def test_code_in_a_tensor_of_a_pickle_is_not_run(tmp_path):
    class Storage:
        def __reduce__(self):
            # What a pickled tensor asks for, given a file of torch.save with code in it.
            torch.save(Harmful(tmp_path / "it_ran"), tmp_path / "inner")
            return torch.storage._load_from_bytes, ((tmp_path / "inner").read_bytes(),)

    write({"model": {"a": Storage()}}, tmp_path / "weights.pkl", "pickle")
    with pytest.raises(WeightsError):
        read_file(tmp_path / "weights.pkl")
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html>\n<html>404</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a git-LFS pointer"),
        (b"\x1f\x8b\x08\x00rest", "gzip"),
        (b"Not Found", "b'Not Found'"),
        (bytes(100), "of no kind that is known here"),
    ],
)
def test_other_files_are_named(tmp_path, content, said):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=f"weights.pth is .*{said}"):
        read_file(tmp_path / "weights.pth")


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "safetensors"])
def test_a_file_that_is_cut_off_is_named(tmp_path, kind):
    file = tmp_path / "weights"
    if kind == "safetensors":
        save_file(dict(WEIGHTS), file)
    else:
        write(ARRAYS if kind == "pickle" else WEIGHTS, file, kind)
    data = file.read_bytes()
    for share in (0.1, 0.5, 0.99):
        file.write_bytes(data[: int(share * len(data))])
        with pytest.raises(WeightsError, match="weights is damaged, cut off"):
            read_file(file)


def test_one_wrong_bit_is_found(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(WEIGHTS, file)
    data = bytearray(file.read_bytes())
    position = data.index(WEIGHTS["a"].numpy().tobytes()) + 5
    data[position] ^= 1
    file.write_bytes(data)
    # PyTorch itself loads it.
    assert not torch.equal(torch.load(file, weights_only=True)["a"], WEIGHTS["a"])
    with pytest.raises(WeightsError, match=r"weights.pth is damaged.* checksum of its record .*/0"):
        read_file(file)


def test_damage_and_other_archives_are_named_without_bad_advice(tmp_path):
    np.savez(tmp_path / "arrays.npz", **ARRAYS)
    torch.save(WEIGHTS, tmp_path / "zeros.pth")
    before, pickled, after = (tmp_path / "zeros.pth").read_bytes().partition(b"\x80\x02")
    (tmp_path / "zeros.pth").write_bytes(before + pickled + bytes(38) + after[38:])
    for name in ("arrays.npz", "zeros.pth"):
        with pytest.raises(WeightsError, match=f"{name} is damaged, cut off or no") as raised:
            read_file(tmp_path / name)
        assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds an object of type list"),
        ({"model": {}}, "holds no tensors"),
        ({"a": torch.zeros(1), "epoch": 2}, "epoch is of type int"),
        ({"a": torch.zeros(1), "names": np.array(["a"])}, "names is of type ndarray"),
        ({"a": torch.zeros(1), "module.a": torch.zeros(1)}, "holds a twice"),
    ],
)
def test_other_contents_are_named(tmp_path, content, said):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=f"weights.pth.*{said}"):
        read_file(tmp_path / "weights.pth")


@pytest.mark.parametrize("look", [check_weights_exist, read_weights])
def test_a_missing_file_and_a_folder(tmp_path, look):
    with pytest.raises(FileNotFoundError, match="none.pth"):
        look(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match="is a folder without model.safetensors"):
        look(tmp_path)


def test_urls(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    torch.save(WEIGHTS, tmp_path / "weights.pth")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for _ in range(2):  # downloaded once
            weights = read_weights(f"{address}/weights.pth?download=1").weights
            assert torch.equal(weights["a"], WEIGHTS["a"])
            (tmp_path / "weights.pth").unlink(missing_ok=True)
        with pytest.raises(WeightsError, match="a web page.*copy of http.*page.pth; remove it"):
            read_weights(f"{address}/page.pth")
        with pytest.raises(WeightsError, match="none.pth could not be downloaded: .*404"):
            read_weights(f"{address}/none.pth")
        server.shutdown()
