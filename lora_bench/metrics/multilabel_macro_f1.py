"""Macro F1 of several labels a text: the unweighted mean of F1 over the labels that are predicted or right anywhere, in [0, 1].

Rare labels count as much as frequent ones. Undefined if no text has a label and none is predicted.
"""

from lora_bench.metrics.support.by_class import mean_f1
from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Floats, Metric, Weighted


def weighted_macro_f1(*, references: Floats, predictions: Floats) -> Weighted:
    """Return macro F1, in [0, 1] or NaN, as a function of item weights, with the shapes of `Metric.weighted`."""
    labels = range(references.shape[-1])
    return mean_f1([references[:, label] for label in labels], [predictions[:, :, label].T for label in labels])


METRIC = Metric(kind="multilabel", margin=HALF_A_POINT, weighted=weighted_macro_f1)
