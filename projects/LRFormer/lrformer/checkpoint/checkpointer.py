"""detectron2's checkpointer, for every file that people bring."""

import logging
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import nn

from .layouts import Layout, Weights, to_ours
from .reading import FileContents, WeightsError, find_file, read_weights
from .report import FROM_CONFIG, Fit, check, compare, describe

logger = logging.getLogger(__name__)


class LRFormerCheckpointer(DetectionCheckpointer):
    """Loads this project's checkpoints and those of others; the names tell which they are.

    Taken are this project's, also of another head; the authors' released ones, of LRFormer,
    LRFormer+ and ImageNet backbones; detectron2-format Mask2Former's, for their head; and, into
    models that have such a backbone, those of detectron2's model zoo. They may be files of PyTorch,
    pickles or safetensors, at a path or a URL. One report says what fitted.

    Attributes:
        fit: what of the last file fitted; None before.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, allow_pickle: bool = False, **options: Any
    ):
        """
        Args:
            model, save_dir, options: as detectron2's.
            allow_pickle: also load pickles that may run any code, see
                :func:`lrformer.checkpoint.reading.read_file`.
        """
        super().__init__(model, save_dir, **options)
        self.fit: Fit | None = None
        self._allow_pickle = allow_pickle
        self._source = ""
        self._weights: Weights | None = None

    def load(self, path: str, *args, **kwargs) -> dict[str, Any]:
        """As detectron2's.

        Raises:
            FileNotFoundError: there is no such file.
            WeightsError: the file cannot be read, is refused, or holds another model's weights; the
                model is unchanged.
        """
        if path:
            self._source, path = str(path), str(find_file(path))
        # Not DetectionCheckpointer's: the newer one takes the path apart as a URL and refuses the
        # options in it that it does not know.
        return super(DetectionCheckpointer, self).load(path, *args, **kwargs)

    def _load_file(self, filename: str) -> dict[str, Any]:
        # Not DetectionCheckpointer's: it unpickles anything, and the newer one matches names by
        # their ends.
        contents = read_weights(self._source or filename, self._allow_pickle)
        try:
            weights = to_ours(contents.weights)
        except WeightsError as error:
            raise WeightsError(f"{self._source}: {error}") from error
        if weights.layout is Layout.OTHER:
            weights.tensors = self._align(contents)
        self._weights = weights
        # The optimizer and the iteration of another project mean nothing here.
        is_other = weights.layout not in (Layout.OURS, Layout.OTHER)
        return {**({} if is_other else contents.extras), "model": weights.tensors}

    def _align(self, contents: FileContents) -> dict:
        """The weights of a backbone of detectron2's model zoo, under the model's names."""
        is_caffe2 = "conv1_w" in contents.weights
        if not is_caffe2 and not contents.extras.pop("matching_heuristics", False):
            return contents.weights
        return align_and_update_state_dicts(
            self.model.state_dict(), contents.weights, c2_conversion=is_caffe2
        )

    def _load_model(self, checkpoint: dict[str, Any]):
        model, weights = self.model.state_dict(), self._weights
        self.fit = compare(model, weights)
        check(self.fit, model, weights, self._source)
        for name in FROM_CONFIG:
            checkpoint["model"].pop(name, None)
        incompatible = super()._load_model(checkpoint)
        is_partial = self.fit.initialised and not weights.layout.is_imagenet
        level = logging.WARNING if is_partial else logging.INFO
        logger.log(level, describe(self.fit, weights, self._source))
        return incompatible

    def _log_incompatible_keys(self, incompatible) -> None:
        """Nothing: the report has said it."""
