"""LRFormer in transformers and in what people use with it."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers")

from transformers import AutoBackbone, AutoModelForSemanticSegmentation

from lrformer.hf import (
    LRFormerBackbone,
    LRFormerForImageClassification,
    LRFormerForSemanticSegmentation,
    LRFormerImageProcessor,
    LRFormerModel,
)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, 64, 96, generator=generator)
    return {"pixel_values": pixels, "labels": (pixels[:, 0] > 0).long()}


def test_the_loss_ignores_255_and_is_of_the_labels_size(tiny_model, batch):
    batch["labels"] = torch.randint(0, 3, (2, 61, 90))
    batch["labels"][:, :30] = 255
    outputs = tiny_model.eval()(**batch)
    assert outputs.logits.shape == (2, 3, 8, 12)
    scores = F.interpolate(outputs.logits, (61, 90), mode="bilinear").permute(0, 2, 3, 1)
    wanted = batch["labels"] != 255
    expected = F.nll_loss(scores[wanted].log_softmax(-1), batch["labels"][wanted])
    assert outputs.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_class_map_for_each_image_at_its_own_size(tiny_model, batch):
    outputs = tiny_model.eval()(batch["pixel_values"])
    sizes = [(50, 70), (64, 96)]
    maps = LRFormerImageProcessor().post_process_semantic_segmentation(outputs, sizes)
    assert [tuple(x.shape) for x in maps] == sizes


def test_new_classes_start_a_new_classifier_only(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    model = LRFormerForSemanticSegmentation.from_pretrained(
        tmp_path, num_labels=50, ignore_mismatched_sizes=True
    )
    new, old = model.state_dict(), tiny_model.state_dict()
    changed = {name for name in old if not torch.equal(new[name], old[name])}
    assert changed == {f"sem_seg_head.predictor.{x}" for x in ("weight", "bias")}
    assert new["sem_seg_head.predictor.weight"].std().item() == pytest.approx(0.01, rel=0.2)


def test_activation_checkpoints_change_memory_and_not_gradients(tiny_model, batch):
    def gradients():
        tiny_model.zero_grad()
        tiny_model.train()(**batch).loss.backward()
        return [parameter.grad.clone() for parameter in tiny_model.parameters()]

    expected, kept = gradients(), []
    tiny_model.gradient_checkpointing_enable()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        tiny_model(**batch)
    fewer = len(kept)
    torch.testing.assert_close(gradients(), expected)
    tiny_model.gradient_checkpointing_disable()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        tiny_model(**batch)
    assert fewer < (len(kept) - fewer) / 2


def test_classification(tiny_config, batch):
    config = tiny_config(pooled_size=7)
    model = LRFormerForImageClassification(config).eval()
    outputs = model(batch["pixel_values"], labels=torch.tensor([0, 2]))
    pooled = LRFormerModel.forward(model.backbone, batch["pixel_values"]).last_hidden_state
    assert torch.equal(outputs.logits, model.head(pooled.mean((2, 3))))
    expected = F.cross_entropy(outputs.logits, torch.tensor([0, 2]))
    assert outputs.loss.item() == pytest.approx(expected.item())


def test_trainer(tiny_model, batch, tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments, trainer

    # Our folder of this name is taken for the package.
    monkeypatch.setattr(trainer, "is_datasets_available", lambda: False)
    data = [{name: x[i % 2] for name, x in batch.items()} for i in range(8)]
    arguments = TrainingArguments(
        tmp_path,
        num_train_epochs=6,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=3e-3,
        logging_steps=1,
        save_strategy="epoch",
        report_to=[],
        use_cpu=True,
    )
    training = Trainer(tiny_model, arguments, train_dataset=data, eval_dataset=data)
    start = training.evaluate()["eval_loss"]
    training.train()
    losses = [x["loss"] for x in training.state.log_history if "loss" in x]
    # A mean over pixels, not its sum over accumulated batches.
    assert losses[0] == pytest.approx(start, rel=0.2)
    assert training.evaluate()["eval_loss"] < 0.9 * start
    saved = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "checkpoint-12").eval()
    pixels = batch["pixel_values"]
    assert torch.equal(saved(pixels).logits, tiny_model.eval()(pixels).logits)


def test_lora(tiny_model, batch):
    peft = pytest.importorskip("peft")
    before = tiny_model.eval()(batch["pixel_values"]).logits
    config = peft.LoraConfig(
        r=4, target_modules=["q", "kv", "proj", "fc1"], modules_to_save=["predictor"]
    )
    model = peft.get_peft_model(tiny_model, config).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), 0.01)
    losses = []
    for _ in range(8):
        losses.append(model(**batch).loss)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    with torch.no_grad():
        trained = model.eval()(batch["pixel_values"]).logits
        merged = model.merge_and_unload()(batch["pixel_values"]).logits
    assert not torch.allclose(trained, before, atol=1e-3)
    torch.testing.assert_close(merged, trained, rtol=1e-4, atol=1e-5)
    assert not any("lora" in name for name in tiny_model.state_dict())


@pytest.mark.slow
def test_torch_compile(tiny_model, batch):
    pixels = batch["pixel_values"]
    expected = tiny_model.eval()(pixels).logits
    compiled = torch.compile(tiny_model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(pixels).logits, expected)


@pytest.mark.slow
@torch.no_grad()
def test_onnx(tiny_model, batch):
    pytest.importorskip("onnxruntime")
    exporters = pytest.importorskip("transformers.exporters.exporter_onnx")
    inputs = {"pixel_values": batch["pixel_values"]}
    config = exporters.OnnxConfig()
    exported = exporters.OnnxExporter().export(tiny_model.eval(), inputs, config=config)
    torch.testing.assert_close(
        exported(**inputs).logits, tiny_model(**inputs).logits, rtol=1e-4, atol=1e-5
    )


def test_a_repository_of_the_hub(tiny_model, batch, hub, tmp_path):
    tiny_model.eval().save_pretrained(tmp_path / "folder")
    hub.add("owner/models", tmp_path / "folder")
    pixels = batch["pixel_values"]
    model = AutoModelForSemanticSegmentation.from_pretrained("owner/models")
    assert torch.equal(model(pixels).logits, tiny_model(pixels).logits)
    backbone = AutoBackbone.from_pretrained("owner/models", out_features=["stage3"])
    assert isinstance(backbone, LRFormerBackbone)
    assert backbone(pixels).feature_maps[0].shape == (2, 24, 4, 6)


def test_without_detectron2_all_but_the_segmentation_model():
    code = """
import sys
sys.modules["detectron2"] = None
import torch
from lrformer.hf import *
config = LRFormerConfig(depths=[1, 1, 1, 1])
print(LRFormerForImageClassification(config)(torch.zeros(1, 3, 64, 64)).logits.shape)
LRFormerForSemanticSegmentation(config)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "torch.Size([1, 2])" in done.stdout, done.stderr
    assert "ImportError: LRFormerForSemanticSegmentation needs detectron2" in done.stderr
    assert "tools/install_detectron2.py" in done.stderr
