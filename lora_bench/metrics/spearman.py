"""Spearman correlation: how far predictions and references agree in their order; ties take their mean rank.

Undefined where either is constant, where there are fewer than two examples, or where a prediction is no number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_bench.metrics.support.declaration import HALF_A_POINT, Metric

if TYPE_CHECKING:
    from lora_bench.stats.items import Floats, Weighted


def spearman(predictions: Sequence[float], references: Sequence[float]) -> float | None:
    """Rank correlation, in [-1, 1]."""
    from scipy.stats import spearmanr

    if len(set(predictions)) < 2 or len(set(references)) < 2 or not all(map(math.isfinite, predictions)):
        return None
    return float(spearmanr(references, predictions)[0])


def weighted_spearman(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """Spearman's correlation as a function of item weights, ties at their mean rank; NaN where either is constant.

    In the resampled data a value that stands w times, with c items below it, has the mean rank c + (w + 1) / 2.

    Args:
        references: Shape (items,).
        predictions: Shape (seeds, items).
        classes: Not needed.
    """
    import numpy as np

    from lora_bench.metrics.support.items import correlation

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
    """From weights (draws, items) to the mean rank of each item's value, shape (draws, items)."""
    import numpy as np

    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])

    def ranks(weights: Floats) -> Floats:
        of_group = np.add.reduceat(weights[:, order], starts, axis=1)
        return np.asarray((np.cumsum(of_group, axis=1) - of_group / 2 + 0.5)[:, group])

    return ranks


METRIC = Metric(spearman, kind="regression", margin=HALF_A_POINT, weighted=weighted_spearman)
