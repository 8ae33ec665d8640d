"""The mean of the Pearson and the Spearman correlation, one number where a table gives STS-B both. Undefined where they are."""

from __future__ import annotations

from collections.abc import Sequence

import evaluate

from lora_bench.metrics.base import info
from lora_bench.metrics.pearson import Pearson
from lora_bench.metrics.spearman import Spearman


class PearsonSpearmanMean(evaluate.Metric):
    """The mean of the linear and the rank correlation, in [-1, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return info(__doc__, "float64")

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float | None]:
        pearson = Pearson(keep_in_memory=True)._compute(predictions, references)["pearson"]
        spearman = Spearman(keep_in_memory=True)._compute(predictions, references)["spearman"]
        if pearson is None or spearman is None:
            return {"pearson_spearman_mean": None}
        return {"pearson_spearman_mean": (pearson + spearman) / 2}
