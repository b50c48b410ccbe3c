#!/usr/bin/env python3
"""Write three small made-up datasets as users have them: cracks, cells and roofs.

cracks/  images/*.jpg and masks/*.png in colours, without a split
cells/   train/ and valid/ with *.jpg and COCO polygons in _annotations.coco.json
roofs/   *.jpg with a labelme *.json beside each, without a split
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np

from lrformer.cli import parser, run

HEIGHT, WIDTH = 128, 160
Image = np.ndarray  # H×W×3 uint8, blue first, as OpenCV writes it


def ground(rng: np.random.Generator, color: tuple[int, int, int], spread: float = 12) -> Image:
    """A rough surface of about a colour."""
    coarse = cv2.resize(
        rng.normal(0, spread, (8, 10)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
    )
    rough = coarse[..., None] + rng.normal(0, spread, (HEIGHT, WIDTH, 1)) + rng.normal(color, 8, 3)
    return rough.clip(0, 255).astype(np.uint8)


def place(rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(0, WIDTH)), int(rng.integers(0, HEIGHT))


def write_cracks(folder: Path, count: int, rng: np.random.Generator) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image, mask = ground(rng, (150, 155, 160)), np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for _ in range(rng.integers(1, 4)):
            steps = rng.normal(rng.normal(0, 6, 2), 5, (20, 2)).cumsum(0)
            line, width = (steps + place(rng)).astype(np.int32), int(rng.integers(3, 7))
            cv2.polylines(image, [line], False, (50, 50, 55), width)
            cv2.polylines(mask, [line], False, (0, 0, 255), width)
        cv2.imwrite(str(folder / "images" / f"{number:03d}.jpg"), image)
        cv2.imwrite(str(folder / "masks" / f"{number:03d}.png"), mask)


def write_cells(folder: Path, count: int, rng: np.random.Generator) -> None:
    kinds = {"red cell": ((90, 80, 190), (9, 13)), "white cell": ((190, 120, 150), (14, 20))}
    for split, numbers in (
        ("train", range(count * 4 // 5)),
        ("valid", range(count * 4 // 5, count)),
    ):
        (folder / split).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for number in numbers:
            image, name = ground(rng, (215, 205, 225), 5), f"{number:03d}.jpg"
            for _ in range(rng.integers(5, 10)):
                kind = int(rng.integers(len(kinds)))
                color, sizes = list(kinds.values())[kind]
                axes = rng.integers(*sizes, 2).tolist()
                outline = cv2.ellipse2Poly(place(rng), axes, int(rng.integers(180)), 0, 360, 15)
                cv2.fillPoly(image, [outline], rng.normal(color, 10).clip(0, 255).tolist())
                annotation = {"id": len(annotations), "image_id": number, "category_id": kind}
                annotation["segmentation"] = [outline.ravel().tolist()]
                box, area = cv2.boundingRect(outline), cv2.contourArea(outline)
                annotations.append(annotation | {"bbox": box, "area": area, "iscrowd": 0})
            images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
            cv2.imwrite(str(folder / split / name), cv2.GaussianBlur(image, (3, 3), 0))
        categories = [{"id": i, "name": name} for i, name in enumerate(kinds)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))


def write_roofs(folder: Path, count: int, rng: np.random.Generator) -> None:
    kinds = {"tiles": (70, 80, 170), "metal": (170, 165, 160)}
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image, shapes = ground(rng, (70, 120, 90)), []
        cv2.line(image, place(rng), place(rng), (110, 110, 110), 9)  # a road, which is no roof
        for _ in range(rng.integers(2, 5)):
            kind = list(kinds)[rng.integers(len(kinds))]
            box = (place(rng), rng.integers(22, 50, 2).tolist(), int(rng.integers(90)))
            corners = cv2.boxPoints(box).clip(0, (WIDTH - 1, HEIGHT - 1)).round()
            cv2.fillPoly(image, [corners.astype(np.int32)], kinds[kind])
            ridge = (corners[:2].mean(0), corners[2:].mean(0))
            cv2.line(image, *(x.astype(int).tolist() for x in ridge), (60, 60, 60), 1)
            shape = {"label": kind, "points": corners.tolist(), "shape_type": "polygon"}
            shapes.append(shape | {"group_id": None, "flags": {}})
        name = f"{number:03d}"
        content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{name}.jpg"}
        content |= {"imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}
        (folder / f"{name}.json").write_text(json.dumps(content))
        cv2.imwrite(str(folder / f"{name}.jpg"), image)


WRITERS = {"cracks": write_cracks, "cells": write_cells, "roofs": write_roofs}


def write_all(root: Path, count: int = 100, seed: int = 0) -> None:
    for name, write in WRITERS.items():
        write(root / name, count, np.random.default_rng(seed))
        print(f"{root / name}: {count} images")


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--root", type=Path, default=Path("datasets/examples"), metavar="DIR")
    arguments.add_argument("--count", type=int, default=100, help="images of each (default: 100)")
    args = arguments.parse_args(argv)
    return run(lambda: write_all(args.root, args.count))


if __name__ == "__main__":
    sys.exit(main())
