"""Scores as functions of the test items, for a bootstrap over items.

`ItemScores` are per-item scores of a metric that is their mean (accuracy, ROUGE). `ItemMetric` is a metric that is not a mean
(Matthews, F1, a correlation), as a function of the number of times each item was drawn. Both contain every seed of one method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lora_bench.errors import LoraBenchError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Weighted = Callable[[Floats], Floats]


class Drawable(Protocol):
    """Scores over seeds that can be recomputed on resampled test items."""

    @property
    def items(self) -> int:
        """Number of test items."""

    def scores(self) -> Floats:
        """Return the score of each seed on all items, shape (seeds,)."""

    def drawn(self, generator: np.random.Generator, draws: int) -> Floats:
        """Return the scores on *draws* resamples of the items, shape (draws, seeds); NaN if a score is undefined."""

    def parts(self) -> tuple[float, float] | None:
        """Return the result of `mean_parts`, or None for a metric that is not a mean over items."""


class Items(Drawable, Protocol):
    """Scores of one method, whose seeds can be chosen and whose items can be drawn together with another's."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each score."""

    def select(self, seeds: Sequence[int]) -> Items:
        """Return a copy with these seeds, in this order."""

    def on(self, weights: Floats) -> Floats:
        """Return the scores, shape (draws, seeds), on data that repeats each item by its *weights* (draws, items)."""


@dataclass(frozen=True, eq=False)
class ItemScores:
    """Per-item scores of a metric that is their mean.

    Args:
        seeds: One for each row, without repetition.
        values: Shape (seeds, items), finite.

    Raises:
        LoraBenchError: If shapes do not fit, a seed is repeated or a value is not finite.
    """

    seeds: tuple[int, ...]
    values: Floats

    def __post_init__(self) -> None:
        _refuse_repetition(self.seeds)
        if self.values.ndim != 2 or self.values.shape[0] != len(self.seeds) or self.values.shape[1] < 1:
            raise LoraBenchError(
                f"per-item scores have shape {self.values.shape}; expected ({len(self.seeds)}, items), a row for each seed"
            )
        bad = np.argwhere(~np.isfinite(self.values))
        if len(bad):
            row, column = bad[0]
            raise LoraBenchError(
                f"item {column} of seed {self.seeds[row]} scores {self.values[row, column]}; expected a finite number"
            )

    @property
    def items(self) -> int:
        """Number of test items."""
        return int(self.values.shape[1])

    def select(self, seeds: Sequence[int]) -> ItemScores:
        """Return a copy with these seeds, in this order."""
        return ItemScores(tuple(seeds), self.values[[self.seeds.index(seed) for seed in seeds]])

    def scores(self) -> Floats:
        """Return the mean over items, shape (seeds,)."""
        return np.asarray(self.values.mean(axis=1))

    def on(self, weights: Floats) -> Floats:
        """Return the weighted means, shape (draws, seeds)."""
        return np.asarray(weights @ self.values.T / self.items)

    def drawn(self, generator: np.random.Generator, draws: int) -> Floats:
        """Return the means on *draws* resamples, shape (draws, seeds)."""
        return self.on(draw_weights(generator, draws, self.items))

    def parts(self) -> tuple[float, float]:
        """Return the bootstrap's variance parts for infinitely many draws."""
        item, both = mean_parts(self.values)
        return float(item), float(both)


@dataclass(frozen=True, eq=False)
class ItemMetric:
    """A metric that is not a mean over items, as a function of item weights.

    Args:
        seeds: One for each column of what *metric* returns, without repetition.
        items: Number of test items.
        metric: From weights of shape (draws, items), whole numbers that add up to *items* in each row, to scores of
            shape (draws, seeds); NaN where the metric is undefined. The package's metrics state theirs
            as `weighted`; `by_index` and `one_at_a_time` make one of other functions.
    """

    seeds: tuple[int, ...]
    items: int
    metric: Weighted

    def __post_init__(self) -> None:
        _refuse_repetition(self.seeds)

    def select(self, seeds: Sequence[int]) -> ItemMetric:
        """Return a copy with these seeds, in this order."""
        columns = [self.seeds.index(seed) for seed in seeds]
        return ItemMetric(tuple(seeds), self.items, lambda weights: self.metric(weights)[:, columns])

    def scores(self) -> Floats:
        """Return the metric on all items, shape (seeds,)."""
        return np.asarray(self.metric(np.ones((1, self.items)))[0])

    def on(self, weights: Floats) -> Floats:
        """Return the metric on weighted items, shape (draws, seeds)."""
        return self.metric(weights)

    def drawn(self, generator: np.random.Generator, draws: int) -> Floats:
        """Return the metric on *draws* resamples, shape (draws, seeds)."""
        return self.on(draw_weights(generator, draws, self.items))

    def parts(self) -> None:
        """Return None: the parts must be drawn."""


