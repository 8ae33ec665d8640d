"""RMSE: the root of the mean squared error, from 0 without limit, in the unit of the label. Lower is better.

Large errors count more than in `mae`. Undefined without examples, or if a prediction is not finite.
"""

import math
from collections.abc import Sequence

from lora_bench.metrics.support.metric_facts import Floats, Metric, Weighted


def rmse(predictions: Sequence[float], references: Sequence[float]) -> float | None:
    """Return the root of the mean squared error, from 0 without limit; None if it is undefined."""
    from sklearn.metrics import root_mean_squared_error

    if not all(map(math.isfinite, predictions)):
        return None
    return float(root_mean_squared_error(references, predictions))


def weighted_rmse(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """Return RMSE as a function of item weights, with the shapes of `Metric.weighted`."""
    import numpy as np

    squares = ((predictions - references) ** 2).T
    return lambda weights: np.sqrt(weights @ squares / weights.sum(axis=1, keepdims=True))


METRIC = Metric(rmse, kind="regression", higher_is_better=False, points=False, weighted=weighted_rmse)
