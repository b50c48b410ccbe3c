"""Config keys that LRFormer adds to detectron2's.

detectron2's own keys keep their meaning. Where DeepLab or the published Mask2Former project already
has a name for something, that name is used here, so that their yaml files are understood.
"""

import io
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from .config_values import check_values

# Inside an installed package; in a source tree, which an editable installation runs from, on top.
_PACKAGE = Path(__file__).resolve().parent
_CONFIGS = _PACKAGE / "configs"
if not _CONFIGS.is_dir():
    _CONFIGS = _PACKAGE.parents[2] / "configs"

# Keys of earlier versions, in configs that a training saved: ignored, with a warning.
_REMOVED_KEYS = (
    "SOLVER.BETAS",
    "SOLVER.POLY_LR_CONSTANT_ENDING",
    "TEST.RUNTIME.CHANNELS_LAST",
    "TEST.RUNTIME.CUDA_GRAPHS",
    "TEST.RUNTIME.FUSE",
    "TEST.RUNTIME.KEEP_MEMORY",
)

# Names of models that are not trained by Base-Recipe.yaml alone, and what comes after it.
_RECIPES = {
    "lrformer_plus_t": "Base-Recipe-Plus-T",
    "lrformer_plus_*": "Base-Recipe-Plus",
    "segformer_b?": "Base-Recipe-SegFormer",
    "rtformer_*": "Base-Recipe-RTFormer",
}


_MOST_ENTRIES = 10**6  # that a yaml file's aliases may repeat


class PlainLoader(yaml.SafeLoader):
    """Reads tuples, which published configs have, and refuses tags of other objects.

    So are aliases that repeat so much that a short file would fill the memory.
    """

    def __init__(self, stream):
        super().__init__(stream)
        self._sizes = {}

    def compose_node(self, parent, index):
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.CollectionNode) and not is_alias:
            pairs = isinstance(node, yaml.MappingNode)
            entries = [y for x in node.value for y in x] if pairs else node.value
            # An entry of unknown size is an alias of what it is within.
            size = sum(
                self._sizes.get(x, _MOST_ENTRIES) if isinstance(x, yaml.CollectionNode) else 1
                for x in entries
            )
            if size >= _MOST_ENTRIES:
                text = f"aliases repeat it to {_MOST_ENTRIES} entries or more"
                raise yaml.composer.ComposerError(None, None, text, node.start_mark)
            self._sizes[node] = size + 1
        return node


PlainLoader.add_constructor(
    "tag:yaml.org,2002:python/tuple",
    lambda loader, node: loader.construct_sequence(node, deep=True),
)


class _Config(CN):
    """Reads files, those in ``_BASE_`` too, by :class:`PlainLoader`."""

    @classmethod
    def _open_cfg(cls, filename: str) -> io.StringIO:
        with super()._open_cfg(filename) as file:
            return io.StringIO(yaml.safe_dump(yaml.load(file, PlainLoader)))


class ConfigError(ValueError):
    """A config file or an override that cannot be used; the message is one line."""


