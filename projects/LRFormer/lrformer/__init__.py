"""LRFormer on detectron2: semantic segmentation with low-resolution self-attention.

Importing the package registers its backbone, heads and datasets with detectron2. Without detectron2
only :mod:`lrformer.layers`, :mod:`lrformer.timm_models`, :mod:`lrformer.pretrain` and, but for its
segmentation model, :mod:`lrformer.hf` can be used.
"""

import importlib.util
import warnings

__version__ = "0.1.0"

# fvcore and detectron2 compile a few functions with it when they are imported.
warnings.filterwarnings("ignore", message="`torch.jit.script`", category=FutureWarning)
warnings.filterwarnings("ignore", message="`torch.jit.script`", category=DeprecationWarning)

if importlib.util.find_spec("detectron2") is not None:
    from . import data, modeling, referring  # noqa: F401  (they register themselves)
    from .config import add_lrformer_config, load_cfg
    from .inference import Predictor
    from .modeling import build_model

    __all__ = ["Predictor", "add_lrformer_config", "build_model", "load_cfg"]
else:
    __all__ = []

    def __getattr__(name: str):
        if name in ("Predictor", "add_lrformer_config", "build_model", "load_cfg"):
            raise ImportError(
                f"lrformer.{name} needs detectron2, which is not installed; "
                "python tools/install_detectron2.py installs it without a compiler"
            )
        raise AttributeError(f"module 'lrformer' has no attribute {name!r}")
