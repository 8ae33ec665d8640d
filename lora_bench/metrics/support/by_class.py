"""Scores of each class against all others: their mean, and mean F1 as a function of how often each item was drawn."""

from collections.abc import Callable, Sequence
from typing import Any

from lora_bench.metrics.support.metric_facts import Floats, Weighted


def mean_over_classes(
    score: Callable[[Any, Any], float],
    probabilities: Sequence[Sequence[float]],
    references: Sequence[int],
    classes: int,
) -> float | None:
    """Return the mean score over classes with rows inside and outside, of two the second alone; None without such a class."""
    import numpy as np

    shares, right = np.asarray(probabilities), np.asarray(references)
    are = {label: right == label for label in ([1] if classes == 2 else range(classes))}
    found = [score(one, shares[:, label]) for label, one in are.items() if one.any() and not one.all()]
    return float(np.mean(found)) if found else None


def weighted_mean_f1(references: Floats, predictions: Floats, counted: Sequence[int]) -> Weighted:
    """Return the mean F1 of the *counted* classes that are predicted or right, as a function of item weights.

    *references* has the class of each item, shape (items,), and *predictions* the shape (seeds, items).
    """
    import numpy as np

    return mean_f1(
        [(references == label).astype(np.float64) for label in counted],
        [(predictions == label).astype(np.float64).T for label in counted],
    )


def mean_f1(are: Sequence[Floats], said: Sequence[Floats]) -> Weighted:
    """Return the mean F1 of the classes that are predicted or right, as a function of item weights.

    For each class *are* has 1 if an item has it, shape (items,), and *said* if it is predicted, shape (items, seeds).
    """
    import numpy as np

    def metric(weights: Floats) -> Floats:
        total = np.zeros((len(weights), said[0].shape[1]))
        present = np.zeros_like(total)
        for truth, answer in zip(are, said, strict=True):
            named = weights @ answer + (weights @ truth)[:, None]
            hits = weights @ (answer * truth[:, None])
            total = total + np.divide(2 * hits, named, out=np.zeros_like(named), where=named > 0)
            present = present + (named > 0)
        return np.divide(total, present, out=np.full_like(present, np.nan, dtype=np.float64), where=present > 0)

    return metric
