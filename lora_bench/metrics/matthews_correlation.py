"""Matthews correlation: how far predicted and right classes agree beyond chance.

Always predicting one class gives 0, the convention of scikit-learn and of GLUE's tables. Undefined without examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import evaluate

from lora_bench.metrics.base import info


class MatthewsCorrelation(evaluate.Metric):
    """Agreement beyond chance, in [-1, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return info(__doc__, "int64")

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float | None]:
        from sklearn.metrics import matthews_corrcoef

        value = float(matthews_corrcoef(references, predictions)) if len(references) else None
        return {"matthews_correlation": value}
