"""Finds what can be fused in a model, and replaces it in a copy."""

import copy

from detectron2.layers import Conv2d
from torch import nn

from ...layers import PatchEmbed, Stem
from ...layers.encoder import Stage
from ...modeling.heads import LRHead
from .folding import Linear, batch_norm_affine, constant
from .modules import (
    EvalOnly,
    FusedBlock,
    FusedLRHead,
    FusedStem,
    ResidualDepthwiseConv,
    fused_patch_embed,
)


def fuse(model: nn.Module) -> nn.Module:
    """A copy of ``model`` that gives the same outputs, up to rounding, with less work.

    BatchNorms go into the convolutions before them or, in the head, into the linear layers after
    them; x + DWConv(x) into the kernel's centre; layer scales, biases and the factors of LayerNorm
    and attention into the linear layers beside them; the head's convolutions come before its
    upsampling, and its classifier into the last block. Dropout and stochastic depth are gone.

    Args:
        model: in eval mode; anything that holds an LRFormer encoder or :class:`LRHead`: a
            detectron2 model, a wrapper of one, a backbone, a timm model. It is not changed.

    Returns:
        The copy, for inference only, with weights of its own and other parameter names.

    Raises:
        RuntimeError: the model is in training mode.
        ValueError: there is nothing in it to fuse, or it is fused already.
    """
    training = [name or "the model itself" for name, part in model.named_modules() if part.training]
    if training:
        raise RuntimeError(
            f"fuse is for models in eval mode, and {training[0]} of this {type(model).__name__} is "
            "in training mode: call .eval() on it first (BatchNorm would use the batch's "
            "statistics, and a fused model cannot be trained)"
        )
    # In a list, so that what is given can itself be replaced.
    holder = nn.ModuleList([copy.deepcopy(model)])
    parts = list(holder.modules())
    if any(isinstance(part, EvalOnly) for part in parts):
        raise ValueError(f"this {type(model).__name__} is fused already")
    if not any(isinstance(part, (Stem, LRHead)) for part in parts):
        raise ValueError(
            f"there is nothing to fuse in this {type(model).__name__}: it holds no LRFormer "
            "encoder and no LRHead"
        )
    _replace_in(holder, {})
    return holder[0].requires_grad_(False).eval()


def _replace_in(parent: nn.Module, done: dict[nn.Module, nn.Module]) -> None:
    """Replace children of ``parent``; ``done``: what became of modules, which can be shared."""
    for name, child in parent._modules.items():
        if child is None:
            continue
        if child not in done:
            done[child] = _replacement(child, done)
        if done[child] is not child:
            setattr(parent, name, done[child])


def _replacement(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    if isinstance(module, Stem):
        return FusedStem(module)
    if isinstance(module, LRHead):
        return FusedLRHead(module)
    if isinstance(module, (nn.Dropout, nn.Dropout2d)):
        return nn.Identity()
    if isinstance(module, Stage):
        _fuse_stage(module)
        return module
    if isinstance(module, Conv2d):
        _fold_norm(module)
    _replace_in(module, done)
    return module


def _fuse_stage(stage: Stage) -> None:
    if isinstance(stage.embed, PatchEmbed):
        stage.embed = fused_patch_embed(stage.embed)
    stage.pyramid_convs = nn.ModuleList(map(ResidualDepthwiseConv, stage.pyramid_convs))
    stage.blocks = nn.ModuleList(map(FusedBlock, stage.blocks))


def _fold_norm(conv: Conv2d) -> None:
    """The BatchNorm of detectron2's convolution into the convolution itself."""
    affine = batch_norm_affine(conv.norm)
    if affine is not None:
        linear = Linear.of(conv).then_scaled(*affine)
        conv.weight, conv.bias = (
            constant(linear.weight, conv.weight),
            constant(linear.bias, conv.weight),
        )
        conv.norm = None
