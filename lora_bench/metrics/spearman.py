"""Spearman correlation: how far predictions and references agree in their order; ties take their mean rank.

Undefined where either is constant, where there are fewer than two examples, or where a prediction is no number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import evaluate

from lora_bench.metrics.base import info


class Spearman(evaluate.Metric):
    """Rank correlation, in [-1, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return info(__doc__, "float64")

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float | None]:
        from scipy.stats import spearmanr

        if len(set(predictions)) < 2 or len(set(references)) < 2 or not all(map(math.isfinite, predictions)):
            return {"spearman": None}
        value = float(spearmanr(references, predictions)[0])
        return {"spearman": value if math.isfinite(value) else None}
