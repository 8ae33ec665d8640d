"""Micro F1 of several labels a text: F1 of all pairs of a text and a label, in [0, 1].

Frequent labels count more than rare ones. Undefined if no text has a label and none is predicted.
"""

from __future__ import annotations

from lora_bench.metrics.support.label_arrays import LabelSets, label_arrays
from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Floats, Metric, Weighted


def multilabel_micro_f1(predictions: LabelSets, references: LabelSets) -> float:
    """Return F1 of all pairs of a text and a label, in [0, 1]; NaN if there is none."""
    import numpy as np

    right, given = label_arrays(references, [predictions])
    return float(weighted_micro_f1(references=right, predictions=given)(np.ones((1, len(right))))[0, 0])


def weighted_micro_f1(*, references: Floats, predictions: Floats) -> Weighted:
    """Return micro F1 as a function of item weights, with the shapes of `Metric.weighted`."""
    import numpy as np

    hits = (predictions * references).sum(axis=-1).T
    named = (predictions.sum(axis=-1) + references.sum(axis=-1)).T

    def metric(weights: Floats) -> Floats:
        of_all = weights @ named
        found: Floats = np.divide(2 * (weights @ hits), of_all, out=np.full_like(of_all, np.nan), where=of_all > 0)
        return found

    return metric


METRIC = Metric(multilabel_micro_f1, kind="multilabel", margin=HALF_A_POINT, weighted=weighted_micro_f1)
