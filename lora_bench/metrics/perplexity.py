"""Perplexity: the exponential of the loss, from 1 without limit. Lower is better.

A model with perplexity 10 is as unsure of a token as if it had to choose among 10.
"""

import math
from collections.abc import Sequence

from lora_bench.metrics.loss import loss, weighted_loss
from lora_bench.metrics.support.metric_facts import Floats, Metric, Weighted


def perplexity(predictions: Sequence[float], references: Sequence[float]) -> float | None:
    """Return the exponential of the loss, from 1 without limit; None without tokens, or if it is too large a number."""
    mean = loss(predictions, references)
    try:
        return math.exp(mean) if mean is not None else None
    except OverflowError:
        return None


def weighted_perplexity(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """Return the perplexity as a function of item weights, with the shapes of `Metric.weighted`."""
    import numpy as np

    mean = weighted_loss(references=references, predictions=predictions)
    return lambda weights: np.exp(mean(weights))


METRIC = Metric(perplexity, kind="likelihood", higher_is_better=False, points=False, weighted=weighted_perplexity)
