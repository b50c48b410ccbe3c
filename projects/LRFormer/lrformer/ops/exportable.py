"""The form of a model that ``torch.export`` follows at any input size and engines are fast with.

The sizes that LRSA pools to depend on the image's sides by a minimum, a quotient and a rounding.
Here they are computed by tensors in the graph, and maps are pooled by products with matrices that
the graph makes from them. The references are the modules of :mod:`lrformer.layers.lrformer`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ..layers.lrformer import FeedForward, PyramidPool, pooled_shape
from .accelerate import accelerate, restore
from .feed_forward import FastFeedForward, with_identity


class ExportablePyramidPool(PyramidPool):
    """:class:`PyramidPool` without a branch that depends on the map's size."""

    def forward(self, x: Tensor) -> list[Tensor]:
        # The blocks of a stage share their matrices: half of what there is to trace.
        memo, key = _memo(x), (*map(str, x.shape[-2:]), *self.short_sides)
        if key not in memo:
            memo[key] = self._matrices(x)
        (rows, heights), (columns, widths) = memo[key]
        narrow = (x @ columns.T).split(widths, dim=-1)
        return [r @ c for r, c in zip(rows.split(heights), narrow, strict=True)]

    def _matrices(self, x: Tensor) -> list[tuple[Tensor, Sequence[int]]]:
        sides, known = x.shape[-2:], (None, None)
        if all(isinstance(side, int) for side in sides):  # An engine folds the matrices then.
            known = zip(*(pooled_shape(*sides, side) for side in self.short_sides), strict=True)
        lengths = [_scalar(side, x) for side in sides]
        short = torch.minimum(*lengths)
        sizes = torch.tensor(self.short_sides, device=x.device).minimum(short)
        return [
            _pool_matrices(side, length, short, sizes, x, cells)
            for side, length, cells in zip(sides, lengths, known, strict=True)
        ]


class OpenVINOPyramidPool(ExportablePyramidPool):
    """Maps of 16 to 64 channels go with more, of zeros.

    OpenVINO brings a map to the order of planes, which products want, by a kernel of its own for
    that many channels; it takes ten times as long as the one for more.
    """

    def forward(self, x: Tensor) -> list[Tensor]:
        channels = x.shape[1]
        if 16 <= channels <= 64:
            x = F.pad(x, (0, 0, 0, 0, 0, 65 - channels))
        return [pooled[:, :channels] for pooled in super().forward(x)]


class OpenVINOLayerNorm2d(LayerNorm2d):
    """LayerNorm over the channels where they lie.

    timm's moves them last and back; OpenVINO then copies the map twice, and its convolutions want
    it as it was. Statistics are float32's.
    """

    def forward(self, x: Tensor) -> Tensor:
        exact = x.float()
        centred = exact - exact.mean(1, keepdim=True)
        normed = centred * (centred.square().mean(1, keepdim=True) + self.eps).rsqrt()
        return normed.to(x.dtype) * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


