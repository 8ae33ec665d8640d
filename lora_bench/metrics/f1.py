"""F1: the harmonic mean of precision and recall.

With two classes it is the F1 of the second one, as in GLUE; with more, the mean over the classes, each counting
alike, and a class that is neither predicted nor right anywhere is left out. Undefined where that leaves no class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import evaluate

from lora_bench.metrics.base import info


class F1(evaluate.Metric):
    """The harmonic mean of precision and recall, in [0, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return info(__doc__, "int64")

    def _compute(
        self, predictions: Sequence[int], references: Sequence[int], classes: int = 2
    ) -> dict[str, float | None]:
        from sklearn.metrics import f1_score

        if not len(references):
            return {"f1": None}
        counted = [1] if classes == 2 else list(range(classes))
        present = set(references) | set(predictions)
        if not present.intersection(counted):
            return {"f1": None}
        value = float(f1_score(references, predictions, labels=counted, average="macro", zero_division=math.nan))
        return {"f1": value if math.isfinite(value) else None}