def load_cfg(config_file: str | Path | None, opts: Sequence = ()) -> CN:
    """detectron2's defaults, this project's keys, then ``config_file``, then ``opts``; not frozen.

    Args:
        config_file: a yaml file, see :func:`find_config`; its ``_BASE_`` files are read first.
            After a model's name alone, such as "lrformer_s", comes the recipe for own data. None:
            the defaults and ``opts`` alone.
        opts: ``[key, value, key, value, ...]`` as on the command line.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it is no plain yaml, or it or ``opts`` has an unknown key or a value that the
            key does not admit.
    """
    path = None if config_file is None else find_config(config_file)
    opts = [str(opt) if isinstance(opt, Path) else opt for opt in opts]
    if len(opts) % 2:
        raise ConfigError(
            f"overrides come in pairs, KEY VALUE KEY VALUE …; found {len(opts)}: "
            f"{' '.join(map(str, opts))}"
        )
    defaults = add_lrformer_config(get_cfg())
    cfg = _Config(defaults.clone())
    for key in _REMOVED_KEYS:
        cfg.register_deprecated_key(key)
    try:
        for file in [] if path is None else [path, *_recipe(path, Path(config_file))]:
            # detectron2's default runs code that a file's tags ask for.
            cfg.merge_from_file(str(file), allow_unsafe=False)
        cfg.merge_from_list(opts)
        check_values(cfg, defaults)
    except yaml.constructor.ConstructorError as error:
        raise ConfigError(
            f"{path} is refused, plain yaml is expected (objects of Python could run code): "
            f"{_one_line(error)}"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no valid yaml: {_one_line(error)}") from error
    except (TypeError, AttributeError) as error:  # what fvcore raises where it expects a mapping
        raise ConfigError(
            f"{path}, or a file that it is based on, is not a mapping of keys to values"
        ) from error
    # What yacs raises for an unknown key and for a value of another type.
    except (KeyError, ValueError, AssertionError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        where = "in the overrides" if path is None else f"in {path} or the overrides"
        raise ConfigError(f"{where}: {_one_line(text)}") from error
    return cfg


def find_config(config_file: str | Path) -> Path:
    """The file that a config's path means: itself, or else the one below the project's configs.

    A model's name alone, such as "lrformer_s", means its file in ``configs/models``.

    Raises:
        FileNotFoundError: none exists.
    """
    path = Path(config_file)
    if path.is_file():
        return path
    # An absolute path stays itself when joined.
    below = _CONFIGS / path
    if below.is_file():
        return below
    model = _CONFIGS / "models" / f"{path}.yaml"
    if len(path.parts) == 1 and model.is_file():
        return model
    also = f", nor {below}" if below != path else ""
    raise FileNotFoundError(f"there is no config file {path} (looked from {Path.cwd()}){also}")


def _recipe(path: Path, config_file: Path) -> list[Path]:
    """What a model is trained by on own data, where ``config_file`` is its name alone."""
    if path.stem != str(config_file):
        return []
    more = next((recipe for x, recipe in _RECIPES.items() if fnmatch(path.stem, x)), None)
    return [_CONFIGS / f"{name}.yaml" for name in ("Base-Own", more) if name]


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def add_lrformer_config(cfg: CN) -> CN:
    """Add every key of this project, with its default, to ``cfg`` (in place) and return it."""
    # Not above: what is imported here needs load_cfg.
    from .modeling.mask2former.config import add_mask_former_config
    from .referring.config import add_lisa_config

    # Where metrics go beside metrics.json and TensorBoard: "wandb" or "mlflow", installed.
    cfg.TRACKER = ""
    _add_weights(cfg)
    _add_lrformer(cfg)
    _add_mit(cfg)
    _add_rtformer(cfg)
    _add_head(cfg)
    _add_input(cfg)
    _add_solver(cfg)
    _add_test(cfg)
    add_mask_former_config(cfg)
    add_lisa_config(cfg)
    for key in _REMOVED_KEYS:
        cfg.register_deprecated_key(key)
    return cfg


def _add_weights(cfg: CN) -> None:
    # Also load a MODEL.WEIGHTS that is a pickle of more than tensors, which may run any code.
    cfg.MODEL.WEIGHTS_ALLOW_PICKLE = False


def _add_lrformer(cfg: CN) -> None:
    cfg.MODEL.LRFORMER = CN()
    # One entry a stage, stride 4 to 32. The defaults are LRFormer-T.
    cfg.MODEL.LRFORMER.EMBED_DIMS = [48, 96, 240, 384]
    cfg.MODEL.LRFORMER.DEPTHS = [2, 2, 6, 3]
    cfg.MODEL.LRFORMER.NUM_HEADS = [2, 4, 10, 16]
    cfg.MODEL.LRFORMER.MLP_RATIOS = [8, 8, 4, 4]
    # Initial layer scale of a stage's blocks; 0 builds the stage without layer scale.
    cfg.MODEL.LRFORMER.LAYER_SCALE_INIT = [0.0, 0.0, 1e-6, 1e-6]
    # Indices of the blocks that start with a BatchNorm, a list a stage (LRFormer-XL: [7, 15] in the
    # third, which keeps float16 from overflowing).
    cfg.MODEL.LRFORMER.PRE_NORM_BLOCKS = [[], [], [], []]
    # Short side m of the map in which attention is computed (paper, Tab. 7): 16 for segmentation,
    # 7 for classification at 224.
    cfg.MODEL.LRFORMER.POOLED_SIZE = 16
    # Short sides of the key/value pyramid for m = 16; they scale with m.
    cfg.MODEL.LRFORMER.PYRAMID_SIZES = [11, 8, 6, 4]
    # Stochastic depth of the last block; it grows linearly from 0 at the first.
    cfg.MODEL.LRFORMER.DROP_PATH_RATE = 0.1
    # The two 3x3 depth-wise convolutions of a block (paper, Tab. 9): before attention, in the FFN.
    cfg.MODEL.LRFORMER.POSITIONAL_CONV = True
    cfg.MODEL.LRFORMER.FFN_CONV = True
    # Features to return, of res2 (stride 4), res3, res4, res5 (stride 32).
    cfg.MODEL.LRFORMER.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # 0: train everything; 1: freeze the stem; n: freeze the stem and the stages up to res{n}.
    cfg.MODEL.LRFORMER.FREEZE_AT = 0
    # Norm of the stem and of PRE_NORM_BLOCKS: BN, SyncBN, FrozenBN.
    cfg.MODEL.LRFORMER.NORM = "BN"
    # Recompute each block's activations in the backward pass: less memory, about a third more time.
    cfg.MODEL.LRFORMER.ACTIVATION_CHECKPOINTING = False


def _add_mit(cfg: CN) -> None:
    cfg.MODEL.MIT = CN()
    # SegFormer's encoder; one entry a stage, stride 4 to 32. The defaults are MiT-B0.
    cfg.MODEL.MIT.EMBED_DIMS = [32, 64, 160, 256]
    cfg.MODEL.MIT.DEPTHS = [2, 2, 2, 2]
    cfg.MODEL.MIT.NUM_HEADS = [1, 2, 5, 8]
    cfg.MODEL.MIT.MLP_RATIOS = [4, 4, 4, 4]
    # Side of the windows that attention reduces to one key and one value each.
    cfg.MODEL.MIT.SR_RATIOS = [8, 4, 2, 1]
    # These four as in MODEL.LRFORMER.
    cfg.MODEL.MIT.DROP_PATH_RATE = 0.1
    cfg.MODEL.MIT.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.MIT.FREEZE_AT = 0
    cfg.MODEL.MIT.ACTIVATION_CHECKPOINTING = False


def _add_rtformer(cfg: CN) -> None:
    cfg.MODEL.RTFORMER = CN()
    # The defaults are RTFormer-Slim; where paper and released models differ, they are the latter's.
    cfg.MODEL.RTFORMER.WIDTH = 32  # channels of the first layers; others have 2, 4, 8 times as many
    cfg.MODEL.RTFORMER.POOLED_SIZE = 8  # side of the keys and values of the high branch
    # Scale of the high branch's attention: its width's (paper) or POOLED_SIZE's (released).
    cfg.MODEL.RTFORMER.SCALE_BY_WIDTH = False
    # Which of the two blocks add the high branch to the low one at their end (paper: neither).
    cfg.MODEL.RTFORMER.INJECTION = [True, False]
    cfg.MODEL.RTFORMER.DROP_PATH_RATE = 0.1  # stochastic depth of both blocks
    cfg.MODEL.RTFORMER.NORM = "BN"  # or SyncBN
    # PyTorch's momentum of all BatchNorms, the head's too: the weight of the newest statistics.
    cfg.MODEL.RTFORMER.NORM_MOMENTUM = 0.9


def _add_head(cfg: CN) -> None:
    head = cfg.MODEL.SEM_SEG_HEAD
    # MODEL.SEM_SEG_HEAD.CONVS_DIM (detectron2's key) is the head's width (paper, Tab. 11).
    head.POOLED_SIZE = 32  # as POOLED_SIZE above, for the head's two blocks
    head.NUM_HEADS = 8
    head.MLP_RATIO = 4
    head.LAYER_SCALE_INIT = 1e-6
    head.DROPOUT = 0.1  # of whole channels, before the classifier
    # Loss of the auxiliary classifier (of the coarsest feature but one; for training only) relative
    # to the head's own; 0 leaves the classifier out.
    head.AUX_LOSS_WEIGHT = 0.0
    # How much a pixel of each class counts in the loss; []: all the same. Per-pixel heads only.
    head.CLASS_WEIGHTS = []


def _add_input(cfg: CN) -> None:
    # How often images of each of DATASETS.TRAIN are drawn, relative to the others'. (): as many as
    # there are of each.
    cfg.DATASETS.TRAIN_WEIGHTS = ()
    # Training: with a range, images are resized to (MIN_SIZE_TRAIN, MAX_SIZE_TRAIN) times a ratio
    # drawn from it, aspect kept, so that both bounds hold. Empty: detectron2's ResizeShortestEdge.
    cfg.INPUT.RESIZE_RATIO_RANGE = []
    # A crop is drawn again (up to 10 times) while one class covers more than this share of its
    # labelled pixels. 1.0: never.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # Photometric distortion of SSD (brightness, contrast, saturation, hue).
    cfg.INPUT.COLOR_AUG_SSD = False
    # Training images are padded (labels with the ignore value) to at least this side; -1: not.
    cfg.INPUT.SIZE_DIVISIBILITY = -1
    # Test images are stretched to the next multiple of this on each side (aligned resize); 0: not.
    cfg.INPUT.ALIGN_TEST = 0
    # Which mapper reads the training data. Of the published Mask2Former's, for LRFormer+:
    # "mask_former_semantic" (label maps), "mask_former_instance" and "coco_instance_lsj" (COCO's
    # objects), "mask_former_panoptic" and "coco_panoptic_lsj" (COCO's panoptic maps); "sem_seg"
    # (label maps) for the plain model. Those called lsj scale and crop by IMAGE_SIZE, MIN_SCALE and
    # MAX_SCALE. "referring" (phrases) for LISA.
    cfg.INPUT.DATASET_MAPPER_NAME = "sem_seg"


def _add_solver(cfg: CN) -> None:
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0  # learning rate of the backbone, relative to BASE_LR
    cfg.SOLVER.HEAD_MULTIPLIER = 1.0  # learning rate of everything else, relative to BASE_LR
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    cfg.SOLVER.POLY_LR_POWER = 0.9  # for LR_SCHEDULER_NAME "WarmupPolyLR"
    cfg.SOLVER.POLY_LR_END = 0.0  # share of BASE_LR that it decays to
    # Of an exponential moving average of the weights, which is then what is evaluated and kept at
    # the end; 0: none.
    cfg.SOLVER.EMA_DECAY = 0.0
    # End the training after so many evaluations in a row without a better score; 0: never.
    cfg.SOLVER.EARLY_STOPPING = 0
    # In a job of SLURM, SIGUSR1 (sbatch --signal=USR1@300) saves a checkpoint and puts the job back
    # into the queue. A job that SLURM restarts resumes, whatever this is.
    cfg.SOLVER.SLURM_REQUEUE = False
    # Data type of SOLVER.AMP.ENABLED: "bfloat16", "float16", or "auto": bfloat16 where the device
    # computes in it, else float16 on a GPU and float32 on a CPU.
    cfg.SOLVER.AMP.DTYPE = "auto"
    # How many of the periodic checkpoints to keep, the newest; 0 keeps all.
    cfg.SOLVER.CHECKPOINT_MAX_TO_KEEP = 3


def _add_test(cfg: CN) -> None:
    # Sliding-window inference: overlapping windows whose logits are averaged.
    cfg.TEST.SLIDING_WINDOW = CN()
    cfg.TEST.SLIDING_WINDOW.ENABLED = False
    cfg.TEST.SLIDING_WINDOW.CROP_SIZE = [1024, 1024]  # height, width
    cfg.TEST.SLIDING_WINDOW.STRIDE = [768, 768]
    cfg.TEST.SLIDING_WINDOW.BATCH_SIZE = 1  # windows of an image in one forward pass
    # How the model runs when it is evaluated and when it predicts.
    cfg.TEST.RUNTIME = CN()
    # What runs backbone and head: "torch"; "openvino" (on CPUs) or "onnxruntime", which have to be
    # installed (pip install 'lrformer[openvino]'). The first time a model is exported for them,
    # which takes a minute or more and is kept in the folder CACHE; "": in the user's cache folder.
    cfg.TEST.RUNTIME.ENGINE = "torch"
    cfg.TEST.RUNTIME.CACHE = ""
    # Batches that an engine runs at the same time, where many images are predicted or drawn.
    cfg.TEST.RUNTIME.REQUESTS = 1
    # "float32"; "bfloat16", "float16" (GPUs only): mixed precision, as SOLVER.AMP.DTYPE; "auto":
    # bfloat16 where the device computes in it, else float16 on a GPU and float32 on a CPU.
    cfg.TEST.RUNTIME.DTYPE = "float32"
    # torch.compile, for images of a few sizes (or windows): the first image of each size takes a
    # minute or more, in a training that of every evaluation.
    cfg.TEST.RUNTIME.COMPILE = False
    # Its mode: "default"; "reduce-overhead" (CUDA graphs too); "max-autotune" (tries out kernels,
    # which takes longer still).
    cfg.TEST.RUNTIME.COMPILE_MODE = "default"
    # TEST.AUG (detectron2's keys) is multi-scale and flip test-time augmentation.
    # Also write every predicted segment as COCO run-length encoding: slow and large.
    cfg.TEST.SAVE_PREDICTIONS = False
    # Boundary IoU (Cheng et al., CVPR 2021) beside IoU: of what lies within a share of the image's
    # diagonal of a boundary. As published 0.02, for Cityscapes 0.005.
    cfg.TEST.BOUNDARY_IOU = CN()
    cfg.TEST.BOUNDARY_IOU.ENABLED = False
    cfg.TEST.BOUNDARY_IOU.DILATION_RATIO = 0.02
