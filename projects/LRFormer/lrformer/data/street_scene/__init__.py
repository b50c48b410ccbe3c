"""Procedural street scenes with exact semantic and instance labels."""

from .classes import CLASSES, COLORS, THINGS
from .scene import MIN_SIDE, Scene, render_scene

__all__ = ["CLASSES", "COLORS", "MIN_SIDE", "THINGS", "Scene", "render_scene"]
