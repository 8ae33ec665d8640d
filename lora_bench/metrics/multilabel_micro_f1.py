"""Micro F1 of several labels a text: F1 of all pairs of a text and a label, in [0, 1].

Frequent labels count more than rare ones. Undefined if no text has a label and none is predicted.
"""

from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Floats, Metric, Weighted


def weighted_micro_f1(*, references: Floats, predictions: Floats) -> Weighted:
    """Return micro F1, in [0, 1] or NaN, as a function of item weights, with the shapes of `Metric.weighted`."""
    import numpy as np

    hits = (predictions * references).sum(axis=-1).T
    named = (predictions.sum(axis=-1) + references.sum(axis=-1)).T

    def metric(weights: Floats) -> Floats:
        of_all = weights @ named
        found: Floats = np.divide(2 * (weights @ hits), of_all, out=np.full_like(of_all, np.nan), where=of_all > 0)
        return found

    return metric


METRIC = Metric(kind="multilabel", margin=HALF_A_POINT, weighted=weighted_micro_f1)
