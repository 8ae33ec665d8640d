"""Macro F1: the unweighted mean of F1 over the classes that are predicted or right anywhere, in [0, 1].

Small classes count as much as large ones. With more than two classes the same as `f1`. Undefined without examples.
"""

from collections.abc import Sequence

from lora_bench.metrics.support.by_class import weighted_mean_f1
from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Floats, Metric, Weighted


def macro_f1(predictions: Sequence[int], references: Sequence[int]) -> float:
    """Return the mean F1 of the classes, in [0, 1]."""
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, average="macro"))


def weighted_macro_f1(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """Return macro F1 as a function of item weights, with the shapes of `Metric.weighted`."""
    return weighted_mean_f1(references, predictions, range(classes))


METRIC = Metric(macro_f1, kind="classification", margin=HALF_A_POINT, weighted=weighted_macro_f1)
