"""A checkpoint as a folder of transformers: configuration, weights, preparation, model card."""

from pathlib import Path

from detectron2.config import CfgNode
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import HTTPError

from .. import __version__
from ..checkpoint import LRFormerCheckpointer, WeightsError
from ..checkpoint.report import summary
from ..config import ConfigError
from ..inference.exported import FileInfo
from .configuration import ENCODER, LRFormerConfig
from .image_processing import LRFormerImageProcessor
from .modeling import LRFormerForSemanticSegmentation

_CARD = Path(__file__).with_name("model_card.md")


def save_pretrained(
    cfg: CfgNode,
    weights: str | Path,
    folder: str | Path,
    overwrite: bool = False,
    allow_pickle: bool = False,
    push_to_hub: str | None = None,
) -> list[str]:
    """Write a plain model as transformers' ``save_pretrained`` does, with a model card.

    Args:
        cfg: the model's config; names of classes and how images are resized are taken from it.
        weights: of any kind that ``MODEL.WEIGHTS`` takes.
        folder: where to write; made where it is missing.
        overwrite: whether there may be files in it.
        allow_pickle: as :func:`lrformer.checkpoint.reading.read_file`.
        push_to_hub: also upload to this ``owner/repository``.

    Returns:
        What was done, in lines for people.

    Raises:
        ConfigError: it is no model that transformers has here.
        WeightsError: the folder or the weights cannot be used, or the weights are not complete.
        OSError: it could not be written, or not be uploaded.
    """
    folder = Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not overwrite):
        raise WeightsError(f"{folder} exists; give another name, or --overwrite for a folder")
    info = FileInfo.from_cfg(
        cfg, version=__version__, result="logits", stride=8, image="float32", divisor=32
    )
    model = LRFormerForSemanticSegmentation(_configuration(cfg, info.classes)).eval()
    checkpointer = LRFormerCheckpointer(model, allow_pickle=allow_pickle)
    best = checkpointer.load(str(weights)).get("best")
    if missing := checkpointer.fit.initialised:
        raise WeightsError(f"{weights} lacks {len(missing)} parameters: {summary(missing)}")
    processor = LRFormerImageProcessor(
        size={"shortest_edge": info.min_size, "longest_edge": info.max_size},
        do_resize=info.min_size > 0,
        image_mean=[value / 255 for value in info.mean],
        image_std=[value / 255 for value in info.std],
    )
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=["lrformer", "vision"],
    )
    figures = {"millions": model.num_parameters() / 1e6, "classes": info.num_classes, "best": best}
    dataset, repository = ", ".join(cfg.DATASETS.TRAIN), push_to_hub or folder.name
    card = ModelCard.from_template(
        data, str(_CARD), dataset=dataset, repository=repository, version=__version__, **figures
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    card.save(folder / "README.md")
    done = [f"wrote {folder}: {type(model).__name__}, {figures['millions']:.2f} M parameters"]
    if push_to_hub:
        try:
            for part in (model, processor, card):
                part.push_to_hub(push_to_hub)
        except (HTTPError, OSError) as error:
            raise OSError(
                f"wrote {folder}, but could not upload to {push_to_hub}: {error}"
            ) from error
        done.append(f"uploaded to {push_to_hub}")
    return done


def _configuration(cfg: CfgNode, classes: list[str]) -> LRFormerConfig:
    keys, head = cfg.MODEL.LRFORMER, cfg.MODEL.SEM_SEG_HEAD
    norms = ("BN", "SyncBN", "FrozenBN")  # the same in a model that predicts
    for key, value, known in (
        ("INPUT.FORMAT", cfg.INPUT.FORMAT, ("RGB",)),
        ("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, ("SemanticSegmentor",)),
        ("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, ("LRFormer",)),
        ("MODEL.LRFORMER.NORM", keys.NORM, norms),
        ("MODEL.SEM_SEG_HEAD.NAME", head.NAME, ("LRHead",)),
        ("MODEL.SEM_SEG_HEAD.NORM", head.NORM, norms),
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", list(head.IN_FEATURES), (["res3", "res4", "res5"],)),
    ):
        if value not in known:
            names = " or ".join(map(str, known))
            raise ConfigError(f"{key} is {value}; only {names} can be written for transformers")
    labels = {"num_labels": head.NUM_CLASSES}
    if classes:
        labels = {"id2label": dict(enumerate(classes))}
        labels["label2id"] = {name: i for i, name in labels["id2label"].items()}
    return LRFormerConfig(
        **{name: keys[name.upper()] for name in ENCODER},
        **labels,
        decoder_hidden_size=head.CONVS_DIM,
        decoder_num_heads=head.NUM_HEADS,
        decoder_mlp_ratio=head.MLP_RATIO,
        decoder_pooled_size=head.POOLED_SIZE,
        decoder_layer_scale_init=head.LAYER_SCALE_INIT,
        classifier_dropout=head.DROPOUT,
        semantic_loss_ignore_index=head.IGNORE_VALUE,
    )
