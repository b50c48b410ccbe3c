"""The classes of the procedural street scenes."""

# Position is the label; 255 is never used, every pixel has a class.
CLASSES = ("sky", "building", "tree", "road", "pavement", "car", "person", "pole")

# RGB, as Cityscapes draws these classes.
COLORS = (
    (70, 130, 180),
    (70, 70, 70),
    (107, 142, 35),
    (128, 64, 128),
    (244, 35, 232),
    (0, 0, 142),
    (220, 20, 60),
    (153, 153, 153),
)

# Classes whose objects are told apart in the instance map.
THINGS = ("car", "person")

SKY, BUILDING, TREE, ROAD, PAVEMENT, CAR, PERSON, POLE = range(len(CLASSES))
