"""A model from a config file and a weights file, ready to use."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model as build_from_cfg
from detectron2.utils import comm
from torch import nn

from lrformer.checkpoint import LRFormerCheckpointer, check_weights_exist
from lrformer.config import load_cfg

logger = logging.getLogger(__name__)


def build_model(
    config_file: str | Path,
    weights: str | Path | None = None,
    device: str | None = None,
    opts: Sequence = (),
) -> nn.Module:
    """Build a config's model and load its weights.

    Args:
        config_file: path of a yaml file, or one below the project's ``configs`` folder
            ("camvid/lrformer_t.yaml").
        weights: checkpoint to load, a path or URL; ``MODEL.WEIGHTS`` where it is None. Without
            either the model keeps its random initialisation, and a warning says so.
        device: "cpu", "cuda", "cuda:1", …; where it is None ``MODEL.DEVICE``, or the CPU if that is
            a GPU and there is none.
        opts: ``[key, value, key, value, ...]`` that override the config.

    Returns:
        A detectron2 model in eval mode: a list of {"image": 3 x H x W, "height", "width"} in, a
        list of {"sem_seg": K x height x width} out. ``TEST.SLIDING_WINDOW`` and ``TEST.AUG`` are
        not applied to it; :class:`lrformer.Predictor` does that.

    Raises:
        FileNotFoundError: there is no such config or weights file.
        ConfigError: the config or ``opts`` cannot be used.
        WeightsError: the weights cannot be used, see :func:`load_model`.
        ValueError: a GPU was asked for by ``device`` and there is none.
    """
    return load_model(inference_cfg(config_file, weights, device, opts))


def inference_cfg(
    config_file: str | Path,
    weights: str | Path | None = None,
    device: str | None = None,
    opts: Sequence = (),
) -> CfgNode:
    """The config with weights and device filled in; see :func:`build_model`."""
    cfg = load_cfg(config_file, opts)
    if weights is not None:
        cfg.MODEL.WEIGHTS = str(weights)
    cfg.MODEL.DEVICE = _resolve_device(cfg.MODEL.DEVICE, device)
    cfg.freeze()
    return cfg


def load_model(cfg: CfgNode) -> nn.Module:
    """The model of a config with ``MODEL.WEIGHTS`` loaded, on ``MODEL.DEVICE``, in eval mode.

    A file of ``tools/export.py`` is the model itself: an
    :class:`~lrformer.inference.exported.ExportedModel`.

    Raises:
        FileNotFoundError: there is no such weights file.
        WeightsError: it is no file of weights, is refused (``MODEL.WEIGHTS_ALLOW_PICKLE``), or
            holds those of another model.
    """
    # Not above: the package of inference imports this module.
    from lrformer.inference.exported import SUFFIXES, open_exported

    if Path(cfg.MODEL.WEIGHTS).suffix in SUFFIXES:
        return open_exported(cfg)
    if cfg.MODEL.WEIGHTS and comm.is_main_process():  # which other processes have it from
        check_weights_exist(cfg.MODEL.WEIGHTS)
    model = build_from_cfg(cfg).eval()
    if cfg.MODEL.WEIGHTS:
        checkpointer = LRFormerCheckpointer(model, allow_pickle=cfg.MODEL.WEIGHTS_ALLOW_PICKLE)
        checkpointer.load(cfg.MODEL.WEIGHTS)
        if untrained := checkpointer.fit.initialised:
            logger.warning(
                f"{len(untrained)} of the model's parameters are randomly initialised, because "
                "MODEL.WEIGHTS has none that fit: its predictions are random"
            )
    else:
        logger.warning("no weights given (MODEL.WEIGHTS): the model is randomly initialised")
    return model


def _resolve_device(configured: str, requested: str | None) -> str:
    device = str(torch.device(requested or configured))
    if not device.startswith("cuda") or torch.cuda.is_available():
        return device
    if requested is not None:
        raise ValueError(f"device {requested!r} was asked for, but PyTorch finds no GPU; use 'cpu'")
    logger.info("no GPU found: the model runs on the CPU")
    return "cpu"
