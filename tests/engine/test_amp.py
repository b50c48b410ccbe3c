import logging

import pytest
import torch
from torch import nn

from lrformer.engine import adapt_to_machine, machine
from lrformer.engine.step import TrainStep
from lrformer.engine.trainer import Trainer


class Recorder(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.dtypes = []

    def forward(self, x):
        out = self.linear(x)
        self.dtypes.append(out.dtype)
        return {"loss": out.float().square().mean()}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_a_step_computes_in_the_type_and_updates_in_float32(dtype):
    torch.manual_seed(0)
    model, reference = Recorder(), nn.Linear(4, 4)
    reference.load_state_dict(model.linear.state_dict())
    data = torch.randn(8, 4)
    step = TrainStep(model, [data], torch.optim.SGD(model.parameters(), lr=1.0), dtype)
    step._write_metrics = lambda losses, data_time: None
    step.run_step()
    assert model.dtypes == [dtype or torch.float32]
    # Whatever the loss was scaled by, the step is the gradient of the loss.
    reference(data).square().mean().backward()
    for name, parameter in model.linear.named_parameters():
        before = reference.get_parameter(name)
        assert parameter.dtype == torch.float32
        torch.testing.assert_close(before - parameter, before.grad, rtol=0.02, atol=2e-3)


def test_in_float16_the_clipped_gradient_is_the_unscaled_one(tiny_cfg):
    tiny_cfg.SOLVER.AMP.ENABLED = True
    tiny_cfg.SOLVER.AMP.DTYPE = "float16"
    tiny_cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    tiny_cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    tiny_cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1e3
    tiny_cfg.SOLVER.OPTIMIZER = "SGD"
    tiny_cfg.SOLVER.MAX_ITER = 3
    trainer = Trainer(tiny_cfg)
    trainer.train()
    # The loss is multiplied by 65536: unless undone, every gradient would reach the limit.
    norm = torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm()
    assert norm < 10


def test_the_scale_of_the_loss_is_resumed(tiny_cfg):
    tiny_cfg.SOLVER.AMP.ENABLED = True
    tiny_cfg.SOLVER.AMP.DTYPE = "float16"
    tiny_cfg.SOLVER.MAX_ITER = 2
    trainer = Trainer(tiny_cfg)
    trainer.train()
    trainer._trainer.grad_scaler.update(new_scale=1024.0)
    trainer.checkpointer.save("model_final")
    resumed = Trainer(tiny_cfg)
    resumed.resume_or_load(resume=True)
    assert resumed._trainer.grad_scaler.get_scale() == 1024.0
    # A checkpoint can be continued in another type as well.
    tiny_cfg.SOLVER.AMP.DTYPE = "bfloat16"
    Trainer(tiny_cfg).resume_or_load(resume=True)


def test_a_cpu_without_bfloat16_is_told_once(tiny_cfg, caplog, monkeypatch):
    monkeypatch.setattr("lrformer.precision.has_bfloat16", lambda device: False)
    tiny_cfg.SOLVER.AMP.ENABLED = True
    with caplog.at_level(logging.INFO):
        logging.getLogger("lrformer").propagate = True
        Trainer(tiny_cfg)
    lines = [message for message in caplog.messages if "SOLVER.AMP" in message]
    assert lines == [
        "SOLVER.AMP: training in float32, because this cpu does not compute in bfloat16"
    ]


def test_without_a_gpu_the_cpu_is_used_and_workers_leave_it_room(tiny_cfg, caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "available_cores", lambda: 6)
    tiny_cfg.MODEL.DEVICE = "cuda"
    tiny_cfg.DATALOADER.NUM_WORKERS = 4
    with caplog.at_level(logging.INFO):
        adapt_to_machine(tiny_cfg)
        adapt_to_machine(tiny_cfg)
    assert (tiny_cfg.MODEL.DEVICE, tiny_cfg.DATALOADER.NUM_WORKERS) == ("cpu", 3)
    assert len(caplog.messages) == 2
    assert "PyTorch finds no GPU: using the CPU" in caplog.text
    assert "DATALOADER.NUM_WORKERS reduced from 4 to 3" in caplog.text


@pytest.mark.parametrize(
    "num_gpus, found, device, message",
    [
        (2, 0, "cuda", "--num-gpus 2 was asked for, but PyTorch finds 0.*--num-gpus 1"),
        (4, 2, "cuda", "--num-gpus 4 was asked for, but PyTorch finds 2 on this machine$"),
        (2, 2, "cpu", "MODEL.DEVICE is cpu; a CPU is used by one process"),
        (-1, 0, "cpu", "--num-gpus is -1"),
    ],
)
def test_a_number_of_gpus_that_cannot_be(monkeypatch, num_gpus, found, device, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    with pytest.raises(ValueError, match=message):
        machine.check_num_gpus(num_gpus, 1, device)
