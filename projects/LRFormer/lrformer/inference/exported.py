"""Models in files that tools/export.py wrote, run by the engine of their format."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor

from ..checkpoint.reading import check_weights_exist
from ..config import load_cfg
from ..data.catalog import metadata_of, things_of
from ..ops.resize import Size
from ..precision import has_bfloat16
from .engines import ENGINES, Session, open_session
from .network import LogitsModel, output_size

# Under which a file carries what is said of it.
INFO_KEY = "lrformer"
SUFFIXES = (*ENGINES.values(), ".pt2")


@dataclass(frozen=True)
class FileInfo:
    """What an exported file says about itself, as one JSON text.

    Attributes:
        version: of this project, that wrote it.
        architecture: "SemanticSegmentor" or "MaskFormer".
        result: "logits", "scores" or "classes", see :class:`~lrformer.export.ExportOptions`.
        stride: of the result in the image.
        image: data type of the images, "uint8" or "float32"; their values are 0 to 255 in both.
        format: order of the images' channels, "RGB" or "BGR".
        mean, std: what the file itself normalises images with, in the order of ``format``.
        divisor: the file itself pads images to multiples of it.
        num_classes: how many classes it predicts.
        classes, colors: their names and RGB colours; empty where the datasets have none.
        things: those of them that are things, as indices.
        min_size, max_size, align: how images are resized first: ``INPUT.MIN_SIZE_TEST``,
            ``MAX_SIZE_TEST`` and ``ALIGN_TEST``.
    """

    version: str
    architecture: str
    result: str
    stride: int
    image: str
    format: str
    mean: list[float]
    std: list[float]
    divisor: int
    num_classes: int
    classes: list[str]
    colors: list[list[int]]
    things: list[int]
    min_size: int
    max_size: int
    align: int

    @classmethod
    def from_cfg(cls, cfg: CfgNode, **file) -> "FileInfo":
        """What a config says; ``file`` are version, result, stride, image and divisor."""
        metadata, count = metadata_of(cfg), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES

        def of_each(what: str) -> list:
            values = (metadata.get(f"{kind}_{what}") for kind in ("stuff", "thing") if metadata)
            return list(next((x for x in values if x and len(x) == count), ()))

        return cls(
            architecture=cfg.MODEL.META_ARCHITECTURE,
            format=cfg.INPUT.FORMAT,
            mean=list(cfg.MODEL.PIXEL_MEAN),
            std=list(cfg.MODEL.PIXEL_STD),
            num_classes=count,
            classes=of_each("classes"),
            colors=[[int(x) for x in color] for color in of_each("colors")],
            things=sorted(things_of(metadata) or ()),
            min_size=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
            align=cfg.INPUT.ALIGN_TEST,
            **file,
        )

    @classmethod
    def read(cls, path: Path, metadata: dict[str, str]) -> "FileInfo":
        """From a session's metadata; ValueError where it is not of this project's files."""
        try:
            values = json.loads(metadata[INFO_KEY])
            return cls(**{field.name: values[field.name] for field in fields(cls)})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} does not say what its classes are and how images are prepared for it; "
                "tools/export.py writes that into its files: export the model again with it"
            ) from error

    def dump(self) -> dict[str, str]:
        """What :meth:`read` reads."""
        return {INFO_KEY: json.dumps(asdict(self))}

    def overrides(self, path: Path) -> list:
        """Keys and values with which a config is about this file."""
        name = f"{path.resolve()} (exported)"
        MetadataCatalog.pop(name, None)
        colors = {"stuff_colors": self.colors} if self.colors else {}
        MetadataCatalog.get(name).set(stuff_classes=self.classes, **colors)
        keys = {
            "DATASETS.TEST": (name,),
            "INPUT.FORMAT": self.format,
            "INPUT.MIN_SIZE_TEST": self.min_size,
            "INPUT.MAX_SIZE_TEST": self.max_size,
            "INPUT.ALIGN_TEST": self.align,
            "MODEL.META_ARCHITECTURE": self.architecture,
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES": self.num_classes,
        }
        return [x for item in keys.items() for x in item]


class ExportedModel(LogitsModel):
    """An exported file with the interface of detectron2's models.

    It takes a list of {"image", "height", "width"} and gives {"sem_seg"} of each; a file of
    classes gives :meth:`class_maps` only. LRFormer+'s scores come from masks at the file's stride.

    Args:
        path: a file of :data:`SUFFIXES`.
        dtype: for OpenVINO to compute in: "float32", "bfloat16" or "auto" (bfloat16 where the CPU
            has it). The others compute as the file says.
        requests: how many threads are to call the model at the same time.
        device: to run on and to give the result on; OpenVINO: "cpu".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another program, its engine is not installed, or not for the dtype or
            the device.
    """

    def __init__(
        self,
        path: str | Path,
        dtype: str = "float32",
        device: torch.device | str = "cpu",
        requests: int = 1,
    ):
        super().__init__()
        path = Path(path)
        check_weights_exist(path)
        if dtype == "auto":
            is_fast = path.suffix == ENGINES["openvino"] and has_bfloat16("cpu")
            dtype = "bfloat16" if is_fast else "float32"
        self.device = torch.device(device)
        if path.suffix == ".pt2":
            self.session: Session = _Program(path, dtype, self.device)
        else:
            self.session = open_session(path, dtype=dtype, requests=requests, device=self.device)
        self.info = FileInfo.read(path, self.session.metadata)
        self.stride = self.info.stride
        self.eval()

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        if self.info.result == "classes":
            raise ValueError(
                "the exported file gives classes, not the scores that sliding windows, test-time "
                "augmentation and 'sem_seg' need; export it with --result logits or scores"
            )
        return super().forward(batched_inputs)

    @torch.no_grad()
    def class_maps(self, batched_inputs: list[dict]) -> list[Tensor]:
        if self.info.result != "classes":
            return super().class_maps(batched_inputs)
        return [_to_size(x, output_size(of)) for x, _, of in self._logits(batched_inputs)]

    def _logits(self, batched_inputs: list[dict]) -> list[tuple[Tensor, Size, dict]]:
        results, dtype = [], getattr(torch, self.info.image)
        for size, group in groupby(batched_inputs, lambda x: tuple(x["image"].shape[-2:])):
            group = list(group)
            images = torch.stack([x["image"].to(self.device, dtype) for x in group])
            (outputs,) = self.session(images)
            results += [(output, size, x) for output, x in zip(outputs, group, strict=True)]
        return results


def _to_size(classes: Tensor, size: Size) -> Tensor:
    """HxW classes to int64 of ``size``, each pixel the nearest one's."""
    x = F.interpolate(classes[None, None].float(), size, mode="nearest-exact")
    return x[0, 0].long()


