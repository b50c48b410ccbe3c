"""Config keys of Mask2Former."""

from detectron2.config import CfgNode as CN


def add_mask_former_config(cfg: CN) -> CN:
    """Add the published Mask2Former's keys to ``cfg`` (in place) and return it.

    Names and defaults are the published ones, so that its yaml files mean the same here;
    configs/models/Base-LRFormer-Plus.yaml has the values that models use.
    """
    _add_model(cfg)
    _add_test(cfg)
    _add_decoders(cfg)
    # Large-scale jittering: images are scaled by a factor from this range, then cropped or padded
    # to IMAGE_SIZE.
    cfg.INPUT.IMAGE_SIZE = 1024
    cfg.INPUT.MIN_SCALE = 0.1
    cfg.INPUT.MAX_SCALE = 2.0
    return cfg


def _add_model(cfg: CN) -> None:
    # Of DeepLab's ResNet; the published files set them, without effect, for detectron2's.
    cfg.MODEL.RESNETS.STEM_TYPE = "deeplab"
    cfg.MODEL.RESNETS.RES4_DILATION = 1
    cfg.MODEL.RESNETS.RES5_MULTI_GRID = [1, 2, 4]
    cfg.MODEL.MASK_FORMER = CN()
    # Losses: whether every decoder layer has them, weights (also in the matching cost), and the
    # weight of "no object" in the classification loss.
    cfg.MODEL.MASK_FORMER.DEEP_SUPERVISION = True
    cfg.MODEL.MASK_FORMER.NO_OBJECT_WEIGHT = 0.1
    cfg.MODEL.MASK_FORMER.CLASS_WEIGHT = 1.0
    cfg.MODEL.MASK_FORMER.DICE_WEIGHT = 1.0
    cfg.MODEL.MASK_FORMER.MASK_WEIGHT = 20.0
    # Mask losses are computed at this many points, chosen as in PointRend: OVERSAMPLE_RATIO times
    # as many are drawn, and this share of the wanted ones are the most uncertain of them.
    cfg.MODEL.MASK_FORMER.TRAIN_NUM_POINTS = 112 * 112
    cfg.MODEL.MASK_FORMER.OVERSAMPLE_RATIO = 3.0
    cfg.MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO = 0.75
    # The transformer decoder.
    cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = "MultiScaleMaskedTransformerDecoder"
    cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE = "multi_scale_pixel_decoder"
    cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES = 100
    cfg.MODEL.MASK_FORMER.HIDDEN_DIM = 256
    cfg.MODEL.MASK_FORMER.NHEADS = 8  # of the pixel decoder too
    cfg.MODEL.MASK_FORMER.DIM_FEEDFORWARD = 2048
    # Predictions, of which the first is made before any layer: 10 means 9 layers.
    cfg.MODEL.MASK_FORMER.DEC_LAYERS = 6
    cfg.MODEL.MASK_FORMER.PRE_NORM = False
    cfg.MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ = False
    cfg.MODEL.MASK_FORMER.DROPOUT = 0.1  # of the pixel decoder
    cfg.MODEL.MASK_FORMER.ENC_LAYERS = 0  # MaskFormer's; not used
    # Batches are padded to a multiple of this; below 0: the backbone's.
    cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY = 32


def _add_test(cfg: CN) -> None:
    cfg.MODEL.MASK_FORMER.TEST = CN()
    # What to predict; TEST.DETECTIONS_PER_IMAGE limits the instances.
    cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON = True
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = False
    cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = False
    # Panoptic: least class probability of a segment, and least share of its mask that must be left
    # once segments that are more probable have taken their pixels.
    cfg.MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD = 0.0
    cfg.MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD = 0.0
    # Semantic: resize masks, rather than class scores, to the image's own size. Instance and
    # panoptic predictions always do.
    cfg.MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = False


def _add_decoders(cfg: CN) -> None:
    # MODEL.SEM_SEG_HEAD.CONVS_DIM and COMMON_STRIDE are detectron2's keys.
    head = cfg.MODEL.SEM_SEG_HEAD
    head.MASK_DIM = 256
    head.PIXEL_DECODER_NAME = "MSDeformAttnPixelDecoder"
    head.TRANSFORMER_ENC_LAYERS = 0
    head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES = ["res3", "res4", "res5"]
    head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS = 4
    head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS = 8  # not used; MASK_FORMER.NHEADS is
    # Which implementation of deformable attention: "pytorch" (everywhere), "deformops" (a package
    # for GPUs), or "auto": deformops on a GPU where it is installed, else pytorch.
    head.MS_DEFORM_ATTN_BACKEND = "auto"
