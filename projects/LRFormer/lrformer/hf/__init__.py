"""LRFormer in Hugging Face transformers; importing this registers it with the Auto classes.

The models hold the modules of :mod:`lrformer.layers` and :mod:`lrformer.modeling` under the names
that they have there, so that ``model.safetensors`` of a saved model is a checkpoint of this project
and the other way round::

    import lrformer.hf
    from transformers import AutoModelForSemanticSegmentation

    model = AutoModelForSemanticSegmentation.from_pretrained("folder or owner/repository")

All but the segmentation model run without detectron2.
"""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
)
from transformers.models.auto import modeling_auto

from .configuration import LRFormerConfig
from .image_processing import LRFormerImageProcessor
from .modeling import (
    LRFormerBackbone,
    LRFormerForImageClassification,
    LRFormerForSemanticSegmentation,
    LRFormerModel,
)

__all__ = [
    "LRFormerBackbone",
    "LRFormerConfig",
    "LRFormerForImageClassification",
    "LRFormerForSemanticSegmentation",
    "LRFormerImageProcessor",
    "LRFormerModel",
]

AutoConfig.register(LRFormerConfig.model_type, LRFormerConfig)
AutoImageProcessor.register(
    LRFormerConfig, image_processor_classes={"torchvision": LRFormerImageProcessor}
)
for _auto, _model in (
    (AutoModel, LRFormerModel),
    (AutoBackbone, LRFormerBackbone),
    (AutoModelForImageClassification, LRFormerForImageClassification),
    (AutoModelForSemanticSegmentation, LRFormerForSemanticSegmentation),
):
    _auto.register(LRFormerConfig, _model)
# Where the pipeline looks, or else it says that it does not support the model.
modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[LRFormerConfig.model_type] = (
    LRFormerForSemanticSegmentation.__name__
)
