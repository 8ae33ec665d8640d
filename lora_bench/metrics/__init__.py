"""Metrics that need no network: `evaluate.Metric` classes over scikit-learn and scipy.

`evaluate.load("accuracy")` fetches a script from a hub and runs it; these come with the package and give the same
numbers. One file a metric, named like it. A value that is undefined, such as the correlation with a constant, is None
and never NaN. Asking which metrics there are imports nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Literal

from lora_bench.errors import unknown

if TYPE_CHECKING:
    import evaluate

Kind = Literal["classification", "regression"]

# metric -> kind of task, and its class in the module of the same name
_METRICS: dict[str, tuple[Kind, str]] = {
    "accuracy": ("classification", "Accuracy"),
    "f1": ("classification", "F1"),
    "matthews_correlation": ("classification", "MatthewsCorrelation"),
    "pearson": ("regression", "Pearson"),
    "spearman": ("regression", "Spearman"),
}


def known_metrics() -> dict[str, Kind]:
    """Every metric by name, with the kind of task it scores."""
    return {name: kind for name, (kind, _) in _METRICS.items()}


def metric(name: str) -> evaluate.Metric:
    """A metric by name, ready for `compute(references=..., predictions=...)`.

    Raises:
        LoraBenchError: If there is none, with the nearest name.
    """
    if name not in _METRICS:
        raise unknown("metric", name, _METRICS)
    module = importlib.import_module(f"{__name__}.{name}")
    # In memory: evaluate otherwise writes every prediction to a file in the user's cache, and locks it.
    return getattr(module, _METRICS[name][1])(keep_in_memory=True)
