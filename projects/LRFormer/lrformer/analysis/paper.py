"""What the paper's tables say of LRFormer's size and cost, and which of our configs each row is.

Source: "Low-Resolution Self-Attention for Semantic Segmentation" (TPAMI 2025), Tables 3 to 7 and 11
to 13. Rows of other methods are not here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperRow:
    """A row of a table of the paper.

    Attributes:
        model: the row's name.
        config, opts: what builds it here.
        size: (height, width) of the network's input.
        parameters: in millions.
        flops, attention_flops: in G multiply-adds.
        training_memory: in GB, with ``batch`` images on a GPU.
        backbone_only: the row is of the encoder, without a head.
        why: why our count differs by more than 3 %, one sentence.
    """

    model: str
    config: str
    size: tuple[int, int]
    opts: tuple = ()
    parameters: float | None = None
    flops: float | None = None
    attention_flops: float | None = None
    training_memory: float | None = None
    batch: int = 1
    backbone_only: bool = False
    why: str = ""


@dataclass(frozen=True)
class PaperTable:
    """A table: its title, what its rows mean where the paper leaves it open, and the rows."""

    title: str
    rows: tuple[PaperRow, ...]
    remark: str = ""


_ADE20K_S = "ade20k/lrformer_s.yaml"
_XL_PLUS = (
    "the released LRFormer-XL+ counts 315.9 G, so the paper's figure is not of the model that its "
    "authors released."
)
_CLASSIFIER = (
    "the paper's figures include the ImageNet classifier, ours are of the encoder alone (a "
    "classifier with a hidden layer of 1280 would make up for the parameters of all five)."
)
_ONE_DECIMAL = (
    "the paper gives one decimal; ours rounds to the same at the first two sizes, and at the third "
    "it is 1.048 G where the paper's 1.1 starts at 1.05."
)
_WIDTHS = (
    "the FLOPs agree within 1 %, so the layers do; why the paper has 1.0 to 2.1 M more parameters "
    "at every width but 384, the default, we do not know."
)
_SMALL_MAPS = (
    "the paper's text omits pooling where a map is smaller than the pooled size, and so do we; its "
    "figures fit a count in which keys and values are enlarged there and only the queries are not "
    "({} G)."
)


def _classifier(variant: str, parameters: float, flops: float, side: int = 224, pooled: int = 7):
    return PaperRow(
        f"LRFormer-{variant.upper()}",
        f"models/lrformer_{variant}.yaml",
        (side, side),
        ("MODEL.LRFORMER.POOLED_SIZE", pooled),
        parameters=parameters,
        flops=flops,
        backbone_only=True,
        why=_CLASSIFIER,
    )


def _pooled(m: int, flops: float, memory: float, why: str = "") -> PaperRow:
    return PaperRow(
        f"LRFormer-S, m = {m}",
        _ADE20K_S,
        (512, 512),
        ("MODEL.LRFORMER.POOLED_SIZE", m),
        flops=flops,
        training_memory=memory,
        batch=2,
        why=why,
    )


def _width(channels: int, flops: float, parameters: float) -> PaperRow:
    return PaperRow(
        f"LRFormer-S, head of {channels}",
        _ADE20K_S,
        (512, 512),
        ("MODEL.SEM_SEG_HEAD.CONVS_DIM", channels),
        parameters=parameters,
        flops=flops,
        why=_WIDTHS,
    )


def _plus(variant: str, flops: float, parameters: float, side: int = 512, why: str = ""):
    return PaperRow(
        f"LRFormer-{variant.upper()}+",
        f"models/lrformer_plus_{variant}.yaml",
        (side, side),
        parameters=parameters,
        flops=flops,
        why=why,
    )


def _plain(dataset: str, variant: str, flops: float, parameters: float, size: tuple[int, int]):
    return PaperRow(
        f"LRFormer-{variant.upper()}",
        f"{dataset}/lrformer_{variant}.yaml",
        size,
        parameters=parameters,
        flops=flops,
    )


TABLES = {
    "3": PaperTable(
        "ADE20K, 150 classes",
        (
            _plain("ade20k", "t", 17, 13, (512, 512)),
            _plain("ade20k", "s", 40, 32, (512, 512)),
            _plain("ade20k", "b", 75, 69, (512, 512)),
            _plain("ade20k", "l", 183, 113, (640, 640)),
        ),
        "The paper gives no input size here; it is the training crop, 640 for L.",
    ),
    "4": PaperTable(
        "COCO-Stuff, 171 classes",
        (
            _plain("coco_stuff", "t", 17, 13, (512, 512)),
            _plain("coco_stuff", "s", 40, 32, (512, 512)),
            _plain("coco_stuff", "b", 75, 69, (512, 512)),
            _plain("coco_stuff", "l", 122, 113, (512, 512)),
        ),
    ),
    "5": PaperTable(
        "Cityscapes, 19 classes",
        (
            _plain("cityscapes", "t", 122, 13, (1024, 2048)),
            _plain("cityscapes", "s", 295, 32, (1024, 2048)),
            _plain("cityscapes", "b", 555, 67, (1024, 2048)),
            _plain("cityscapes", "l", 908, 111, (1024, 2048)),
        ),
    ),
    "6": PaperTable(
        "ImageNet: the encoder alone",
        (
            _classifier("t", 13, 1.8),
            _classifier("s", 30, 4.7),
            _classifier("b", 62, 9.3),
            _classifier("l", 101, 15.7),
            _classifier("l", 101, 46.3, side=384, pooled=12),
            _classifier("xl", 187, 31.6),
        ),
        "Attention pools to 7 at 224, as the paper says; for 384 it does not say, and 12 is the "
        "same share of the image.",
    ),
    "7": PaperTable(
        "the pooled size m of the encoder",
        (
            _pooled(4, 38, 3.9),
            _pooled(8, 38, 4.0),
            _pooled(16, 40, 4.2),
            _pooled(32, 52, 5.3),
            _pooled(48, 74, 7.4, _SMALL_MAPS.format("73.5")),
            _pooled(64, 108, 10.9, _SMALL_MAPS.format("107.3")),
        ),
        "The head keeps its own pooled size of 32. The batch of the memory column is that of Table "
        "12, whose first row has the same figure.",
    ),
    "11": PaperTable(
        "the width of the plain head",
        (
            _width(128, 27, 30),
            _width(256, 32, 31),
            _width(384, 40, 32),
            _width(512, 50, 37),
            _width(768, 79, 46),
            _width(1024, 117, 58),
        ),
    ),
    "12": PaperTable(
        "input sizes; attention and upsampling on their own",
        tuple(
            PaperRow(
                "LRFormer-S",
                _ADE20K_S,
                (side, side),
                flops=flops,
                attention_flops=attention,
                training_memory=memory,
                batch=batch,
                why=_ONE_DECIMAL,
            )
            for side, batch, memory, flops, attention in (
                (512, 2, 4.2, 40, 0.8),
                (1024, 1, 5.7, 145, 0.9),
                (1536, 1, 15.3, 319, 1.1),
            )
        ),
        "Attention FLOPs are the encoder's: both matrix products of the attention, and the "
        "upsampling.",
    ),
    "13": PaperTable(
        "LRFormer+, ADE20K",
        (
            _plus("t", 53, 31),
            _plus("s", 70, 48),
            _plus("b", 94, 80),
            _plus("l", 192, 119, 640),
            _plus("xl", 365, 205, 640, _XL_PLUS),
        ),
        "Counted with the predictions of every decoder layer.",
    ),
}
