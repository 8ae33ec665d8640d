"""F1: the harmonic mean of precision and recall, in [0, 1].

With two classes, of the second, as in GLUE. With more, the unweighted mean over classes that are predicted or right
anywhere. Undefined if none is.
"""

import math
from collections.abc import Sequence

from lora_bench.metrics.support.by_class import weighted_mean_f1
from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Floats, Metric, Weighted


def f1(predictions: Sequence[int], references: Sequence[int], classes: int = 2) -> float | None:
    """Return the harmonic mean of precision and recall, in [0, 1]; None if it is undefined."""
    from sklearn.metrics import f1_score

    counted = [1] if classes == 2 else list(range(classes))
    present = set(references) | set(predictions)
    if not present.intersection(counted):
        return None
    return float(f1_score(references, predictions, labels=counted, average="macro", zero_division=math.nan))


def weighted_f1(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """Return F1 as a function of item weights, with the shapes of `Metric.weighted`."""
    return weighted_mean_f1(references, predictions, [1] if classes == 2 else range(classes))


METRIC = Metric(f1, kind="classification", takes_classes=True, margin=HALF_A_POINT, weighted=weighted_f1)
