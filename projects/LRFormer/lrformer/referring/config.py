"""Config keys of LISA."""

from detectron2.config import CfgNode as CN


def add_lisa_config(cfg: CN) -> CN:
    """Add LISA's keys to ``cfg`` (in place) and return it; defaults are the published values."""
    cfg.MODEL.LISA = CN()
    lisa = cfg.MODEL.LISA
    # A model of timm in the place of MODEL.BACKBONE, such as "swin_large_patch4_window12_384".
    lisa.TIMM_BACKBONE = ""
    lisa.FREEZE_BACKBONE = True
    # The backbone's features that the neck makes one map of stride 16 of; []: all.
    lisa.IN_FEATURES = []
    lisa.DIM = 256  # of this map, of the prompt and of the mask decoder
    # SAM in transformers' format whose mask decoder to start from: a name on its hub or a folder,
    # such as "facebook/sam-vit-huge". "": from scratch.
    lisa.SAM = ""
    # LLaVA likewise, such as "llava-hf/llava-1.5-7b-hf". "": from scratch, with the sizes below and
    # a tokenizer that has one token a word: those of VOCABULARY and of the questions and answers.
    lisa.LLAVA = ""
    lisa.VOCABULARY = ""
    lisa.TEXT = CN()
    lisa.TEXT.VOCABULARY_SIZE = 32064
    lisa.TEXT.DIM = 4096
    lisa.TEXT.MLP_DIM = 11008
    lisa.TEXT.DEPTH = 32
    lisa.TEXT.NUM_HEADS = 32
    lisa.VISION = CN()
    lisa.VISION.DIM = 1024
    lisa.VISION.MLP_DIM = 4096
    lisa.VISION.DEPTH = 24
    lisa.VISION.NUM_HEADS = 16
    lisa.VISION.IMAGE_SIZE = 336
    lisa.VISION.PATCH_SIZE = 14
    # Low-rank adapters of the language model's queries and values; all else of LLaVA but its word
    # embeddings and its classifier is frozen. 0: no adapters, nothing is frozen.
    lisa.LORA_RANK = 8
    lisa.LORA_ALPHA = 16
    lisa.LORA_DROPOUT = 0.05
    # Recompute the language model's activations in the backward pass, for less memory.
    lisa.ACTIVATION_CHECKPOINTING = False
    # Weights of the losses: of the answer's text, and of the masks.
    lisa.CE_WEIGHT = 1.0
    lisa.BCE_WEIGHT = 2.0
    lisa.DICE_WEIGHT = 0.5
    # Ask every phrase with the same word: a baseline that sees images only.
    lisa.IGNORE_PHRASE = False
    # How many phrases of an image are drawn at random in training.
    cfg.INPUT.PHRASES_PER_IMAGE = 3
    return cfg
