"""Mean of accuracy and F1, for tables with one number for MRPC or QQP. Undefined where F1 is."""

from collections.abc import Sequence

from lora_bench.metrics.accuracy import accuracy, right_items
from lora_bench.metrics.f1 import f1, weighted_f1
from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Floats, Metric, Weighted


def accuracy_f1_mean(predictions: Sequence[int], references: Sequence[int], classes: int = 2) -> float | None:
    """Return the mean of accuracy and F1, in [0, 1]."""
    other = f1(predictions, references, classes)
    return None if other is None else (accuracy(predictions, references) + other) / 2


def weighted_mean(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """Return the mean as a function of item weights."""
    right = right_items(references=references, predictions=predictions).T
    other = weighted_f1(references=references, predictions=predictions, classes=classes)
    return lambda weights: (weights @ right / weights.sum(axis=1, keepdims=True) + other(weights)) / 2


METRIC = Metric(
    accuracy_f1_mean, kind="classification", takes_classes=True, margin=HALF_A_POINT, weighted=weighted_mean
)
