"""Names, colours and raw label ids of the datasets.

Only facts of the datasets live here; :mod:`lrformer.data.builtin` registers them. Colours are RGB.
Names and colours that detectron2 already holds (ADE20K's names, COCO's things, Cityscapes) are
taken from it.
"""

from collections.abc import Iterable

import numpy as np
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES, COCO_CATEGORIES

IGNORE_LABEL = 255
# Entry of a raw-id table for ids that the dataset's specification does not have.
INVALID_ID = -1


def _colors(text: str) -> tuple[tuple[int, int, int], ...]:
    """Parse whitespace-separated rrggbb triples."""
    return tuple(tuple(bytes.fromhex(color)) for color in text.split())


def _names(text: str) -> tuple[str, ...]:
    """Parse comma-separated names."""
    return tuple(name.strip() for name in text.split(","))


# The 150 colours of the MIT scene parsing benchmark. Road and skyscraper share one there too.
ADE20K_COLORS = _colors("""
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d
    787846 08ff33 ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0
    0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06
    ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00
    ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff 00ff70
    00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99
    ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52
    000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00
    08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff
    9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00
    00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8
    005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
""")

CITYSCAPES_COLORS = tuple(tuple(category["color"]) for category in CITYSCAPES_CATEGORIES)

_COCO_THINGS = [category for category in COCO_CATEGORIES if category["isthing"]]
_COCO_STUFF_NAMES = _names("""
    banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet,
    ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff,
    dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood,
    flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house,
    leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement,
    pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock,
    roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone,
    straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick,
    wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other,
    waterdrops, window-blind, window-other, wood
""")
_COCO_STUFF_COLORS = _colors("""
    00c000 c08060 c06080 004080 400060 40e080 804000 c000e0 406080 80c080 4000e0 c0e080 80c040
    c00060 c06000 8040c0 008060 00e000 404040 8080e0 006000 40c0c0 0080e0 80e000 40c040 808060
    802080 4000c0 004060 00a080 c00040 8040e0 002080 c080c0 0040e0 80a080 c08000 804020 802040
    c00080 40c020 00a040 400000 c0c0a0 002040 408080 40c0a0 80a040 408000 c0c020 8060c0 400080
    404020 00e0c0 c00000 c040a0 0060c0 c08080 4040a0 80e0c0 c08040 c04020 806040 c000c0 00c020
    40e040 400040 80c0a0 406040 4080c0 00c0a0 c0e040 408040 80c020 c020c0 4040c0 004020 40a0c0
    c04040 8040a0 4020c0 c0c0c0 0040a0 c0a0c0 c0c000 804060 c02040 c04080 40c060 40a040 404000
""")
# 80 things, then 91 stuff classes. The things keep COCO's own colours: the palette that
# circulates for the 171 classes gives several of them (person and bicycle) the same one.
COCO_STUFF_CLASSES = (*(thing["name"] for thing in _COCO_THINGS), *_COCO_STUFF_NAMES)
COCO_STUFF_COLORS = (*(tuple(thing["color"]) for thing in _COCO_THINGS), *_COCO_STUFF_COLORS)

CAMVID_CLASSES = _names(
    "Sky, Building, Pole, Road, Pavement, Tree, SignSymbol, Fence, Car, Pedestrian, Bicyclist"
)
CAMVID_COLORS = _colors(
    "808080 800000 c0c080 804080 0000c0 808000 c08080 404080 400080 404000 0080c0"
)

# Colours of the 32 classes of CamVid's original release, grouped into the 11 in common use.
# Void (000000) and whatever is not listed is ignored.
CAMVID_ORIGINAL_COLORS = {
    "Sky": _colors("808080"),
    "Building": _colors("800000 008040 40c000 400040 c00080"),  # + bridge, wall, tunnel, archway
    "Pole": _colors("c0c080 000040"),  # + traffic cone
    "Road": _colors("804080 8000c0 c00040"),  # + lane markings, drivable or not
    "Pavement": _colors("0000c0 40c080 8080c0"),  # + parking block, road shoulder
    "Tree": _colors("808000 c0c000"),  # + other vegetation
    "SignSymbol": _colors("c08080 808040 004040"),  # + other text, traffic light
    "Fence": _colors("404080"),
    "Car": _colors("400080 4080c0 c080c0 c04080 804040"),  # + SUV, truck or bus, train, other
    "Pedestrian": _colors("404000 c08040 4000c0 408040"),  # + child, cart or pram, animal
    "Bicyclist": _colors("0080c0 c000c0"),  # + motorcycle
}

