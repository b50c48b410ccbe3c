"""detectron2's checkpointer, for every file that people bring."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.utils import comm
from torch import nn

from .layouts import Layout, Weights, to_ours
from .reading import FileContents, WeightsError, damage, find_file, read_weights
from .report import FROM_CONFIG, Fit, check, compare, describe
from .writing import replacing, save, set_aside, signals_wait

logger = logging.getLogger(__name__)


class LRFormerCheckpointer(DetectionCheckpointer):
    """Loads this project's checkpoints and those of others; the names tell which they are.

    Taken are this project's, also of another head; the authors' released ones, of LRFormer,
    LRFormer+ and ImageNet backbones; detectron2-format Mask2Former's, for their head; and, into
    models that have such a backbone, those of detectron2's model zoo. They may be files of PyTorch,
    pickles or safetensors, at a path or a URL. One report says what fitted.

    Where several processes train, all load together. What only some of them have on their disk is
    read by the main process and sent to all, the state of the training included.

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

    def save(self, name: str, **extras: Any) -> None:
        """As detectron2's; a break, a signal or a full disk leave the checkpoints before it whole.

        Raises:
            OSError: see :func:`lrformer.checkpoint.writing.save`.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        state = {"model": self.model.state_dict()}
        state |= {key: part.state_dict() for key, part in self.checkpointables.items()}
        file = Path(self.save_dir) / f"{name}.pth"
        logger.info(f"Saving checkpoint to {file}")
        with signals_wait():
            save(state | extras, file)
            self.tag_last_checkpoint(file.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the checkpoint to resume from."""
        with replacing(Path(self.save_dir) / "last_checkpoint") as partial:
            partial.write_text(last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Whether the main process has one to resume from; all processes ask together."""
        return comm.all_gather(super().has_checkpoint())[0]

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As detectron2's, but a last checkpoint that is damaged is renamed, and one before taken.

        That is done only where there is a whole one; else :meth:`load` says what is wrong.
        """
        if resume and self.has_checkpoint() and comm.is_main_process():
            self._fall_back()
        comm.synchronize()
        return super().resume_or_load(path, resume=resume)

    def _fall_back(self) -> None:
        last = Path(self.get_checkpoint_file())
        problem = damage(last)
        # Of another training before in this folder: those of later iterations, and the oldest.
        older = [x for x in last.parent.glob("model_[0-9]*.pth") if x.name < last.name]
        older.sort(key=lambda file: (file.stat().st_mtime, file.name))
        whole = next((x for x in reversed(older) if not damage(x)), None) if problem else None
        if whole is None:
            return
        logger.warning(
            f"{last} cannot be resumed from ({problem}): going back to {whole}, the newest whole "
            f"checkpoint; the damaged file is kept as {set_aside(last).name}"
        )
        self.tag_last_checkpoint(whole.name)

    def load(self, path: str, checkpointables: Sequence[str] | None = None) -> dict[str, Any]:
        """As detectron2's; ``path`` is the main process's.

        Raises:
            FileNotFoundError: there is no such file.
            WeightsError: the file cannot be read, is refused, or holds another model's weights; the
                model is unchanged.
        """
        path = comm.all_gather(str(path or ""))[0]
        if not path:
            return super().load(path)
        # Not detectron2's from here: it unpickles anything, matches names by their ends and takes
        # the path apart as a URL, whose options it refuses.
        contents = self._read(path)
        weights = self._understand(contents, path)
        self._load_weights(weights, path)
        # The optimizer and the iteration of another project mean nothing here.
        extras = contents.extras if weights.layout in (Layout.OURS, Layout.OTHER) else {}
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key in extras:
                self.checkpointables[key].load_state_dict(extras.pop(key))
        return extras

    def _read(self, path: str) -> FileContents:
        if comm.get_world_size() == 1 or all(comm.all_gather(_is_here(path))):
            return read_weights(path, self._allow_pickle)
        result: list[FileContents | Exception | None] = [None]
        if comm.is_main_process():
            logger.warning(f"not every process has {path}: the main process sends it to all")
            try:
                result = [read_weights(path, self._allow_pickle)]
            except (OSError, WeightsError) as error:
                result = [error]
        # By a way that does not take memory of the GPUs.
        group = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
        dist.broadcast_object_list(result, group=group)
        if isinstance(result[0], Exception):
            raise result[0]
        return result[0]

    def _understand(self, contents: FileContents, path: str) -> Weights:
        weights = to_ours(contents.weights, path)
        is_caffe2 = "conv1_w" in weights.tensors
        from_zoo = contents.extras.pop("matching_heuristics", False) or is_caffe2
        if weights.layout is Layout.OTHER and from_zoo:
            weights.tensors = align_and_update_state_dicts(
                self.model.state_dict(), weights.tensors, c2_conversion=is_caffe2
            )
        return weights

    def _load_weights(self, weights: Weights, path: str) -> None:
        own = self.model.state_dict()
        self.fit = compare(own, weights)
        check(self.fit, own, weights, path)
        fitting = {
            name: tensor
            for name, tensor in weights.tensors.items()
            if name in own and tensor.shape == own[name].shape and name not in FROM_CONFIG
        }
        self.model.load_state_dict(fitting, strict=False)
        is_partial = self.fit.initialised and not weights.layout.is_imagenet
        level = logging.WARNING if is_partial else logging.INFO
        logger.log(level, describe(self.fit, weights, path))


def _is_here(path: str) -> bool:
    try:
        find_file(path)
    except (OSError, WeightsError):
        return False
    return True
