"""Which values this project's config keys admit; what contradicts another key is refused later."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from detectron2.config import CfgNode


class Rule(NamedTuple):
    """What a key's value may be, in words, and a function that tells."""

    text: str
    admits: Callable[[Any], bool]


def _whole(low: int, high: int) -> Rule:
    text = f"a whole number from {low} to {high}"
    return Rule(text, lambda x: type(x) is int and low <= x <= high)


def _number(low: float, high: float, text: str = "") -> Rule:
    text = text or f"a number from {low:g} to {high:g}"
    return Rule(text, lambda x: type(x) in (int, float) and low <= x <= high)


def _each(rule: Rule, *lengths: int) -> Rule:
    count = " or ".join(map(str, lengths))
    text = f"a list{' of ' * bool(count)}{count}, each {rule.text}"

    def admits(value: Any) -> bool:
        fits = type(value) in (list, tuple) and (not lengths or len(value) in lengths)
        return fits and all(map(rule.admits, value))

    return Rule(text, admits)


def _one_of(*names: str) -> Rule:
    return Rule(f"one of {', '.join(names)}", lambda x: x in names)


def _of_type(kind: type) -> Rule:
    text = {bool: "True or False", str: "a text", int: "a whole number", float: "a number"}
    return Rule(text.get(kind, "a list"), lambda x: type(x) is kind)


_TINY = math.ulp(0.0)
_SIZE = _whole(1, 4096)  # of a side, channels or a number of parts
_SIGNLESS = _number(0, 1e6)
_SHARE = _number(0, 1)
_RATE = _number(0, math.nextafter(1, 0), "a number from 0 to below 1")
_POSITIVE = _number(_TINY, 1e6, "a number above 0, to 1e+06")
_SIDE = _whole(1, 10**5)
_PERIOD = _whole(1, 10**9)
_FEATURES = _each(_one_of("res2", "res3", "res4", "res5"), 1, 2, 3, 4)
_FREEZE = _whole(0, 5)
_BATCH_NORM = _one_of("BN", "SyncBN", "nnSyncBN", "naiveSyncBN", "FrozenBN")

