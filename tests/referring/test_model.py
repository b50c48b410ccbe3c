"""LISA's parts against transformers' own classes, and what is trained of it."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model

from lrformer import load_cfg
from lrformer.referring.model import mask_losses


def test_states_and_loss_are_llavas(tiny, batch):
    """Each phrase alone, without padding, through transformers' model itself."""
    language = tiny().language.eval()
    images = [x["image"] for x in batch]
    states, loss = language(images, [x["referring"] for x in batch])
    assert states.shape == (3, 32) and loss is None
    pairs = [(x["image"], phrase) for x in batch for phrase in x["referring"]]
    for state, (image, phrase) in zip(states, pairs, strict=True):
        question, answer = language._tokens(phrase)
        text = language._tokenizer.decode(answer)
        assert text.split() == ["<SEG>", ".", "</s>"]
        pixels = language._image_processor(images=[image], return_tensors="pt")["pixel_values"]
        ids = torch.tensor([question + answer])
        alone = language.llava.model(input_ids=ids, pixel_values=pixels).last_hidden_state
        torch.testing.assert_close(state, alone[0, len(question) - 1], rtol=1e-4, atol=1e-5)


def test_only_the_answer_is_learned(tiny, batch, monkeypatch):
    language = tiny().language.train()
    monkeypatch.setattr("random.choice", lambda choices: choices[-1])
    x = batch[1]
    _, loss = language([x["image"]], [x["referring"]])
    question, answer = language._tokens(x["referring"][0])
    pixels = language._image_processor(images=[x["image"]], return_tensors="pt")["pixel_values"]
    logits = language.llava(input_ids=torch.tensor([question + answer]), pixel_values=pixels).logits
    expected = F.cross_entropy(logits[0, len(question) - 1 : -1], torch.tensor(answer))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


def test_prompts_reach_sams_decoder_as_in_sam(tiny):
    """Positions and the dense prompt of a square image, by transformers' SamModel."""
    from transformers import SamConfig, SamModel

    model = tiny("MODEL.LISA.DIM", 256)
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sam = SamModel(SamConfig(vision_config={**vision, "global_attn_indexes": [0]}))
    sam.prompt_encoder.load_state_dict(model.prompt_encoder.state_dict())
    sam.shared_image_embedding.load_state_dict(model.prompt_encoder.shared_embedding.state_dict())
    expected = sam.get_image_wide_positional_embeddings()
    found = model._positions(torch.zeros(1, 256, 64, 64))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    _, dense = sam.prompt_encoder(None, None, None, None)
    torch.testing.assert_close(
        model.prompt_encoder.no_mask_embed.weight[..., None, None].expand_as(dense), dense
    )


def test_losses_by_hand():
    logits = [torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[20.0, -20.0]], [[-20.0, 20.0]]])]
    targets = [torch.tensor([[[True, False]]]), torch.tensor([[[True, False]], [[True, False]]])]
    losses = mask_losses(logits, targets)
    # Of three masks: undecided, right, wrong. Cross-entropy ln 2, 0, 20; Dice 1/2, 0, 1.
    assert losses["loss_mask"].item() == pytest.approx((0.693147 + 0 + 20) / 3, rel=1e-4)
    assert losses["loss_dice"].item() == pytest.approx((0.5 + 0 + 1) / 3, abs=1e-3)


def test_an_answer_in_words_is_learned_without_a_mask(tiny, batch):
    model, x = tiny().train(), batch[1]
    x["referring"] = [{"phrase": "What is it?", "answer": "The road right of the car."}]
    question, answer = model.language._tokens(x["referring"][0])
    words = model.language._tokenizer.decode(answer)
    assert words.split()[:-1] == ["the", "road", "right", "of", "the", "car", "."]
    losses = model([x | {"gt_masks": x["gt_masks"][:0]}])
    assert losses["loss_ce"] > 0 and losses["loss_mask"] == losses["loss_dice"] == 0
    sum(losses.values()).backward()
    # Processes that train together wait for each other's gradients of all of them.
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_predictions_have_the_images_sizes_and_do_not_depend_on_the_batch(tiny, batch):
    model = tiny().eval()
    batch[0] |= {"height": 128, "width": 160}
    with torch.no_grad():
        together = [x["referring"] for x in model(batch)]
        turned = model([batch[0] | {"referring": batch[0]["referring"][::-1]}])[0]["referring"]
        alone = model(batch[:1])[0]["referring"]
    assert [tuple(masks.shape) for masks in together] == [(2, 128, 160), (1, 48, 96)]
    assert torch.equal(turned.flip(0), alone)
    with pytest.raises(ValueError, match="no phrase"):
        model([{"image": batch[0]["image"]}])


