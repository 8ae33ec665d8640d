"""A metric of the package in the form of `evaluate`."""

import math
import sys
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from lora_bench.errors import LoraBenchError
from lora_bench.metrics.support.label_arrays import label_arrays
from lora_bench.metrics.support.lookup import declared, unavailable
from lora_bench.metrics.support.metric_facts import Metric

_TEXTS, _INDEXES = ("generation", "tokens", "spans"), ("classification", "multilabel")
_INPUTS = {
    "classification": "predictions, references: class indexes",
    "probabilities": "predictions: lists of the probabilities of all classes; references: class indexes",
    "regression": "predictions, references: numbers",
    "generation": "predictions: texts; references: for each prediction a list of one or more texts",
    "tokens": "predictions, references: for each sentence a list of the labels of its words",
    "multilabel": "predictions, references: lists of label indexes",
    "likelihood": "predictions: sums of the losses of a text's tokens, in nats; references: numbers of these tokens",
    "preference": "predictions: log-likelihoods of chosen and rejected answer, and both at the start; references: lists with 0",
    "spans": 'predictions: texts; references: for each prediction a list of one or more texts, [""] without an answer',
}


class PackageMetric(evaluate.Metric):
    """A metric by its name. An undefined value, as without predictions, is None and never NaN."""

    def __init__(self, called: str) -> None:
        found = declared(called)
        assert found is not None, f"{called} is not a metric of the package"
        self.called, self.declared = called, found
        # In memory: evaluate otherwise writes every prediction to a file in the user's cache, and locks it.
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        kind = self.declared.kind
        value = datasets.Value("string" if kind in _TEXTS else "int64" if kind in _INDEXES else "float64")
        listed = datasets.Sequence(value)
        predictions = listed if kind in ("probabilities", "tokens", "multilabel", "preference") else value
        references = listed if kind in ("generation", "tokens", "multilabel", "spans", "preference") else value
        if kind == "probabilities":
            references = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=sys.modules[f"lora_bench.metrics.{self.called}"].__doc__ or "",
            citation="",
            inputs_description=_INPUTS[kind],
            features=datasets.Features({"predictions": predictions, "references": references}),
        )

    def _compute(
        self, predictions: Sequence[Any], references: Sequence[Any], **options: Any
    ) -> dict[str, float | None]:
        if (reason := unavailable(self.called)) is not None:
            raise LoraBenchError(reason)
        right = list(references)
        if self.declared.kind in ("generation", "spans"):
            right = [list(texts) for texts in right]
            without = next((number for number, texts in enumerate(right, 1) if not texts), None)
            if without is not None:
                raise LoraBenchError(
                    f"metric {self.called!r} needs a reference for every prediction; number {without} has none"
                )
        value = value_of(self.declared, list(predictions), right, **options) if right else None
        return {self.called: value if value is not None and math.isfinite(value) else None}


def value_of(metric: Metric, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> float | None:
    """Return a metric's value of at least one prediction and reference each; None or NaN if it is undefined."""
    if metric.value is not None:
        return metric.value(predictions, references, **options)
    pairs = zip(references, predictions, strict=True)
    if metric.of_item is not None:
        return sum(metric.of_item(*pair) for pair in pairs) / len(references)
    if metric.item_parts is not None:
        above, below = (sum(parts) for parts in zip(*(metric.item_parts(*pair) for pair in pairs), strict=True))
        return above / below if below else 0.0
    assert metric.weighted is not None
    right, given = label_arrays(references, [predictions])
    return float(metric.weighted(references=right, predictions=given)(np.ones((1, len(right))))[0, 0])
