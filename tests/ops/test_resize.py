import pytest
import torch
import torch.nn.functional as F

from lrformer.layers.loss import UpsampledCrossEntropy
from lrformer.ops import resize
from lrformer.ops.cross_entropy import FastUpsampledCrossEntropy
from lrformer.ops.resize import resized_bands


@pytest.mark.parametrize(
    "steps",
    [
        [((64, 96), (64, 96))],
        [((64, 96), (50, 90))],  # padding cut off
        [((64, 96), (50, 90)), ((75, 131), (75, 131))],  # and enlarged to the image
        [((64, 96), (64, 90)), ((17, 23), (17, 23))],  # or reduced
        [((61, 97), (61, 97))],  # not a multiple of the map's size
        [((16, 24), (16, 24))],
    ],
)
def test_bands_are_the_rows_of_the_whole_map(monkeypatch, steps):
    monkeypatch.setitem(resize._BAND_VALUES, "cpu", 1000)
    torch.manual_seed(0)
    maps = torch.randn(7, 16, 24)
    expected = maps
    for size, crop in steps:
        expected = F.interpolate(expected[None], size, mode="bilinear", align_corners=False)[0]
        expected = expected[:, : crop[0], : crop[1]]
    bands = list(resized_bands(maps, steps))
    assert len(bands) > 1
    found = torch.cat([x for _, x in bands]).transpose(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    rows = [y for band, _ in bands for y in range(band.start, band.stop)]
    assert rows == [*range(expected.shape[1])]


@pytest.mark.parametrize("values", [7 * 11 * 64, 1 << 22])
@pytest.mark.parametrize("loss", [UpsampledCrossEntropy, FastUpsampledCrossEntropy])
@pytest.mark.parametrize("weights", [(), (1, 0.5, 2, 0, 1, 3, 1)])
def test_loss_is_that_of_the_upsampled_logits(monkeypatch, values, loss, weights):
    monkeypatch.setitem(resize._BAND_VALUES, "cpu", values)
    torch.manual_seed(0)
    logits = torch.randn(2, 7, 9, 11, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 7, (2, 72, 88))
    labels[:, :20] = 255
    found = loss(255, weights).double()(logits, labels)
    large = F.interpolate(logits, scale_factor=8, mode="bilinear", align_corners=False)
    weights = torch.tensor(weights, dtype=torch.float64) if weights else None
    expected = F.cross_entropy(large, labels, weights, ignore_index=255)
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(3 * x, logits)[0] for x in (found, expected)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-10)


def test_labels_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"labels are \(1, 8, 9\)"):
        UpsampledCrossEntropy()(torch.zeros(1, 3, 2, 2), torch.zeros(1, 8, 9, dtype=torch.long))
