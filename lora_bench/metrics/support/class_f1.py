"""F1 of some classes, as a function of how often each item was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_bench.stats.items import Floats, Weighted


def weighted_mean_f1(references: Floats, predictions: Floats, counted: Sequence[int]) -> Weighted:
    """Return the mean F1 of the *counted* classes that are predicted or right, as a function of item weights.

    Args:
        references: Class of each item, shape (items,).
        predictions: Shape (seeds, items).
        counted: Class indexes.
    """
    import numpy as np

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
