"""How sure the scores are, and how sure the model: bootstrap intervals and calibration."""

import warnings

import numpy as np

from lrformer.evaluation.sem_seg import scores_of, summary_of

RESAMPLES = 1000


def resampled(images: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Scores of datasets of as many images, drawn from these with replacement (the bootstrap).

    Args:
        images: N×3×K numbers of pixels of each image, see
            :func:`~lrformer.evaluation.sem_seg.scores_of`.
        seed: the same one draws the same images of N.

    Returns:
        "mIoU", "fwIoU", "mACC" and "pACC", RESAMPLES values each, and "IoU", RESAMPLES×K; percent.
    """
    draws = np.random.default_rng(seed).multinomial(
        len(images), np.full(len(images), 1 / len(images)), size=RESAMPLES
    )
    pixels = np.tensordot(draws, images, 1)
    rows = [summary_of(x) for x in pixels]
    scores = {metric: np.array([row[metric] for row in rows]) for metric in rows[0]}
    return scores | {"IoU": scores_of(np.moveaxis(pixels, 1, 0))["IoU"]}


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of resampled scores, by their percentiles: low, high; NaN if none is known.

    Args:
        values: RESAMPLES×….
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of columns that are all NaN
        low, high = np.nanpercentile(values, (2.5, 97.5), axis=0)
    return low, high


def calibration(bins: np.ndarray) -> dict:
    """Expected calibration error (Guo et al., ICML 2017) and the points of a reliability diagram.

    Args:
        bins: 3×B numbers of pixels, of correct ones, and sums of confidences; some have pixels.

    Returns:
        "ECE" in percent; "bins", the "pixels", "confidence" and "accuracy" of
        those that are not empty, the latter two from 0 to 1.
    """
    pixels, correct, confidence = bins[:, bins[0] > 0]
    error = np.abs(correct - confidence).sum() / pixels.sum()
    rows = zip(pixels, confidence / pixels, correct / pixels, strict=True)
    keys = ("pixels", "confidence", "accuracy")
    return {"ECE": 100 * float(error), "bins": [dict(zip(keys, row, strict=True)) for row in rows]}
