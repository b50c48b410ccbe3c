"""LISA: Reasoning Segmentation via Large Language Model (Lai et al., CVPR 2024)."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..layers.common import resize
from .backbone import Neck, TimmBackbone
from .language import LanguageModel, build_language_model, load_pretrained

logger = logging.getLogger(__name__)

STRIDE = 16


@META_ARCH_REGISTRY.register()
class LISA(nn.Module):
    """Masks for phrases: a language model's state becomes the prompt of SAM's mask decoder."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        language: LanguageModel,
        prompt_encoder: nn.Module,
        mask_decoder: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        in_features: Sequence[str] = (),
        freeze_backbone: bool = True,
        ce_weight: float = 1.0,
        bce_weight: float = 2.0,
        dice_weight: float = 0.5,
    ):
        """
        Args:
            backbone: normalised images to features.
            language: images and phrases to states.
            prompt_encoder, mask_decoder: SAM's, of transformers; the former is frozen.
            pixel_mean, pixel_std: of the backbone's images, a value a channel, RGB.
            in_features: those that the neck takes; none: all.
            freeze_backbone: as published.
            ce_weight, bce_weight, dice_weight: of the losses.
        """
        super().__init__()
        shapes = backbone.output_shape()
        self.in_features = list(in_features) or list(shapes)
        if unknown := set(self.in_features) - set(shapes):
            raise ValueError(
                f"MODEL.LISA.IN_FEATURES: the backbone has no {', '.join(sorted(unknown))}; it has "
                f"{', '.join(shapes)}"
            )
        dim = mask_decoder.hidden_size
        self.backbone, self.language = backbone, language
        self.neck = Neck([shapes[name].channels for name in self.in_features], dim)
        self.projection = nn.Sequential(
            nn.Linear(language.dim, language.dim), nn.ReLU(), nn.Linear(language.dim, dim)
        )
        # As large as SAM's own tokens, beside which a decoder from scratch would not notice less.
        for layer in self.projection[::2]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        self.prompt_encoder = prompt_encoder.requires_grad_(False)
        self.mask_decoder = mask_decoder
        mask_decoder.iou_prediction_head.requires_grad_(False)  # no loss is of it
        self._freeze_backbone = freeze_backbone
        if freeze_backbone:
            backbone.requires_grad_(False)
        self.weights = {"loss_ce": ce_weight, "loss_mask": bce_weight, "loss_dice": dice_weight}
        for name, value in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            value = torch.tensor(value, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        try:
            import transformers as hf
        except ImportError as error:
            raise ValueError(
                "MODEL.META_ARCHITECTURE LISA needs transformers: pip install 'lrformer[vlm]'"
            ) from error
        if cfg.INPUT.FORMAT != "RGB":
            raise ValueError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT}; LISA takes RGB images")
        keys = cfg.MODEL.LISA
        if keys.FREEZE_BACKBONE and not cfg.MODEL.WEIGHTS:
            logger.warning(
                "MODEL.WEIGHTS is empty and MODEL.LISA.FREEZE_BACKBONE True: in a new training the "
                "backbone keeps its random values"
            )
        if keys.SAM:
            sam = load_pretrained("SAM", keys.SAM, hf.SamModel)
            prompt_encoder, mask_decoder = sam.prompt_encoder, sam.mask_decoder
        else:
            vision = hf.SamVisionConfig(num_pos_feats=keys.DIM // 2)
            vision.scale = 1.0  # of the positions' frequencies, as in SAM; 384 by default here
            prompt = hf.SamPromptEncoderConfig(hidden_size=keys.DIM)
            parts = hf.models.sam.modeling_sam
            prompt_encoder = parts.SamPromptEncoder(
                hf.SamConfig(vision_config=vision, prompt_encoder_config=prompt)
            )
            mask_decoder = parts.SamMaskDecoder(
                hf.SamMaskDecoderConfig(
                    hidden_size=keys.DIM, mlp_dim=8 * keys.DIM, attn_implementation="sdpa"
                )
            )
        timm_name = keys.TIMM_BACKBONE
        return {
            "backbone": TimmBackbone(timm_name) if timm_name else build_backbone(cfg),
            "language": build_language_model(cfg),
            "prompt_encoder": prompt_encoder,
            "mask_decoder": mask_decoder,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "in_features": keys.IN_FEATURES,
            "freeze_backbone": keys.FREEZE_BACKBONE,
            "ce_weight": keys.CE_WEIGHT,
            "bce_weight": keys.BCE_WEIGHT,
            "dice_weight": keys.DICE_WEIGHT,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def train(self, mode: bool = True) -> "LISA":
        super().train(mode)
        if self._freeze_backbone:
            self.backbone.eval()
        return self

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """As detectron2's models: in training a dict of losses, else one dict an image.

        Args:
            batched_inputs: one dict an image: "image", uint8 3xHxW RGB; "referring", a dict for
                each of its N phrases, see :meth:`LanguageModel.forward`; in training "gt_masks",
                HxW bool of each phrase without an "answer", else "height" and "width" of the
                prediction (H and W where missing).

        Returns:
            In testing {"referring": NxHxW bool}.

        Raises:
            ValueError: an image has no phrase.
        """
        images = [x["image"].to(self.device) for x in batched_inputs]
        phrases = [_phrases(x) for x in batched_inputs]
        counts = [len(group) for group in phrases]
        states, text_loss = self.language(images, phrases)
        masks, sizes = self._decode(images, states, counts)
        if self.training:
            targets = [x["gt_masks"].to(self.device) for x in batched_inputs]
            cropped = [
                mask[["answer" not in phrase for phrase in group], :h, :w]
                for mask, (h, w), group in zip(masks, sizes, phrases, strict=True)
            ]
            losses = {"loss_ce": text_loss, **mask_losses(cropped, targets)}
            return {name: loss * self.weights[name] for name, loss in losses.items()}
        return [
            {
                "referring": sem_seg_postprocess(
                    mask, size, x.get("height", size[0]), x.get("width", size[1])
                )
                > 0
            }
            for mask, size, x in zip(masks, sizes, batched_inputs, strict=True)
        ]

    def _decode(
        self, images: list[Tensor], states: Tensor, counts: list[int]
    ) -> tuple[list[Tensor], list[tuple[int, int]]]:
        """Logits NxHxW of each image, of the size of the padded batch; and the images' sizes."""
        normalised = [(image - self.pixel_mean) / self.pixel_std for image in images]
        batch = ImageList.from_tensors(normalised, self.backbone.size_divisibility)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._freeze_backbone):
            features = self.backbone(batch.tensor)
        height, width = batch.tensor.shape[-2:]
        maps = [features[name] for name in self.in_features]
        embedding = self.neck(maps, (height // STRIDE, width // STRIDE))
        repeats = torch.tensor(counts, device=self.device)
        prompts = self.projection(states.to(embedding.dtype))
        masks, _ = self.mask_decoder(
            image_embeddings=embedding.repeat_interleave(repeats, 0),
            image_positional_embeddings=self._positions(embedding).expand(len(states), -1, -1, -1),
            sparse_prompt_embeddings=prompts[:, None, None],
            dense_prompt_embeddings=self.prompt_encoder.no_mask_embed.weight[..., None, None],
            multimask_output=False,
        )
        masks = resize(masks[:, 0], (height, width))[:, 0].split(counts)
        return list(masks), batch.image_sizes

    def _positions(self, embedding: Tensor) -> Tensor:
        """SAM's encoding of the positions of a map, 1xCxhxw."""
        y, x = ((torch.arange(n, device=self.device) + 0.5) / n for n in embedding.shape[-2:])
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        return self.prompt_encoder.shared_embedding(grid).permute(2, 0, 1)[None]


def mask_losses(logits: list[Tensor], targets: list[Tensor]) -> dict[str, Tensor]:
    """Binary cross-entropy, the mean over a mask's pixels, and Dice loss, both means over masks.

    Both are 0 where there are none.

    Args:
        logits, targets: of each image NxHxW; targets are bool or of values 0 and 1.
    """
    bce, dice = [], []
    for x, y in zip(logits, targets, strict=True):
        x, y = x.flatten(1).float(), y.flatten(1).float()
        bce.append(F.binary_cross_entropy_with_logits(x, y, reduction="none").mean(1))
        p = x.sigmoid()
        # The published code divides pixels by 1000 and adds 1e-6.
        dice.append(1 - (2 * (p * y).sum(1) + 1e-3) / (p.sum(1) + y.sum(1) + 1e-3))
    count = max(1, sum(map(len, targets)))
    return {"loss_mask": torch.cat(bce).sum() / count, "loss_dice": torch.cat(dice).sum() / count}


def _phrases(x: dict) -> list[dict]:
    if not x.get("referring"):
        raise ValueError(
            f"{x.get('file_name', 'an image')}: no phrase in its inputs ('referring'); LISA "
            'segments what a phrase means: visualize.py --phrase "the red car", or a dataset of '
            "phrases (datasets/README.md)"
        )
    return x["referring"]
