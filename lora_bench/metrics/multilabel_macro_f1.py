"""Macro F1 of several labels a text: the unweighted mean of F1 over the labels that are predicted or right anywhere, in [0, 1].

Rare labels count as much as frequent ones. Undefined if no text has a label and none is predicted.
"""

from __future__ import annotations

from lora_bench.metrics.support.label_arrays import LabelSets, label_arrays
from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Floats, Metric, Weighted


def multilabel_macro_f1(predictions: LabelSets, references: LabelSets) -> float:
    """Return the mean F1 of the labels, in [0, 1]; NaN if there is none."""
    import numpy as np

    right, given = label_arrays(references, [predictions])
    return float(weighted_macro_f1(references=right, predictions=given)(np.ones((1, len(right))))[0, 0])


def weighted_macro_f1(*, references: Floats, predictions: Floats) -> Weighted:
    """Return macro F1 as a function of item weights, with the shapes of `Metric.weighted`."""
    from lora_bench.metrics.support.class_f1 import mean_f1

    labels = range(references.shape[-1])
    return mean_f1([references[:, label] for label in labels], [predictions[:, :, label].T for label in labels])


METRIC = Metric(multilabel_macro_f1, kind="multilabel", margin=HALF_A_POINT, weighted=weighted_macro_f1)
