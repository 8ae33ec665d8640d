"""Spearman correlation: rank correlation of predictions and references, in [-1, 1]. Undefined where `pearson` is.

Ties get their mean rank.
"""

import math
from collections.abc import Sequence

from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Floats, Metric, Weighted


def spearman(predictions: Sequence[float], references: Sequence[float]) -> float | None:
    """Return the rank correlation, in [-1, 1]; None if it is undefined."""
    from scipy.stats import spearmanr

    if len(set(predictions)) < 2 or len(set(references)) < 2 or not all(map(math.isfinite, predictions)):
        return None
    return float(spearmanr(references, predictions)[0])


def weighted_spearman(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """Return Spearman's correlation as a function of item weights; NaN if either is constant. Ties get their mean rank.

    In the resampled data a value that occurs w times, with c items below it, has the mean rank c + (w + 1) / 2. Shapes are
    those of `Metric.weighted`.
    """
    import numpy as np

    from lora_bench.metrics.support.item_weights import correlation

    columns = [_ranker(row) for row in predictions]
    truth = _ranker(references)

    def metric(weights: Floats) -> Floats:
        n = weights.sum(axis=1)
        middle = (n[:, None] + 1) / 2
        x = truth(weights) - middle
        weighted = weights * x
        variance_x = (weighted * x).sum(axis=1) / n
        found = np.empty((len(weights), len(columns)))
        for index, ranks in enumerate(columns):
            y = ranks(weights) - middle
            variance_y = (weights * y * y).sum(axis=1) / n
            found[:, index] = correlation((weighted * y).sum(axis=1) / n, variance_x, variance_y, 1.0, 1.0)
        return found

    return metric


def _ranker(values: Floats) -> Weighted:
    """Return a function from weights (draws, items) to the mean rank of each item's value, shape (draws, items)."""
    import numpy as np

    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])

    def ranks(weights: Floats) -> Floats:
        of_group = np.add.reduceat(weights[:, order], starts, axis=1)
        return np.asarray((np.cumsum(of_group, axis=1) - of_group / 2 + 0.5)[:, group])

    return ranks


METRIC = Metric(spearman, kind="regression", margin=HALF_A_POINT, constant=0.0, weighted=weighted_spearman)
