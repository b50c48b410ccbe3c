"""The variants T, S, B, L and XL, in this order, under timm's names."""

from typing import Any

# Paper, Tab. 2; XL from the released models. What is not listed is the same in all variants and the
# default of LRFormerEncoder.
VARIANTS: dict[str, dict[str, Any]] = {
    "lrformer_tiny": {"embed_dims": (48, 96, 240, 384), "depths": (2, 2, 6, 3)},
    "lrformer_small": {"embed_dims": (64, 128, 320, 512), "depths": (3, 3, 12, 3)},
    "lrformer_base": {"embed_dims": (80, 160, 400, 512), "depths": (4, 4, 15, 8)},
    "lrformer_large": {"embed_dims": (96, 192, 480, 640), "depths": (4, 6, 18, 8)},
    "lrformer_xlarge": {
        "embed_dims": (128, 256, 640, 768),
        "depths": (4, 8, 22, 8),
        "pre_norm_blocks": ((), (), (7, 15), ()),
    },
}
