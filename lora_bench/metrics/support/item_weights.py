"""Metrics as functions of item weights: their value on data in which items repeat.

A resample of N items from N leaves some out and repeats others. A metric needs the count of each item, not the order. With
weights, thousands of resamples are a few matrix products. Each metric agrees with scikit-learn or scipy on the resampled data.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lora_bench.errors import LoraBenchError, unknown
from lora_bench.metrics import find, known_metrics
from lora_bench.metrics.support.label_arrays import label_arrays
from lora_bench.stats.estimate import refuse_no_numbers
from lora_bench.stats.items import Floats, ItemMetric, ItemScores, Weighted


def item_metric(
    metric: str,
    references: Sequence[Any],
    predictions: Mapping[int, Sequence[Any]],
    *,
    classes: int | None = None,
) -> ItemScores | ItemMetric:
    """Return a metric of the package as a function of the test items.

    Args:
        metric: Name of a metric that is `of_items`, such as `matthews_correlation`.
        references: Right class, number, label indexes, or labels of the words, of each item.
        predictions: Predictions of each seed, in the order of *references*.
        classes: Number of classes of the task; by default that of the classes that occur.

    Raise LoraBenchError if the metric is unknown, the numbers of predictions differ, or a prediction is not finite.
    """
    facts = find(metric)
    if facts is None or not facts.of_items:
        raise unknown("metric of single items", metric, metrics_of_items())
    for seed, answers in predictions.items():
        if len(answers) != len(references):
            raise LoraBenchError(
                f"seed {seed} has {len(answers)} predictions for {len(references)} items; expected one for each"
            )
        if facts.item_parts is None and facts.of_item is None and facts.kind != "multilabel":
            refuse_no_numbers(enumerate(answers), f"seed {seed}: the prediction of item")
    seeds = tuple(predictions)
    if facts.of_item is not None:
        return ItemScores(seeds, _of_each(facts.of_item, references, predictions.values()))
    if facts.item_parts is not None:
        return ItemMetric(seeds, len(references), _ratio(_of_each(facts.item_parts, references, predictions.values())))
    if facts.kind == "multilabel":
        assert facts.weighted is not None
        sets, of_seeds = label_arrays(references, [predictions[seed] for seed in seeds])
        return ItemMetric(seeds, len(sets), facts.weighted(references=sets, predictions=of_seeds))
    right = np.asarray(references, dtype=np.float64)
    values = np.array([predictions[seed] for seed in seeds], dtype=np.float64).reshape(len(seeds), len(right))
    if facts.item_scores is not None:
        return ItemScores(seeds, facts.item_scores(references=right, predictions=values))
    assert facts.weighted is not None
    if classes is None:
        classes = int(max(right.max(initial=0), values.max(initial=0))) + 1
    weighted = facts.weighted(references=right, predictions=values, classes=max(classes, 2))
    if (constant := facts.constant) is None:
        return ItemMetric(seeds, len(right), weighted)
    # Of seeds that give every item one answer the metric is undefined.
    one_answer = (values == values[:, :1]).all(axis=1)
    return ItemMetric(seeds, len(right), lambda weights: np.where(one_answer, constant, weighted(weights)))


def _of_each(
    read: Callable[[Any, Any], Any], references: Sequence[Any], predictions: Iterable[Sequence[Any]]
) -> Floats:
    """Return what *read* tells of each reference and prediction, shape (seeds, items), or one more axis for several numbers."""
    each = [[read(*pair) for pair in zip(references, answers, strict=True)] for answers in predictions]
    return np.array(each, dtype=np.float64)


def _ratio(each: Floats) -> Weighted:
    """Return a sum over items divided by another as a function of item weights, from (seeds, items, 2); 0 where that is 0."""

    def metric(weights: Floats) -> Floats:
        above, below = weights @ each[..., 0].T, weights @ each[..., 1].T
        return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below > 0))

    return metric


def metrics_of_items() -> list[str]:
    """Return the metrics that `item_metric` takes."""
    return [name for name in known_metrics() if (facts := find(name)) is not None and facts.of_items]


def correlation(
    covariance: Floats, variance_x: Floats, variance_y: Floats, size_x: float, size_y: Floats | float
) -> Floats:
    """Return the correlation; NaN if a variance is only the rounding error of numbers with a mean square of *size*."""
    defined = (variance_x > 1e-14 * size_x) & (variance_y > 1e-14 * size_y)
    product = np.where(defined, variance_x * variance_y, 1.0)
    return np.where(defined, np.clip(covariance / np.sqrt(product), -1.0, 1.0), np.nan)
