"""ImageNet pre-training of the backbone on timm's parts; needs no detectron2."""

from .recipe import RECIPES, Recipe
from .trainer import Pretraining, evaluate

__all__ = ["RECIPES", "Pretraining", "Recipe", "evaluate"]
