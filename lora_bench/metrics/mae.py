"""MAE: the mean absolute error, from 0 without limit, in the unit of the label. Lower is better.

Undefined without examples, or if a prediction is not finite.
"""

import math
from collections.abc import Sequence

from lora_bench.metrics.support.metric_facts import Floats, Metric


def mae(predictions: Sequence[float], references: Sequence[float]) -> float | None:
    """Return the mean absolute error, from 0 without limit; None if it is undefined."""
    from sklearn.metrics import mean_absolute_error

    if not all(map(math.isfinite, predictions)):
        return None
    return float(mean_absolute_error(references, predictions))


def absolute_errors(*, references: Floats, predictions: Floats) -> Floats:
    """Return the absolute error of each item, from shapes (items,) and (seeds, items)."""
    import numpy as np

    return np.abs(predictions - references)


METRIC = Metric(mae, kind="regression", higher_is_better=False, points=False, item_scores=absolute_errors)
