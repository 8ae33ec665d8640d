"""Pearson correlation: linear correlation of predictions and references, in [-1, 1].

Undefined if either is constant, with fewer than two examples, or if a prediction is not finite.
"""

import math
from collections.abc import Sequence

from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Floats, Metric, Weighted


def pearson(predictions: Sequence[float], references: Sequence[float]) -> float | None:
    """Return the linear correlation, in [-1, 1]; None if it is undefined."""
    from scipy.stats import pearsonr

    if len(set(predictions)) < 2 or len(set(references)) < 2 or not all(map(math.isfinite, predictions)):
        return None
    return float(pearsonr(references, predictions)[0])


def weighted_pearson(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """Return Pearson's correlation as a function of item weights, shaped as in `Metric.weighted`; NaN if either is constant."""
    from lora_bench.metrics.support.item_weights import correlation

    # Centred, so that squares do not drown the differences of numbers far from zero.
    x, y = references - references.mean(), (predictions - predictions.mean(axis=1, keepdims=True)).T

    def metric(weights: Floats) -> Floats:
        n = weights.sum(axis=1, keepdims=True)
        mean_x, mean_y = (weights @ x)[:, None] / n, weights @ y / n
        variance_x = (weights @ x**2)[:, None] / n - mean_x**2
        variance_y = weights @ y**2 / n - mean_y**2
        return correlation(
            weights @ (x[:, None] * y) / n - mean_x * mean_y, variance_x, variance_y, (x**2).mean(), (y**2).mean(axis=0)
        )

    return metric


METRIC = Metric(pearson, kind="regression", margin=HALF_A_POINT, constant=0.0, weighted=weighted_pearson)
