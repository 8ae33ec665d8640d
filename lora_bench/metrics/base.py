"""What `evaluate` wants to know about a metric, and what the metrics of texts share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import datasets
import evaluate

from lora_bench.errors import LoraBenchError
from lora_bench.metrics import unavailable


def info(description: str | None, values: Literal["int64", "float64"]) -> evaluate.MetricInfo:
    """The description of a metric whose predictions and references are class indexes, or numbers."""
    features = {"predictions": datasets.Value(values), "references": datasets.Value(values)}
    return evaluate.MetricInfo(
        description=description or "",
        citation="",
        inputs_description="predictions, references: " + ("class indexes" if values == "int64" else "numbers"),
        features=datasets.Features(features),
    )


class TextMetric(evaluate.Metric):
    """A metric of generated texts, each held against one or more references."""

    key: ClassVar[str]

    def value(self, predictions: list[str], references: list[list[str]]) -> float | None:
        """The metric of at least one prediction, each with at least one reference; None where it is undefined."""
        raise NotImplementedError

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            inputs_description="predictions: texts; references: for each prediction a list of one or more texts",
            features=datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float | None]:
        reason = unavailable(self.key)
        if reason is not None:
            raise LoraBenchError(reason)
        texts = [list(each) for each in references]
        if not texts:
            return {self.key: None}
        without = next((index for index, each in enumerate(texts) if not each), None)
        if without is not None:
            raise LoraBenchError(
                f"metric {self.key!r} needs a reference for every prediction; number {without + 1} has none"
            )
        value = self.value(list(predictions), texts)
        return {self.key: value if value is not None and math.isfinite(value) else None}


def columns(references: list[list[str]]) -> list[list[str | None]]:
    """References as sacrebleu takes them: the first of every prediction, the second, and so on; None where one is missing."""
    most = max(map(len, references))
    return [[each[index] if index < len(each) else None for each in references] for index in range(most)]


def mean_rouge(kind: str, predictions: list[str], references: list[list[str]]) -> float:
    """The mean F-score of one of rouge-score's kinds, each prediction against the reference that gives the greatest."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], use_stemmer=True)
    pairs = zip(predictions, references, strict=True)
    return math.fsum(scorer.score_multi(each, text)[kind].fmeasure for text, each in pairs) / len(predictions)
