"""Made-up street scenes with exact labels; beside the package, and not installed with it."""

from .annotations import panoptic_image
from .dataset import write_demo_scenes
from .scene import MIN_SIDE, Scene, render_scene

__all__ = ["MIN_SIDE", "Scene", "panoptic_image", "render_scene", "write_demo_scenes"]
