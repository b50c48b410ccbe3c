"""One iteration of training, in mixed precision on any device."""

import time
from contextlib import nullcontext

import torch
from detectron2.engine import SimpleTrainer
from torch import nn


class TrainStep(SimpleTrainer):
    """detectron2's SimpleTrainer with mixed precision that does not ask for a GPU.

    In float16 the loss is scaled; gradients are unscaled before the optimizer, which clips them,
    sees them. A loss, or a clipped gradient, that is not finite raises FloatingPointError with the
    iteration and the losses before the weights are changed.

    Attributes:
        updating: set while weights and optimizer are being changed, until the caller clears it.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader,
        optimizer: torch.optim.Optimizer,
        dtype: torch.dtype | None = None,
    ):
        """
        Args:
            model: in training mode it takes a batch and returns a dict of scalar losses.
            data_loader: iterable over batches, without end. It is started by the first iteration.
            dtype: of ``torch.autocast``; None trains in the weights' own.
        """
        # The detectron2 of 2021 starts the loader at once: before a checkpoint says where to
        # continue.
        super().__init__(model, [], optimizer)
        self.data_loader = data_loader
        self.updating = False
        self._batches = None
        self._device_type = next(model.parameters()).device.type
        self._dtype = dtype
        self.grad_scaler = torch.amp.GradScaler(self._device_type, enabled=dtype == torch.float16)

    def run_step(self) -> None:
        assert self.model.training, "the model was left in eval mode"
        start = time.perf_counter()
        if self._batches is None:
            self._batches = iter(self.data_loader)
        batch = next(self._batches)
        data_time = time.perf_counter() - start

        self.optimizer.zero_grad()
        with torch.autocast(self._device_type, self._dtype) if self._dtype else nullcontext():
            losses = self.model(batch)
            if isinstance(losses, torch.Tensor):
                losses = {"total_loss": losses}
            total = sum(losses.values())
        self.grad_scaler.scale(total).backward()
        # Raises if a loss is not finite.
        self._write_metrics(losses, data_time)
        self._update(losses)

    def _update(self, losses: dict[str, torch.Tensor]) -> None:
        self.grad_scaler.unscale_(self.optimizer)
        self.updating = True
        try:
            self.grad_scaler.step(self.optimizer)
        except FloatingPointError as error:
            values = {name: loss.item() for name, loss in losses.items()}
            raise FloatingPointError(
                f"{error} at iteration={self.iter}!\nloss_dict = {values}"
            ) from error
        self.grad_scaler.update()

    def state_dict(self) -> dict:
        """The optimizer's state and, in float16, the scale of the loss."""
        state = super().state_dict()
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore what :meth:`state_dict` gave, also that of a run in another data type."""
        super().load_state_dict(state_dict)
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