def test_adapters_are_trained_and_what_is_published_as_frozen_is_not(tiny, batch):
    pytest.importorskip("peft")
    frozen = ("MODEL.LISA.LORA_RANK", 2, "MODEL.LISA.FREEZE_BACKBONE", True)
    model = tiny(*frozen).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    for _ in range(2):  # an adapter's first factor moves once its second one is not zero
        optimizer.zero_grad()
        losses = model(batch)
        sum(losses.values()).backward()
        optimizer.step()
    # Processes that train together wait for each other's gradients of all of them.
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert set(losses) == {"loss_ce", "loss_mask", "loss_dice"}
    changed = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    language = {name for name in changed if name.startswith("language.")}
    assert language and all(
        any(part in name for part in ("lora_", "embed_tokens", "lm_head")) for name in language
    )
    assert sum("lora_" in name for name in language) == 2 * 2 * 2  # layers, q and v, A and B
    assert {name.partition(".")[0] for name in changed - language} == {
        "neck",
        "projection",
        "mask_decoder",
    }


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_timm_backbones_take_any_size(tiny, batch, name):
    model = tiny("MODEL.LISA.TIMM_BACKBONE", name).eval()
    with torch.no_grad():
        masks = model(batch)
    assert [tuple(x["referring"].shape) for x in masks] == [(2, 64, 80), (1, 48, 96)]


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("xl", None),
        ("vit_l", "vit_large_patch16_384"),
        ("swin_l", "swin_large_patch4_window12_384"),
    ],
)
def test_the_full_size_has_the_parameters_of_its_parts(name, backbone):
    """LLaVA-1.5-7B's and SAM's from their releases; the backbones' from timm."""
    pytest.importorskip("peft")
    import timm

    cfg = load_cfg(f"models/lisa_{name}.yaml", ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
        whole = timm.create_model(backbone, num_classes=0) if backbone else None

    def count(part, but=()):
        return sum(p.numel() for n, p in part.named_parameters() if not any(b in n for b in but))

    assert count(model.language, but=["lora_"]) == pytest.approx(7_063_427_072, rel=1e-5)
    assert count(model.mask_decoder) == 4_058_340
    if whole is not None:  # timm leaves the last norm out of its features
        assert count(model.backbone) == pytest.approx(count(whole), rel=1e-3)


def test_llava_and_sam_come_from_folders_as_from_the_hub(tiny, batch, tmp_path):
    from transformers import SamConfig, SamModel

    language = tiny().language.eval()
    for part in (language.llava, language._tokenizer, language._image_processor):
        part.save_pretrained(tmp_path / "llava")
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sam = SamModel(SamConfig(vision_config={**vision, "global_attn_indexes": [0]}))
    sam.save_pretrained(tmp_path / "sam")
    folders = ("MODEL.LISA.LLAVA", tmp_path / "llava", "MODEL.LISA.SAM", tmp_path / "sam")
    model = tiny(*folders).eval()
    for name, value in sam.mask_decoder.state_dict().items():
        assert torch.equal(model.mask_decoder.state_dict()[name], value)
    inputs = [x["image"] for x in batch], [x["referring"] for x in batch]
    torch.testing.assert_close(model.language(*inputs)[0], language(*inputs)[0])
    assert [tuple(x["referring"].shape) for x in model(batch)] == [(2, 64, 80), (1, 48, 96)]
