"""Mean of Pearson and Spearman correlation, for tables with one number for STS-B. Undefined where they are."""

from collections.abc import Sequence

from lora_bench.metrics.pearson import pearson, weighted_pearson
from lora_bench.metrics.spearman import spearman, weighted_spearman
from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Floats, Metric, Weighted


def pearson_spearman_mean(predictions: Sequence[float], references: Sequence[float]) -> float | None:
    """Return the mean of linear and rank correlation, in [-1, 1]; None if either is undefined."""
    linear, ranks = pearson(predictions, references), spearman(predictions, references)
    return None if linear is None or ranks is None else (linear + ranks) / 2


def weighted_mean(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """Return the mean as a function of item weights."""
    linear = weighted_pearson(references=references, predictions=predictions)
    ranks = weighted_spearman(references=references, predictions=predictions)
    return lambda weights: (linear(weights) + ranks(weights)) / 2


METRIC = Metric(pearson_spearman_mean, kind="regression", margin=HALF_A_POINT, constant=0.0, weighted=weighted_mean)