# The demo scenes; every pixel has a class. Colours are Cityscapes'.
DEMO_CLASSES = _names("sky, building, tree, road, pavement, car, person, pole")
DEMO_COLORS = _colors("4682b4 464646 6b8e23 804080 f423e8 00008e dc143c 999999")
DEMO_THINGS = ("car", "person")


# Sizes of classes (paper, Tab. 8), by the area that a typical object shows from its widest side:
# small below half a square metre, medium below ten. All else is large, also what has no form of its
# own, such as sky and floor. The paper gives the idea alone; thresholds and estimates are ours.
SIZES = ("small", "medium", "large")
_SMALL = _names("""
    apple, backpack, bag, ball, banana, baseball bat, baseball glove, basket, bird, book, bottle,
    bowl, box, broccoli, cake, cardboard, carrot, cat, cell phone, chair, clock, clothes, computer,
    crt screen, cup, cushion, dog, donut, fire hydrant, flower, food, food-other, fork, frisbee,
    fruit, glass, hair drier, handbag, hood, hot dog, keyboard, knife, lamp, laptop, light,
    microwave, monitor, mouse, napkin, orange, ottoman, oven, painting, paper, parking meter,
    pillow, pizza, plate, plaything, pole, poster, pot, potted plant, remote, salad, sandwich,
    scissors, sconce, signsymbol, sink, skateboard, skis, snowboard, spoon, sports ball, step,
    stool, stop sign, suitcase, teddy bear, tennis racket, tie, toaster, toilet, toothbrush, towel,
    trade name, traffic light, traffic sign, trash can, tray, vase, vegetable, wine glass
""")
_MEDIUM = _names("""
    animal, arcade machine, armchair, awning, banner, bannister, bar, barrel, base, bear, bed,
    bench, bicycle, bicyclist, blanket, blind, boat, bookcase, booth, buffet, bulletin board, bush,
    cabinet, cage, car, case, chandelier, chest of drawers, coffee table, column, conveyer belt,
    couch, counter, countertop, cow, cradle, cupboard, curtain, desk, desk-stuff, dining table,
    dishwasher, door, door-stuff, fan, fireplace, flag, fountain, furniture-other, giraffe, horse,
    kitchen island, kite, mat, minibike, mirror, mirror-stuff, motorcycle, pedestrian, person,
    plant, plant-other, pool table, radiator, refrigerator, rider, rock, rug, screen, screen door,
    sculpture, seat, sheep, shelf, shower, signboard, sofa, stairs, stairway, stove, street lamp,
    surfboard, swivel chair, table, tent, tub, tv, umbrella, van, wardrobe, washer, window,
    window-blind, window-other, zebra
""")


def class_sizes(classes: Iterable[str]) -> list[str]:
    """One of ``SIZES`` for each class of the datasets here; of synonyms, the first decides."""
    known = dict.fromkeys(_SMALL, "small") | dict.fromkeys(_MEDIUM, "medium")
    return [known.get(name.split(",")[0].strip().lower(), "large") for name in classes]


def _table(ids: Iterable[int], ignored: Iterable[int]) -> np.ndarray:
    """(256,) int16 table from raw id to label: the place in ``ids``, IGNORE_LABEL or INVALID_ID."""
    ids, table = list(ids), np.full(256, INVALID_ID, dtype=np.int16)
    table[list(ignored)] = IGNORE_LABEL
    table[ids] = np.arange(len(ids))
    return table


# Raw ids 1..150 are the classes, 0 is everything else.
ADE20K_RAW_IDS = _table(range(1, 151), ignored=[0])

# A raw label of the stuffthingmaps is a category id less 1. Eleven of COCO's 91 thing ids were
# never annotated.
_COCO_UNUSED_RAW_IDS = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
COCO_STUFF_RAW_IDS = _table(
    (i for i in range(182) if i not in _COCO_UNUSED_RAW_IDS), ignored=_COCO_UNUSED_RAW_IDS | {255}
)

# Cityscapes defines the labelIds 0..33.
CITYSCAPES_RAW_IDS = _table((c["id"] for c in CITYSCAPES_CATEGORIES), ignored=[*range(34), 255])

# The SegNet tutorial's labels: our 11 classes in the same order, then void.
CAMVID_SEGNET_RAW_IDS = _table(range(11), ignored=[11])