@dataclass(frozen=True, eq=False)
class ItemDifference:
    """Difference of two methods on the same seeds, and on the same items in every draw."""

    first: Items
    second: Items

    @property
    def items(self) -> int:
        """Number of test items."""
        return self.first.items

    def scores(self) -> Floats:
        """Return the difference of each seed, shape (seeds,)."""
        return self.first.scores() - self.second.scores()

    def drawn(self, generator: np.random.Generator, draws: int) -> Floats:
        """Return the differences on *draws* resamples, shape (draws, seeds)."""
        weights = draw_weights(generator, draws, self.items)
        return self.first.on(weights) - self.second.on(weights)

    def parts(self) -> tuple[float, float] | None:
        """Return the parts if both metrics are means over items, else None."""
        if isinstance(self.first, ItemScores) and isinstance(self.second, ItemScores):
            item, both = mean_parts(self.first.values - self.second.values)
            return float(item), float(both)
        return None


def item_difference(first: Items, second: Items, seeds: Sequence[int]) -> ItemDifference:
    """Return the difference of two methods on *seeds*, scored on the same items in the same order.

    Raises:
        LoraBenchError: If the numbers of items differ or a seed is missing.
    """
    if first.items != second.items:
        raise LoraBenchError(
            f"the first method is scored on {first.items} items and the second on {second.items}; expected the same items"
        )
    for one in (first, second):
        missing = sorted(set(seeds) - set(one.seeds))
        if missing:
            raise LoraBenchError(f"there are no items of seed {missing[0]}; known: {sorted(one.seeds)}")
    return ItemDifference(first.select(seeds), second.select(seeds))


def by_index(metric: Callable[[Integers], Floats]) -> Callable[[Floats], Floats]:
    """Turn a metric of item indices into one of item weights.

    Args:
        metric: From indices of shape (draws, items) to scores of shape (draws, seeds), whatever the order of the indices.
    """

    def weighted(weights: Floats) -> Floats:
        items = np.arange(weights.shape[1])
        return metric(np.stack([np.repeat(items, row) for row in weights.astype(np.int64)]))

    return weighted


def one_at_a_time(
    metric: Callable[[Sequence[Any], Sequence[Any]], float | None],
    references: Sequence[Any],
    predictions: Mapping[int, Sequence[Any]],
) -> ItemMetric:
    """Turn any metric into one of item weights. It is called for every seed and draw: slow, so use fewer draws.

    Args:
        metric: From predictions and references to a number, or None if undefined.
        references: One for each item.
        predictions: For each seed, one for each item.
    """

    def score(answers: Sequence[Any], drawn: Integers) -> float:
        value = metric([answers[index] for index in drawn], [references[index] for index in drawn])
        return np.nan if value is None else value

    def scores(indices: Integers) -> Floats:
        return np.array([[score(answers, drawn) for answers in predictions.values()] for drawn in indices])

    return ItemMetric(tuple(predictions), len(references), by_index(scores))


def draw_weights(generator: np.random.Generator, draws: int, items: int) -> Floats:
    """Draw *draws* resamples of *items* items and return each item's count: shape (draws, items)."""
    chosen = generator.integers(items, size=(draws, items)) + items * np.arange(draws)[:, None]
    return np.bincount(chosen.ravel(), minlength=draws * items).reshape(draws, items).astype(np.float64)


def mean_parts(values: Floats) -> tuple[Floats, Floats]:
    """Return the variance parts of a mean's bootstrap with infinitely many draws, without drawing.

    With seed means r, item means c and the mean m of all, Σ(c_i − m)² / N² is the variance from resampling items alone.
    Σ(x_si − r_s − c_i + m)² / (nN)² is the additional variance from resampling both.

    Args:
        values: x, shape (..., seeds n, items N).

    Returns:
        These two, each of shape (...).
    """
    *_, seeds, items = values.shape
    rows, columns = values.mean(axis=-1, keepdims=True), values.mean(axis=-2, keepdims=True)
    mean = rows.mean(axis=-2, keepdims=True)
    item = ((columns - mean) ** 2).sum(axis=(-2, -1)) / items**2
    both = ((values - rows - columns + mean) ** 2).sum(axis=(-2, -1)) / (seeds * items) ** 2
    return item, both


def _refuse_repetition(seeds: Sequence[int]) -> None:
    if len(set(seeds)) < len(seeds):
        raise LoraBenchError(f"seeds {tuple(seeds)} contain one twice; expected one run for each seed")
