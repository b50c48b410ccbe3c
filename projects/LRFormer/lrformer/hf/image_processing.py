"""How images are prepared for LRFormer in transformers."""

from transformers import SegformerImageProcessor


class LRFormerImageProcessor(SegformerImageProcessor):
    """SegFormer's, but for the size: the short side 512, as LRFormer is evaluated on ADE20K.

    Images of several shapes make a batch only with ``size={"height": …, "width": …}``.
    """

    size = {"shortest_edge": 512, "longest_edge": 2048}
    default_to_square = False
