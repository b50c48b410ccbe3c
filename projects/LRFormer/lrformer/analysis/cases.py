"""Configs that make the same model, counted once."""

from functools import lru_cache

from detectron2.config import CfgNode, get_cfg

from ..config import add_lrformer_config
from .counting import Counts, build_for_counting, count, count_parameters

# Keys of cfg.MODEL that change neither what a model computes nor its parameters.
_IRRELEVANT = (
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "MODEL.LRFORMER.DROP_PATH_RATE",
    "MODEL.LRFORMER.FREEZE_AT",
    "MODEL.SEM_SEG_HEAD.DROPOUT",
)
_counted: dict[tuple, tuple[int, Counts]] = {}


def counted(cfg: CfgNode, size: tuple[int, int], backbone_only: bool = False) -> tuple[int, Counts]:
    """Parameters and multiply-adds of a config's model (or its encoder), kept for the next time."""
    key = (identity(cfg), tuple(size), backbone_only)
    if key not in _counted:
        model = build_for_counting(cfg)
        part = model.backbone if backbone_only else model
        _counted[key] = count_parameters(part), count(part, *size)
    return _counted[key]


def identity(cfg: CfgNode) -> str:
    """What makes a model what it is, to be compared."""
    cfg = cfg.clone()
    cfg.defrost()
    blank = _defaults()
    for key in _IRRELEVANT:
        *path, name = key.split(".")
        ours, other = cfg, blank
        for part in path:
            ours, other = ours[part], other[part]
        ours[name] = other[name]
    keys = cfg.MODEL
    parts = (keys.META_ARCHITECTURE, keys.BACKBONE.NAME, keys.LRFORMER, keys.SEM_SEG_HEAD)
    return "\n".join(map(str, (*parts, keys.MASK_FORMER)))


@lru_cache(maxsize=1)
def _defaults() -> CfgNode:
    return add_lrformer_config(get_cfg())
