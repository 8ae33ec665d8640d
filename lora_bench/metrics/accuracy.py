"""Accuracy: the share of predictions that are the right class. Undefined without examples."""

from __future__ import annotations

from collections.abc import Sequence

import evaluate

from lora_bench.metrics.base import info


class Accuracy(evaluate.Metric):
    """The share of right predictions, in [0, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return info(__doc__, "int64")

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float | None]:
        from sklearn.metrics import accuracy_score

        return {"accuracy": float(accuracy_score(references, predictions)) if len(references) else None}
