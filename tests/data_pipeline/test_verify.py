"""What is found before the first iteration."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from lrformer.data import DatasetError, verify, verify_dataset


def test_a_sound_dataset_passes(scenes, save):
    label = np.full((120, 160), 255, dtype=np.uint8)
    label[:, :80] = 3
    save(scenes / "labels" / "3.png", label)
    verify_dataset("scenes", 4)


def test_a_wrong_number_of_classes_names_the_key(scenes):
    with pytest.raises(DatasetError) as error:
        verify_dataset("scenes", 150)
    assert str(error.value) == (
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES is 150, but scenes has 4 classes (a, b, c and 1 more). "
        "Set MODEL.SEM_SEG_HEAD.NUM_CLASSES 4."
    )


def test_an_unknown_dataset_is_named():
    with pytest.raises(DatasetError, match="no dataset named 'scenery'"):
        verify_dataset("scenery", 4)


def test_a_label_out_of_range_is_named(scenes, save):
    label = np.full((120, 160), 2, dtype=np.uint8)
    label[0, 0], label[0, 1] = 4, 151
    save(scenes / "labels" / "5.png", label)
    with pytest.raises(DatasetError, match=r"5\.png: found label 4, 151; expected 0\.\.3"):
        verify_dataset("scenes", 4)


def test_sizes_that_differ_are_named(scenes, save):
    save(scenes / "labels" / "1.png", np.zeros((160, 120), dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"1\.png: the label map is 120x160 .* 160x120"):
        verify_dataset("scenes", 4)


def test_an_empty_file_is_named(scenes):
    (scenes / "images" / "4.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"1 of 12 files cannot be used: .*4\.png \(empty\)"):
        verify_dataset("scenes", 4)


def test_a_broken_link_is_named(scenes):
    (scenes / "images" / "4.png").unlink()
    (scenes / "images" / "4.png").symlink_to(scenes / "nowhere.png")
    with pytest.raises(DatasetError, match=r"4\.png \(No such file or directory\)"):
        verify_dataset("scenes", 4)


def test_a_dataset_without_label_maps_is_named(monkeypatch, scenes):
    monkeypatch.setitem(DatasetCatalog.data, "scenes", lambda: [{"file_name": "a.jpg"}])
    with pytest.raises(DatasetError, match=r"scenes: 1 of 1 entries have no sem_seg_file_name"):
        verify_dataset("scenes", 4)


def test_a_large_dataset_is_sampled_evenly(scenes, save, monkeypatch):
    monkeypatch.setattr(verify, "_MAX_LABELS", 3)
    read = []
    monkeypatch.setattr(verify, "check_label", lambda label, file, *rest: read.append(file[-5:]))
    verify_dataset("scenes", 4)
    assert sorted(read) == ["0.png", "2.png", "5.png"]
