"""A metric of the package in the form of `evaluate`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from lora_bench.errors import LoraBenchError
from lora_bench.metrics.support.lookup import declared, unavailable

_VALUES = {
    "classification": "int64",
    "probabilities": "float64",
    "regression": "float64",
    "generation": "string",
    "tokens": "string",
    "multilabel": "int64",
    "likelihood": "float64",
    "spans": "string",
}
_INPUTS = {
    "classification": "predictions, references: class indexes",
    "probabilities": "predictions: lists of the probabilities of all classes; references: class indexes",
    "regression": "predictions, references: numbers",
    "generation": "predictions: texts; references: for each prediction a list of one or more texts",
    "tokens": "predictions, references: for each sentence a list of the labels of its words",
    "multilabel": "predictions, references: lists of label indexes",
    "likelihood": "predictions: sums of the losses of a text's tokens, in nats; references: numbers of these tokens",
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
        value = datasets.Value(_VALUES[kind])
        listed = datasets.Sequence(value)
        predictions = listed if kind in ("probabilities", "tokens", "multilabel") else value
        references = listed if kind in ("generation", "tokens", "multilabel", "spans") else value
        if kind == "probabilities":
            references = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=self.declared.value.__doc__ or "",
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
        value = self.declared.value(list(predictions), right, **options) if right else None
        return {self.called: value if value is not None and math.isfinite(value) else None}
