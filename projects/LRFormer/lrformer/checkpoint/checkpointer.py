"""detectron2's checkpointer, taught the layout of the released files."""

import pickle
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from .released import from_released, is_released


class LRFormerCheckpointer(DetectionCheckpointer):
    """Loads this project's checkpoints and the authors' released ones; the names tell which it is.

    A released file holds the mapping from name to tensor itself, or has it under "state_dict" or
    "model"; names may carry a ``module.`` prefix.
    """

    def _load_file(self, filename: str) -> dict[str, Any]:
        if not filename.endswith(".pth"):
            return super()._load_file(filename)
        try:
            # weights_only: a checkpoint from elsewhere must not run code.
            loaded = torch.load(filename, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{filename} is no checkpoint that can be loaded: it is truncated, another kind of "
                f"file, or holds more than tensors ({type(error).__name__})"
            ) from error
        if not isinstance(loaded, dict):
            raise ValueError(
                f"{filename} holds a {type(loaded).__name__}; expected names mapped to tensors"
            )
        weights = loaded.get("model", loaded.get("state_dict", loaded))
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
        if not is_released(weights):
            return {**loaded, "model": weights} if "model" in loaded else {"model": weights}
        weights, unknown = from_released(weights)
        self.logger.info(f"{filename} has the released layout: {len(weights)} tensors renamed")
        if unknown:
            self.logger.warning(f"{filename}: no counterpart here for {', '.join(unknown)}")
        return {"model": weights}

    def _load_model(self, checkpoint: dict[str, Any]):
        names = checkpoint["model"].keys()
        if not checkpoint.get("matching_heuristics") and names.isdisjoint(self.model.state_dict()):
            some = ", ".join(list(names)[:3]) or "nothing"
            raise ValueError(
                f"MODEL.WEIGHTS: none of the checkpoint's {len(names)} names is the model's; "
                f"it holds {some}, …: weights of another model?"
            )
        return super()._load_model(checkpoint)
