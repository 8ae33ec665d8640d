"""Chosen log-likelihood: the mean over pairs of the log probability of the chosen answer, in nats, at most 0.

It may fall while pairs are ranked better, if the rejected answer's falls more. Long answers have less.
"""

from collections.abc import Sequence

from lora_bench.metrics.support.metric_facts import Metric


def chosen_log_likelihood(references: Sequence[int], prediction: Sequence[float]) -> float:
    """Return the log probability of the chosen answer of a pair, in nats."""
    return prediction[0]


METRIC = Metric(kind="preference", points=False, of_item=chosen_log_likelihood)
