"""Neighbouring linear maps as one: in float64, so that the weights are rounded once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...layers import onednn


@dataclass
class Linear:
    """Weight and bias of a linear layer or a convolution, outputs first, float64.

    Attributes:
        weight: outputs x inputs, or outputs x inputs x height x width.
        bias: one an output.
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, layer: nn.Linear | nn.Conv2d) -> Linear:
        weight = layer.weight.detach().double()
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().double()
        return cls(weight, bias)

    def then_scaled(self, scale: Tensor, shift: Tensor | float = 0.0) -> Linear:
        """Its outputs times ``scale`` plus ``shift``, one value an output."""
        weight = self.weight * scale.view(-1, *[1] * (self.weight.dim() - 1))
        return Linear(weight, self.bias * scale + shift)

    def of_scaled(self, scale: Tensor, shift: Tensor) -> Linear:
        """Of inputs times ``scale`` plus ``shift``, one value an input; not where it pads."""
        weight = self.weight.flatten(1)
        return Linear(
            (weight * scale).view(self.weight.shape), self.bias + weight @ shift.to(weight)
        )

    def then(self, other: Linear) -> Linear:
        """``other`` of its outputs; ``other`` is of one input position, as ``self`` is."""
        first, second = self.weight.flatten(1), other.weight.flatten(1)
        weight = (second @ first).view(-1, *self.weight.shape[1:])
        return Linear(weight, second @ self.bias + other.bias)


def batch_norm_affine(norm: nn.Module | None) -> tuple[Tensor, Tensor] | None:
    """Scale and shift that a BatchNorm of whatever kind is in inference; None for anything else."""
    if not isinstance(norm, (_BatchNorm, FrozenBatchNorm2d)) or norm.running_var is None:
        return None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return scale, shift


def layer_norm_affine(norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift after the normalisation of a LayerNorm."""
    size, like = norm.normalized_shape, norm.weight
    ones = torch.ones(size, dtype=torch.float64, device=getattr(like, "device", None))
    scale = ones if norm.weight is None else norm.weight.detach().double()
    shift = torch.zeros_like(ones) if norm.bias is None else norm.bias.detach().double()
    return scale, shift


def constant(tensor: Tensor, like: Tensor) -> nn.Parameter:
    """A parameter without gradient, of the data type of ``like``, in its own memory."""
    return nn.Parameter(tensor.to(like.dtype, copy=True), requires_grad=False)


class Conv(nn.Conv2d):
    """A convolution and its activation; under autocast, in autocast's data type.

    Args:
        linear: weight and bias; a matrix is a 1x1 convolution.
        like: whose data type the parameters get.
        bias: False leaves it out.
        stride, padding, groups: of the convolution.
        activation: "gelu", "relu" or None.
    """

    def __init__(
        self,
        linear: Linear,
        like: Tensor,
        *,
        bias: bool = True,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        activation: str | None = None,
    ):
        weight = linear.weight if linear.weight.dim() == 4 else linear.weight[..., None, None]
        outputs, inputs, *size = weight.shape
        # On no device: the layer's own random values would be replaced at once.
        super().__init__(
            inputs * groups, outputs, size, stride, padding, groups=groups, bias=bias, device="meta"
        )
        self.weight = constant(weight, like)
        self.bias = constant(linear.bias, like) if bias else None
        self.activation = activation

    def parameters_in(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        return self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        dtype = compute_dtype(self.weight)
        weight, bias = self.parameters_in(dtype)
        return onednn.conv(
            x.to(dtype),
            weight,
            bias,
            stride=self.stride[0],
            padding=self.padding[0],
            groups=self.groups,
            activation=self.activation,
        )


class Projection(nn.Linear):
    """A linear layer; under autocast, in autocast's data type.

    Args:
        linear, like, bias: of :class:`Conv`.
    """

    def __init__(self, linear: Linear, like: Tensor, *, bias: bool = True):
        weight = linear.weight.flatten(1)
        super().__init__(*reversed(weight.shape), bias=bias, device="meta")
        self.weight = constant(weight, like)
        self.bias = constant(linear.bias, like) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        dtype = compute_dtype(self.weight)
        bias = None if self.bias is None else self.bias.to(dtype)
        return onednn.linear(x.to(dtype), self.weight.to(dtype), bias)


def compute_dtype(weight: Tensor) -> torch.dtype:
    """In which a layer of that weight computes: autocast's, or its own."""
    device = weight.device.type
    low = torch.is_autocast_enabled(device) and weight.dtype != torch.float64
    return torch.get_autocast_dtype(device) if low else weight.dtype


def fused_conv(conv: nn.Conv2d, norm: nn.Module | None, activation: str | None) -> nn.Module:
    """Convolution, norm and activation in one; a norm that is no BatchNorm stays a layer."""
    linear, affine = Linear.of(conv), batch_norm_affine(norm)
    geometry = {
        "stride": conv.stride[0],
        "padding": conv.padding[0],
        "groups": conv.groups,
    }
    if affine is not None:
        linear, norm = linear.then_scaled(*affine), None
    has_bias = conv.bias is not None or affine is not None
    if norm is None:
        return Conv(linear, conv.weight, bias=has_bias, activation=activation, **geometry)
    after = {None: nn.Identity, "gelu": nn.GELU, "relu": nn.ReLU}[activation]()
    return nn.Sequential(Conv(linear, conv.weight, bias=has_bias, **geometry), norm, after)
