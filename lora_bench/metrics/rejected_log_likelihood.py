"""Rejected log-likelihood: the mean over pairs of the log probability of the rejected answer, in nats. Lower is better."""

from collections.abc import Sequence

from lora_bench.metrics.support.metric_facts import Metric


def rejected_log_likelihood(references: Sequence[int], prediction: Sequence[float]) -> float:
    """Return the log probability of the rejected answer of a pair, in nats."""
    return prediction[1]


METRIC = Metric(kind="preference", higher_is_better=False, points=False, of_item=rejected_log_likelihood)