# Others admit what has their default's type. The last are detectron2's.
RULES = {
    "MODEL.LRFORMER.EMBED_DIMS": _each(_SIZE, 4),
    "MODEL.LRFORMER.DEPTHS": _each(_whole(1, 100), 4),
    "MODEL.LRFORMER.NUM_HEADS": _each(_SIZE, 4),
    "MODEL.LRFORMER.MLP_RATIOS": _each(_number(0.1, 100), 4),
    "MODEL.LRFORMER.LAYER_SCALE_INIT": _each(_SIGNLESS, 4),
    "MODEL.LRFORMER.PRE_NORM_BLOCKS": _each(_each(_whole(0, 99)), 4),
    "MODEL.LRFORMER.POOLED_SIZE": _SIZE,
    "MODEL.LRFORMER.PYRAMID_SIZES": _each(_SIZE, *range(1, 9)),
    "MODEL.LRFORMER.DROP_PATH_RATE": _RATE,
    "MODEL.LRFORMER.OUT_FEATURES": _FEATURES,
    "MODEL.LRFORMER.FREEZE_AT": _FREEZE,
    "MODEL.LRFORMER.NORM": _BATCH_NORM,
    "MODEL.MIT.EMBED_DIMS": _each(_SIZE, 4),
    "MODEL.MIT.DEPTHS": _each(_whole(1, 100), 4),
    "MODEL.MIT.NUM_HEADS": _each(_SIZE, 4),
    "MODEL.MIT.MLP_RATIOS": _each(_number(0.1, 100), 4),
    "MODEL.MIT.SR_RATIOS": _each(_whole(1, 64), 4),
    "MODEL.MIT.DROP_PATH_RATE": _RATE,
    "MODEL.MIT.OUT_FEATURES": _FEATURES,
    "MODEL.MIT.FREEZE_AT": _FREEZE,
    "MODEL.RTFORMER.WIDTH": _whole(8, 1024),
    "MODEL.RTFORMER.POOLED_SIZE": _whole(1, 256),
    "MODEL.RTFORMER.INJECTION": _each(_of_type(bool), 2),
    "MODEL.RTFORMER.DROP_PATH_RATE": _RATE,
    "MODEL.RTFORMER.NORM": _BATCH_NORM,
    "MODEL.RTFORMER.NORM_MOMENTUM": _SHARE,
    "MODEL.SEM_SEG_HEAD.POOLED_SIZE": _SIZE,
    "MODEL.SEM_SEG_HEAD.NUM_HEADS": _SIZE,
    "MODEL.SEM_SEG_HEAD.MLP_RATIO": _whole(1, 100),
    "MODEL.SEM_SEG_HEAD.LAYER_SCALE_INIT": _SIGNLESS,
    "MODEL.SEM_SEG_HEAD.DROPOUT": _RATE,
    "MODEL.SEM_SEG_HEAD.AUX_LOSS_WEIGHT": _SIGNLESS,
    "MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS": _each(_SIGNLESS),
    "MODEL.SEM_SEG_HEAD.MASK_DIM": _SIZE,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": _whole(0, 100),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": _each(
        _of_type(str), 1, 2, 3, 4
    ),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": _whole(1, 64),
    "MODEL.SEM_SEG_HEAD.MS_DEFORM_ATTN_BACKEND": _one_of("auto", "pytorch", "deformops"),
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": _SIGNLESS,
    "MODEL.MASK_FORMER.CLASS_WEIGHT": _SIGNLESS,
    "MODEL.MASK_FORMER.DICE_WEIGHT": _SIGNLESS,
    "MODEL.MASK_FORMER.MASK_WEIGHT": _SIGNLESS,
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": _whole(1, 10**6),
    "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": _number(1, 100),
    "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": _SHARE,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": _whole(1, 10**4),
    "MODEL.MASK_FORMER.HIDDEN_DIM": _SIZE,
    "MODEL.MASK_FORMER.NHEADS": _SIZE,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": _whole(1, 10**5),
    "MODEL.MASK_FORMER.DEC_LAYERS": _whole(1, 100),
    "MODEL.MASK_FORMER.DROPOUT": _RATE,
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": _whole(-1, 4096),
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": _SHARE,
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": _SHARE,
    "MODEL.LISA.IN_FEATURES": _each(_of_type(str)),
    "MODEL.LISA.DIM": _whole(8, 4096),
    **{
        f"MODEL.LISA.{part}.{size}": _whole(1, 10**5)
        for part in ("TEXT", "VISION")
        for size in ("DIM", "MLP_DIM", "DEPTH", "NUM_HEADS")
    },
    "MODEL.LISA.TEXT.VOCABULARY_SIZE": _whole(1, 10**7),
    "MODEL.LISA.VISION.IMAGE_SIZE": _SIDE,
    "MODEL.LISA.VISION.PATCH_SIZE": _SIDE,
    "MODEL.LISA.LORA_RANK": _whole(0, 4096),
    "MODEL.LISA.LORA_ALPHA": _whole(1, 10**5),
    "MODEL.LISA.LORA_DROPOUT": _RATE,
    "MODEL.LISA.CE_WEIGHT": _SIGNLESS,
    "MODEL.LISA.BCE_WEIGHT": _SIGNLESS,
    "MODEL.LISA.DICE_WEIGHT": _SIGNLESS,
    "INPUT.PHRASES_PER_IMAGE": _whole(1, 10**4),
    "DATASETS.TRAIN_WEIGHTS": _each(_POSITIVE),
    "INPUT.RESIZE_RATIO_RANGE": _each(_number(0.001, 1000), 0, 2),
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": _SHARE,
    "INPUT.SIZE_DIVISIBILITY": _whole(-1, 10**5),
    "INPUT.ALIGN_TEST": _whole(0, 4096),
    "INPUT.IMAGE_SIZE": _SIDE,
    "INPUT.MIN_SCALE": _POSITIVE,
    "INPUT.MAX_SCALE": _POSITIVE,
    "SOLVER.BACKBONE_MULTIPLIER": _SIGNLESS,
    "SOLVER.HEAD_MULTIPLIER": _SIGNLESS,
    "SOLVER.WEIGHT_DECAY_NORM": _SIGNLESS,
    "SOLVER.WEIGHT_DECAY_EMBED": _SIGNLESS,
    "SOLVER.POLY_LR_POWER": _SIGNLESS,
    "SOLVER.POLY_LR_END": _SHARE,
    "SOLVER.EMA_DECAY": _RATE,
    "SOLVER.EARLY_STOPPING": _whole(0, 10**6),
    "SOLVER.AMP.DTYPE": _one_of("auto", "bfloat16", "float16"),
    "SOLVER.CHECKPOINT_MAX_TO_KEEP": _whole(0, 10**6),
    "TEST.SLIDING_WINDOW.CROP_SIZE": _each(_SIDE, 2),
    "TEST.SLIDING_WINDOW.STRIDE": _each(_SIDE, 2),
    "TEST.SLIDING_WINDOW.BATCH_SIZE": _whole(1, 10**4),
    "TEST.RUNTIME.ENGINE": _one_of("torch", "openvino", "onnxruntime"),
    "TEST.RUNTIME.REQUESTS": _whole(1, 1000),
    "TEST.RUNTIME.DTYPE": _one_of("auto", "float32", "bfloat16", "float16"),
    "TEST.RUNTIME.COMPILE_MODE": _one_of("default", "reduce-overhead", "max-autotune"),
    "TEST.BOUNDARY_IOU.DILATION_RATIO": _number(1e-6, 0.999),
    "DATALOADER.NUM_WORKERS": _whole(0, 1024),
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": _whole(1, 10**5),
    "SOLVER.CHECKPOINT_PERIOD": _PERIOD,
    "SOLVER.IMS_PER_BATCH": _PERIOD,
    "SOLVER.MAX_ITER": _PERIOD,
}


def items(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key, such as "SOLVER.MAX_ITER", and its value."""
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from items(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def rule_of(key: str, default: Any) -> Rule:
    """That of :data:`RULES`, or else that of the default's type."""
    return RULES.get(key) or _of_type(type(default))


def check_values(cfg: CfgNode, defaults: CfgNode) -> None:
    """Raise ValueError of the first key with a value that it does not admit."""
    values = dict(items(cfg))
    for key, default in items(defaults):
        rule = rule_of(key, default)
        if default is not None and not rule.admits(values[key]):
            raise ValueError(f"{key} is {values[key]!r}; expected {rule.text}")
