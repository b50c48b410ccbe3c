"""What a config's model is about, where its datasets say it and where they disagree."""

import pytest
from detectron2.data import MetadataCatalog

from lrformer.data import metadata_of, things_of

NAMES = ["road", "car", "person"]
STUFF = {"stuff_classes": NAMES}
THINGS = {
    "thing_classes": NAMES,
    "stuff_classes": NAMES,
    "thing_dataset_id_to_contiguous_id": {26: 1, 24: 2},
    "stuff_dataset_id_to_contiguous_id": {7: 0},
}


@pytest.fixture
def about(cfg):
    """Metadata of a config whose datasets have the given metadata."""
    names = []

    def metadata(test, *train):
        for number, facts in enumerate((test, *train)):
            names.append(f"made_up_{number}")
            MetadataCatalog.get(names[-1]).set(**facts)
        cfg.DATASETS.TEST, cfg.DATASETS.TRAIN = tuple(names[:1]), tuple(names[1:])
        return metadata_of(cfg)

    yield metadata
    for name in names:
        MetadataCatalog.remove(name)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ((STUFF, {"stuff_classes": NAMES[:2]}), "0 and .*stuff_classes: 2 is 'person' and None"),
        (({}, STUFF, {"stuff_classes": NAMES[::-1]}), "1 and .*_2 .*: 0 is 'road' and 'person'"),
        (({"thing_classes": ["car"]}, {"thing_classes": ["cat"]}), "0 is 'car' and 'cat'"),
        (
            (THINGS, THINGS | {"thing_dataset_id_to_contiguous_id": {26: 1}}),
            r"things: \[1, 2\] and \[1\]",
        ),
    ],
)
def test_datasets_that_disagree_are_named(about, facts, message):
    with pytest.raises(ValueError, match=f"made_up_.*{message}"):
        about(*facts)


@pytest.mark.parametrize(
    ("test", "train", "chosen"),
    [
        (STUFF, STUFF, 0),
        (STUFF, THINGS, 1),  # it knows more
        ({}, STUFF, 1),
        (THINGS, {"thing_classes": NAMES}, 0),
    ],
)
def test_the_dataset_that_says_most_is_taken(about, test, train, chosen):
    metadata = about(test, train)
    assert metadata is MetadataCatalog.get(f"made_up_{chosen}")
    assert things_of(metadata) == (frozenset({1, 2}) if THINGS in (test, train) else None)


def test_datasets_that_are_not_known_stay_unknown(cfg):
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN = ("nowhere",)
    assert metadata_of(cfg) is None and things_of(None) is None
    assert "nowhere" not in MetadataCatalog
