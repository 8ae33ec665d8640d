"""The package's metrics as functions of item weights: what a metric gives on data in which items stand several times.

A resample of N items from N leaves some out and repeats others, and a metric needs to know how often each stands, not in which
order. Written with weights, thousands of resamples are a few matrix products. Each agrees with scikit-learn or scipy on the
resampled data itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from lora_bench.errors import LoraBenchError, unknown
from lora_bench.stats.estimate import refuse_no_numbers
from lora_bench.stats.items import Floats, ItemMetric, Items, ItemScores

Weighted = Callable[[Floats], Floats]


class _Make(Protocol):
    def __call__(self, *, references: Floats, predictions: Floats, classes: int = 2) -> Weighted: ...


def item_metric(
    metric: str,
    references: Sequence[float],
    predictions: Mapping[int, Sequence[float]],
    *,
    classes: int | None = None,
) -> Items:
    """A metric of the package as a function of the test items.

    Args:
        metric: Its name, such as `matthews_correlation`: one of `METRICS`.
        references: Right class, or number, of each item.
        predictions: For each seed, the predicted ones, in the order of *references*.
        classes: Number of classes of the task; of those that occur where it is not given.

    Raises:
        LoraBenchError: If the metric is not known, the numbers of predictions differ, or one is no finite number.
    """
    if metric not in METRICS:
        raise unknown("metric of single items", metric, METRICS)
    for seed, answers in predictions.items():
        if len(answers) != len(references):
            raise LoraBenchError(
                f"seed {seed} has {len(answers)} predictions for {len(references)} items; expected one for each"
            )
        refuse_no_numbers(enumerate(answers), f"seed {seed}: the prediction of item")
    seeds = tuple(predictions)
    right = np.asarray(references, dtype=np.float64)
    given = np.array([predictions[seed] for seed in seeds], dtype=np.float64).reshape(len(seeds), len(right))
    if metric == "accuracy":
        return ItemScores(seeds, (given == right).astype(np.float64))
    if classes is None:
        classes = int(max(right.max(initial=0), given.max(initial=0))) + 1
    return ItemMetric(seeds, len(right), METRICS[metric](references=right, predictions=given, classes=max(classes, 2)))


def accuracy(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """The share of right predictions. Shapes (items,) and (seeds, items); *classes* is not needed."""
    right = (predictions == references).astype(np.float64).T
    return lambda weights: np.asarray(weights @ right / weights.sum(axis=1, keepdims=True))


def f1(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """F1 of the second of two classes; of more, the mean over those that occur, as `lora_bench.metrics.f1`.

    Args:
        references: Class of each item, shape (items,).
        predictions: Shape (seeds, items).
        classes: At least 2.
    """
    counted = [1] if classes == 2 else list(range(classes))
    are = [(references == label).astype(np.float64) for label in counted]
    said = [(predictions == label).astype(np.float64).T for label in counted]

    def metric(weights: Floats) -> Floats:
        total, present = 0.0, 0.0
        for truth, answer in zip(are, said, strict=True):
            named = weights @ answer + (weights @ truth)[:, None]
            hits = weights @ (answer * truth[:, None])
            total = total + np.divide(2 * hits, named, out=np.zeros_like(named), where=named > 0)
            present = present + (named > 0)
        return np.divide(total, present, out=np.full_like(present, np.nan, dtype=np.float64), where=present > 0)

    return metric


def matthews_correlation(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """Matthews correlation for any number of classes; 0 where all predictions or references are of one class.

    Gorodkin 2004, https://doi.org/10.1016/j.compbiolchem.2004.09.006

    Args:
        references: Class of each item, shape (items,).
        predictions: Shape (seeds, items).
        classes: At least 2.
    """
    right = (predictions == references).astype(np.float64).T
    are = [(references == label).astype(np.float64) for label in range(classes)]
    said = [(predictions == label).astype(np.float64).T for label in range(classes)]

    def metric(weights: Floats) -> Floats:
        n = weights.sum(axis=1, keepdims=True)
        covariance = n * (weights @ right)
        of_truth, of_answers = n**2, n**2 + np.zeros_like(covariance)
        for truth, answer in zip(are, said, strict=True):
            true, named = (weights @ truth)[:, None], weights @ answer
            covariance = covariance - true * named
            of_truth, of_answers = of_truth - true**2, of_answers - named**2
        both = of_truth * of_answers
        return np.asarray(np.divide(covariance, np.sqrt(both), out=np.zeros_like(covariance), where=both > 0))

    return metric


def pearson(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """Pearson's correlation; NaN where either is constant.

    Args:
        references: Shape (items,).
        predictions: Shape (seeds, items).
        classes: Not needed.
    """
    # Centred, so that squares do not drown the differences of numbers far from zero.
    x, y = references - references.mean(), (predictions - predictions.mean(axis=1, keepdims=True)).T

    def metric(weights: Floats) -> Floats:
        n = weights.sum(axis=1, keepdims=True)
        mean_x, mean_y = (weights @ x)[:, None] / n, weights @ y / n
        variance_x = (weights @ x**2)[:, None] / n - mean_x**2
        variance_y = weights @ y**2 / n - mean_y**2
        return _correlation(
            weights @ (x[:, None] * y) / n - mean_x * mean_y, variance_x, variance_y, (x**2).mean(), (y**2).mean(axis=0)
        )

    return metric


def spearman(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """Spearman's correlation, ties at their mean rank; NaN where either is constant.

    In the resampled data a value that stands w times, with c items below it, has the mean rank c + (w + 1) / 2.

    Args:
        references: Shape (items,).
        predictions: Shape (seeds, items).
        classes: Not needed.
    """
    columns = [_ranker(row) for row in predictions]
    truth = _ranker(references)

    def metric(weights: Floats) -> Floats:
        n = weights.sum(axis=1)
        middle = (n[:, None] + 1) / 2
        x = truth(weights) - middle
        weighted = weights * x
        variance_x = (weighted * x).sum(axis=1) / n
        found = np.empty((len(weights), len(columns)))
        for index, ranks in enumerate(columns):
            y = ranks(weights) - middle
            variance_y = (weights * y * y).sum(axis=1) / n
            found[:, index] = _correlation((weighted * y).sum(axis=1) / n, variance_x, variance_y, 1.0, 1.0)
        return found

    return metric


def accuracy_f1_mean(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """The mean of accuracy and F1."""
    one = accuracy(references=references, predictions=predictions)
    other = f1(references=references, predictions=predictions, classes=classes)
    return lambda weights: (one(weights) + other(weights)) / 2


def pearson_spearman_mean(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """The mean of Pearson's and Spearman's correlation."""
    one = pearson(references=references, predictions=predictions)
    other = spearman(references=references, predictions=predictions)
    return lambda weights: (one(weights) + other(weights)) / 2


METRICS: dict[str, _Make] = {
    "accuracy": accuracy,
    "accuracy_f1_mean": accuracy_f1_mean,
    "f1": f1,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "pearson_spearman_mean": pearson_spearman_mean,
    "spearman": spearman,
}


def _ranker(values: Floats) -> Weighted:
    """From weights (draws, items) to the mean rank of each item's value, shape (draws, items)."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])

    def ranks(weights: Floats) -> Floats:
        of_group = np.add.reduceat(weights[:, order], starts, axis=1)
        return np.asarray((np.cumsum(of_group, axis=1) - of_group / 2 + 0.5)[:, group])

    return ranks


def _correlation(
    covariance: Floats, variance_x: Floats, variance_y: Floats, size_x: float, size_y: Floats | float
) -> Floats:
    """The correlation, NaN where a variance is nothing but rounding errors of numbers of a mean square of *size*."""
    defined = (variance_x > 1e-14 * size_x) & (variance_y > 1e-14 * size_y)
    product = np.where(defined, variance_x * variance_y, 1.0)
    return np.where(defined, np.clip(covariance / np.sqrt(product), -1.0, 1.0), np.nan)
