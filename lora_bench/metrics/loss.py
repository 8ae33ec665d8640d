"""Loss: the mean negative log probability of a token of the right texts, in nats, from 0 without limit. Lower is better.

It is over all tokens of all texts, so long texts count more. The end of a text is one of its tokens. Models with different
tokenizers have different tokens: compare their losses with care.
"""

import math
from collections.abc import Sequence

from lora_bench.metrics.support.metric_facts import Floats, Metric, Weighted


def loss(predictions: Sequence[float], references: Sequence[float]) -> float | None:
    """Return the mean negative log probability of a token, from 0 without limit; None without tokens."""
    tokens = math.fsum(references)
    return math.fsum(predictions) / tokens if tokens else None


def weighted_loss(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """Return the loss as a function of item weights, with the shapes of `Metric.weighted`."""
    return lambda weights: weights @ predictions.T / (weights @ references)[:, None]


METRIC = Metric(loss, kind="likelihood", higher_is_better=False, points=False, weighted=weighted_loss)
