"""The mean of accuracy and F1, one number where a table gives MRPC or QQP both. Undefined where F1 is."""

from __future__ import annotations

from collections.abc import Sequence

import evaluate

from lora_bench.metrics.accuracy import Accuracy
from lora_bench.metrics.base import info
from lora_bench.metrics.f1 import F1


class AccuracyF1Mean(evaluate.Metric):
    """The mean of accuracy and F1, in [0, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return info(__doc__, "int64")

    def _compute(
        self, predictions: Sequence[int], references: Sequence[int], classes: int = 2
    ) -> dict[str, float | None]:
        accuracy = Accuracy(keep_in_memory=True)._compute(predictions, references)["accuracy"]
        f1 = F1(keep_in_memory=True)._compute(predictions, references, classes)["f1"]
        if accuracy is None or f1 is None:
            return {"accuracy_f1_mean": None}
        return {"accuracy_f1_mean": (accuracy + f1) / 2}