class _Program(Session):
    """A file of torch.export."""

    outputs = ("result",)

    def __init__(self, path: Path, dtype: str, device: torch.device):
        from torch.export.passes import move_to_device_pass

        if dtype != "float32":
            raise ValueError(f"{path} computes in its own data type, not in {dtype}")
        self.metadata = {INFO_KEY: ""}
        try:
            # Without it PyTorch takes pickles that run code where they are no mere tensors.
            with patch.dict(os.environ, TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"):
                program = torch.export.load(path, extra_files=self.metadata)
        except Exception as error:  # of many kinds: of zip files, pickles, JSON
            text = " ".join(str(error).split())
            raise ValueError(f"{path} is no file of torch.export: {text}") from error
        self._run = move_to_device_pass(program, device).module()

    def __call__(self, images: Tensor) -> list[Tensor]:
        return [self._run(images)]


def load_exported(
    path: str | Path, device: str | None = None, opts: Sequence = ()
) -> tuple[CfgNode, ExportedModel]:
    """An exported file's model, and a config that says what the file says of itself.

    Args:
        path: a file of :data:`SUFFIXES`.
        device: to run on; None: the CPU.
        opts: ``[key, value, key, value, ...]`` that override the config, such as
            ``TEST.RUNTIME.DTYPE`` and the sizes of ``INPUT``.

    Raises:
        FileNotFoundError, ValueError: of :class:`ExportedModel`; ``opts`` cannot be used.
    """
    base = ["MODEL.WEIGHTS", str(path), "MODEL.DEVICE", device or "cpu"]
    model = _open(load_cfg(None, [*base, *opts]))
    cfg = load_cfg(None, [*base, *model.info.overrides(Path(path)), *opts])
    cfg.freeze()
    return cfg, model


def open_exported(cfg: CfgNode) -> ExportedModel:
    """The exported file that is a config's ``MODEL.WEIGHTS``; ValueError if it is another model."""
    model, head = _open(cfg), cfg.MODEL.SEM_SEG_HEAD
    for key, exported, configured in (
        ("INPUT.FORMAT", model.info.format, cfg.INPUT.FORMAT),
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", model.info.num_classes, head.NUM_CLASSES),
    ):
        if exported != configured:
            raise ValueError(
                f"{cfg.MODEL.WEIGHTS} was exported with {key} {exported}, but the config has "
                f"{configured}: take the config that it was exported with"
            )
    return model


def _open(cfg: CfgNode) -> ExportedModel:
    keys = cfg.TEST.RUNTIME
    return ExportedModel(cfg.MODEL.WEIGHTS, keys.DTYPE, cfg.MODEL.DEVICE, keys.REQUESTS)
