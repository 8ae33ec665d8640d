"""What `evaluate` wants to know about a metric."""

from __future__ import annotations

from typing import Literal

import datasets
import evaluate


def info(description: str | None, values: Literal["int64", "float64"]) -> evaluate.MetricInfo:
    """The description of a metric whose predictions and references are class indexes, or numbers."""
    features = {"predictions": datasets.Value(values), "references": datasets.Value(values)}
    return evaluate.MetricInfo(
        description=description or "",
        citation="",
        inputs_description="predictions, references: " + ("class indexes" if values == "int64" else "numbers"),
        features=datasets.Features(features),
    )