class ExportableFeedForward(FastFeedForward):
    """:class:`FeedForward`, of which a quarter of the channels goes all the way through.

    Its hidden maps then stay in the cache. y + DWConv(y) is one convolution; engines fold its
    kernel.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.dwconv is None or not self._is_stock():
            return super().forward(x)
        fc1, dwconv, fc2 = self.fc1, self.dwconv, self.fc2
        kernel, out, bias = with_identity(dwconv.weight), None, fc2.bias
        of_hidden = fc1.weight, fc1.bias, kernel, dwconv.bias, fc2.weight.transpose(0, 1)
        for w1, b1, k, b, w2 in zip(*(p.chunk(4) for p in of_hidden), strict=True):
            hidden = F.conv2d(F.gelu(F.conv2d(x, w1, b1)), k, b, padding=1, groups=len(k))
            part = F.conv2d(hidden, w2.transpose(0, 1), bias)
            out, bias = part if out is None else out + part, None
        return out


class ExportableAdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """Means of a square of cells by matrices; no operator of ONNX pools adaptively."""

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.output_size, int):
            return super().forward(x)
        matrices = []
        for side in x.shape[-2:]:
            start, stop = _cells(side, self.output_size, x)
            position = torch.arange(side, device=x.device)
            inside = (position >= start) & (position < stop)
            matrices.append(inside.to(x.dtype) / (stop - start).to(x.dtype))
        return matrices[0] @ x @ matrices[1].T


class ExportableAdaptiveMaxPool2d(nn.AdaptiveMaxPool2d):
    """Maxima of a square of cells, along the rows and along the columns, as above."""

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.output_size, int):
            return super().forward(x)
        for _ in range(2):
            side = x.shape[-1]
            start, stop = _cells(side, self.output_size, x)
            # As many positions as the longest cell can have; a shorter one repeats its last.
            position = start + torch.arange(side // self.output_size + 2, device=x.device)
            index = position.minimum(stop - 1)
            cells = x.index_select(-1, index.flatten()).unflatten(-1, index.shape)
            x = cells.amax(-1).transpose(-2, -1)
        return x


_FORMS = {
    nn.AdaptiveAvgPool2d: ExportableAdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d: ExportableAdaptiveMaxPool2d,
    FeedForward: ExportableFeedForward,
    PyramidPool: ExportablePyramidPool,
}
_ENGINES = {
    "openvino": {PyramidPool: OpenVINOPyramidPool, LayerNorm2d: OpenVINOLayerNorm2d},
}


def exportable(model: nn.Module, engine: str | None = None) -> nn.Module:
    """Let the modules of ``model`` that have an exportable form take it, in place; returns it.

    Fast forms (:func:`lrformer.ops.accelerate`) are taken out, but for that of the head, which any
    engine takes; subclasses stay as they are.

    Args:
        model: to be recorded by ``torch.export``.
        engine: "openvino": forms that it is fast with; else those that suit the others.
    """
    forms = _FORMS | _ENGINES.get(engine, {})
    for module in accelerate(restore(model), "LRHead").modules():
        module.__class__ = forms.get(type(module), type(module))
    return model


def pad_to_multiple(x: Tensor, divisor: int) -> Tensor:
    """Zeros at the right and bottom of NxCxHxW up to multiples of ``divisor``; no branches."""
    for dim in (2, 3):
        length = _scalar(x.shape[dim], x)
        multiple = divisor * _size((length + divisor - 1) // divisor)
        torch._check(multiple >= x.shape[dim])
        # Chosen by index: padding by an amount that may be 0 would be a branch.
        position = torch.arange(multiple, device=x.device)
        x = x.index_select(dim, position.minimum(length - 1))
        x = x * (position < length).to(x.dtype).view(-1, *[1] * (3 - dim))
    return x


def _memo(x: Tensor) -> dict:
    """What was made for other maps while the same graph is recorded; {} if no size is symbolic."""
    symbolic = [side for side in x.shape if not isinstance(side, int)]
    # With the trace's own record of symbols, so that they end together.
    return vars(symbolic[0].node.shape_env).setdefault("lrformer_pools", {}) if symbolic else {}


def _pool_matrices(
    side: int,
    length: Tensor,
    short: Tensor,
    sizes: Tensor,
    like: Tensor,
    cells: Sequence[int] | None,
) -> tuple[Tensor, Sequence[int]]:
    """Weights of the pooled rows of all sizes, one size after the other, and how many each has.

    Args:
        side, length: of the map, as a size and as a tensor.
        short: the map's short side.
        sizes: short sides of the pools.
        like: gives data type and device.
        cells: how many each has, where that is known.
    """
    # As pooled_shape; for the short side itself this is the size.
    pooled = (1000 * length * sizes + 501 * short) // (1000 * short)
    cells = list(cells or (_size(n) for n in pooled.unbind()))
    cell = torch.cat([torch.arange(n, device=like.device) for n in cells])
    count = torch.cat([p.expand(n) for p, n in zip(pooled.unbind(), cells, strict=True)])
    start = cell * length // count
    stop = ((cell + 1) * length + count - 1) // count
    position = torch.arange(side, device=like.device)
    inside = (position >= start[:, None]) & (position < stop[:, None])
    return inside.to(like.dtype) / (stop - start).to(like.dtype)[:, None], cells


def _cells(side: int, count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """First and last-but-one position of ``count`` adaptive pools of a side, ``count`` x 1."""
    length, cell = _scalar(side, like), torch.arange(count, device=like.device)[:, None]
    return cell * length // count, ((cell + 1) * length + count - 1) // count


def _scalar(side: int, like: Tensor) -> Tensor:
    return torch.full((), side, dtype=torch.int64, device=like.device)


def _size(value: Tensor) -> int:
    """As a size that export knows nothing about but that it is one, so that it adds no guards."""
    size = value.item()
    torch._check(size >= 1)
    return size
