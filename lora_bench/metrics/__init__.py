"""Metrics that need no network, over scikit-learn, scipy, sacrebleu and others.

`evaluate.load("accuracy")` downloads a script and runs it. These ship with the package, give the same numbers, and have the
form of `evaluate.Metric`. Each module of this folder is one metric: its name is the metric's, `METRIC` its facts. `support`
holds what metrics share. An undefined value, such as the correlation with a constant, is None and never NaN. Reading facts
imports no library of metrics. ``hub:NAME@COMMIT`` reaches any other metric.
"""

from typing import TYPE_CHECKING

from lora_bench.metrics.support.lookup import (
    HUB,
    declared,
    default_margin,
    find,
    higher_is_better,
    kind_of,
    known_metrics,
    unavailable,
    unpinned,
)
from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Metric, MetricKind

if TYPE_CHECKING:
    import evaluate

    from lora_bench.metrics.support.hub_metric import HubMetric

__all__ = [
    "HALF_A_POINT", "HUB", "Metric", "MetricKind", "declared", "default_margin", "find", "higher_is_better", "kind_of",
    "known_metrics", "metric", "unavailable", "unpinned",
]  # fmt: skip


def metric(name: str, allowed: str | None = None) -> "evaluate.Metric | HubMetric":
    """Return a metric, ready for `compute(references=..., predictions=...)`.

    For generation, predictions are texts and references are lists of texts. `compute` raises the reason if the metric is
    unavailable. *allowed* is the hash of the code that may run, for a script; by default any code that the name stands for.
    Raise LoraBenchError if no metric has this name, with the nearest one; or one from the hub cannot be loaded, or is other
    code than what is allowed.
    """
    if declared(name) is None:
        from lora_bench.metrics.support.hub_metric import HubMetric

        return HubMetric(name, allowed)
    from lora_bench.metrics.support.as_evaluate import PackageMetric

    return PackageMetric(name)
