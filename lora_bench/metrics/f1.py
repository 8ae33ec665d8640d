"""F1: the harmonic mean of precision and recall, in [0, 1].

With two classes, of the second, as in GLUE. With more, the unweighted mean over classes that are predicted or right
anywhere. Undefined if none is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Metric

if TYPE_CHECKING:
    from lora_bench.stats.items import Floats, Weighted


def f1(predictions: Sequence[int], references: Sequence[int], classes: int = 2) -> float | None:
    """Return the harmonic mean of precision and recall, in [0, 1]; None if it is undefined."""
    from sklearn.metrics import f1_score

    counted = [1] if classes == 2 else list(range(classes))
    present = set(references) | set(predictions)
    if not present.intersection(counted):
        return None
    return float(f1_score(references, predictions, labels=counted, average="macro", zero_division=math.nan))


def weighted_f1(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """Return F1 as a function of item weights.

    Args:
        references: Class of each item, shape (items,).
        predictions: Shape (seeds, items).
        classes: At least 2.
    """
    import numpy as np

    counted = [1] if classes == 2 else list(range(classes))
    are = [(references == label).astype(np.float64) for label in counted]
    said = [(predictions == label).astype(np.float64).T for label in counted]

    def metric(weights: Floats) -> Floats:
        total, present = 0.0, 0.0
        for truth, answer in zip(are, said, strict=True):
            named = weights @ answer + (weights @ truth)[:, None]
            hits = weights @ (answer * truth[:, None])
            total = total + np.divide(2 * hits, named, out=np.zeros_like(named), where=named > 0)
            present = present + (named > 0)
        return np.divide(total, present, out=np.full_like(present, np.nan, dtype=np.float64), where=present > 0)

    return metric


METRIC = Metric(f1, kind="classification", takes_classes=True, margin=HALF_A_POINT, weighted=weighted_f1)
