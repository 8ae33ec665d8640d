"""Accuracy: the share of right predictions, in [0, 1]. Undefined without examples."""

from collections.abc import Sequence

from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Floats, Metric


def accuracy(predictions: Sequence[int], references: Sequence[int]) -> float:
    """Return the share of right predictions, in [0, 1]."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(references, predictions))


def right_items(*, references: Floats, predictions: Floats) -> Floats:
    """Return 1 for each right prediction and 0 for the others, from shapes (items,) and (seeds, items)."""
    import numpy as np

    return np.asarray(predictions == references, dtype=np.float64)


METRIC = Metric(accuracy, kind="classification", margin=HALF_A_POINT, item_scores=right_items)
