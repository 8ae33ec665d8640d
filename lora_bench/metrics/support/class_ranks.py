"""Scores of how the probabilities of a class rank rows, for each class against all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


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
