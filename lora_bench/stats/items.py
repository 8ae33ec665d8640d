"""Scores as functions of the test items, for a bootstrap over items.

`ItemScores` are per-item scores of a metric that is their mean (accuracy, ROUGE). `ItemMetric` is a metric that is not a mean
(Matthews, F1, a correlation), as a function of the number of times each item was drawn. Both contain every seed of one method.
`FoldItems` has one of them for each seed, where each seed tests items of its own.

Items that are not independent, such as copies of a text or sentences of a document, form groups: see `in_groups`. Then groups
are drawn in place of items, and sums over groups enter every variance (cluster-robust: Liang and Zeger 1986,
https://doi.org/10.1093/biomet/73.1.13).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from lora_bench.errors import LoraBenchError

# Resamples of items for an interval, and numbers in memory for a block of them.
_DRAWS, _BLOCK = 2_000, 2**22

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Weighted = Callable[[Floats], Floats]


class Drawable(Protocol):
    """Scores over seeds that can be recomputed on resampled test items."""

    @property
    def items(self) -> int:
        """Number of test items."""

    @property
    def independent(self) -> int:
        """Number of independent test items: of groups, where items belong together."""

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

    @property
    def groups(self) -> Integers | None:
        """The group of each item, from 0; None if all items are independent."""

    def select(self, seeds: Sequence[int]) -> Self:
        """Return a copy with these seeds, in this order."""

    def on(self, weights: Floats) -> Floats:
        """Return the scores, shape (draws, seeds), on data that repeats each item by its *weights* (draws, items)."""


class _SharedItems:
    """Scores of a method whose seeds share their test items."""

    @property
    def independent(self: Items) -> int:
        return _independent(self.items, self.groups)

    def drawn(self: Items, generator: np.random.Generator, draws: int) -> Floats:
        return self.on(draw_weights(generator, draws, self.items, self.groups))

    def __post_init__(self: Items) -> None:
        if len(set(self.seeds)) < len(self.seeds):
            raise LoraBenchError(f"seeds {tuple(self.seeds)} contain one twice; expected one run for each seed")


@dataclass(frozen=True, eq=False)
class ItemScores(_SharedItems):
    """Per-item scores of a metric that is their mean: finite *values* of shape (seeds, items), with different seeds.

    `in_groups` sets *groups*. Raise LoraBenchError if shapes do not fit, a seed is repeated or a value is not finite.
    """

    seeds: tuple[int, ...]
    values: Floats
    groups: Integers | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
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
        return int(self.values.shape[1])

    def select(self, seeds: Sequence[int]) -> Self:
        return replace(self, seeds=tuple(seeds), values=self.values[[self.seeds.index(seed) for seed in seeds]])

    def scores(self) -> Floats:
        return np.asarray(self.values.mean(axis=1))

    def on(self, weights: Floats) -> Floats:
        return np.asarray(weights @ self.values.T / weights.sum(axis=1, keepdims=True))

    def parts(self) -> tuple[float, float]:
        item, both = mean_parts(self.values, self.groups)
        return float(item), float(both)


@dataclass(frozen=True, eq=False)
class ItemMetric(_SharedItems):
    """A metric that is not a mean over items, as a function of item weights.

    *metric* takes weights of shape (draws, items), whole numbers, to scores of shape (draws, seeds), a column for each of
    different seeds; NaN where it is undefined; see `Metric.weighted`. `in_groups` sets *groups*.
    """

    seeds: tuple[int, ...]
    items: int
    metric: Weighted
    groups: Integers | None = None

    def select(self, seeds: Sequence[int]) -> Self:
        columns = [self.seeds.index(seed) for seed in seeds]
        return replace(self, seeds=tuple(seeds), metric=lambda weights: self.metric(weights)[:, columns])

    def scores(self) -> Floats:
        return np.asarray(self.metric(np.ones((1, self.items)))[0])

    def on(self, weights: Floats) -> Floats:
        return self.metric(weights)

    def parts(self) -> None:
        """Return None: the parts must be drawn."""


@dataclass(frozen=True, eq=False)
class FoldItems:
    """Scores of a method whose seeds have each their own test items: those of its fold.

    The mean over seeds has the variance B = Σ b / n² from its items, with b of one seed's score. Seeds that are drawn bring
    their items with them, so in `crossed` E is B, and the larger of A and B is the variance of the mean.
    """

    of_seeds: tuple[Items, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(seed for part in self.of_seeds for seed in part.seeds)

    @property
    def items(self) -> int:
        return sum(part.items for part in self.of_seeds)

    @property
    def groups(self) -> Integers | None:
        """The group of each item, none of two folds; None if all items are independent."""
        if all(part.groups is None for part in self.of_seeds):
            return None
        firsts = np.cumsum([0, *(part.independent for part in self.of_seeds)])
        own = [np.arange(part.items) if part.groups is None else part.groups for part in self.of_seeds]
        return np.asarray(np.concatenate([first + groups for first, groups in zip(firsts, own, strict=False)]))

    @property
    def independent(self) -> int:
        return sum(part.independent for part in self.of_seeds)

    def select(self, seeds: Sequence[int]) -> Self:
        return replace(self, of_seeds=tuple(self.of_seeds[self.seeds.index(seed)] for seed in seeds))

    def scores(self) -> Floats:
        return np.concatenate([part.scores() for part in self.of_seeds])

    def on(self, weights: Floats) -> Floats:
        ends = np.cumsum([part.items for part in self.of_seeds])[:-1]
        own = zip(self.of_seeds, np.split(weights, ends, axis=1), strict=True)
        return np.concatenate([part.on(of_part) for part, of_part in own], axis=1)

    def drawn(self, generator: np.random.Generator, draws: int) -> Floats:
        return np.concatenate([part.drawn(generator, draws) for part in self.of_seeds], axis=1)

    def parts(self) -> tuple[float, float] | None:
        return fold_parts(self.of_seeds)


def fold_parts(of_seeds: Sequence[Drawable]) -> tuple[float, float] | None:
    """Return the parts of a mean over seeds with their own items from those of each seed; None if one is unknown.

    Each seed's part is made unbiased by its own number n of items, n / (n − 1), and the factor of all N is taken out, as
    `crossed` multiplies by that.
    """
    seeds, every = len(of_seeds), sum(one.independent for one in of_seeds)
    item = 0.0
    for one in of_seeds:
        if (parts := one.parts()) is None:
            return None
        item += parts[0] * one.independent / max(one.independent - 1, 1) / seeds**2
    item *= (every - 1) / every
    return item, (seeds - 1) / seeds * item


@dataclass(frozen=True, eq=False)
class ItemDifference:
    """Difference of two methods on the same seeds, and on the same items in every draw."""

    first: Items
    second: Items

    @property
    def items(self) -> int:
        return self.first.items

    @property
    def groups(self) -> Integers | None:
        """The group of each item, where either method has them."""
        return self.first.groups if self.first.groups is not None else self.second.groups

    @property
    def independent(self) -> int:
        return _independent(self.items, self.groups)

    def scores(self) -> Floats:
        return self.first.scores() - self.second.scores()

    def drawn(self, generator: np.random.Generator, draws: int) -> Floats:
        weights = draw_weights(generator, draws, self.items, self.groups)
        return self.first.on(weights) - self.second.on(weights)

    def parts(self) -> tuple[float, float] | None:
        if isinstance(self.first, ItemScores) and isinstance(self.second, ItemScores):
            item, both = mean_parts(self.first.values - self.second.values, self.groups)
            return float(item), float(both)
        if isinstance(self.first, FoldItems) and isinstance(self.second, FoldItems):
            pairs = zip(self.first.of_seeds, self.second.of_seeds, strict=True)
            return fold_parts([ItemDifference(*pair) for pair in pairs])
        return None


def item_difference(first: Items, second: Items, seeds: Sequence[int]) -> ItemDifference:
    """Return the difference of two methods on *seeds*, scored on the same items in the same order.

    Raise LoraBenchError if the numbers of items or their groups differ, or a seed is missing.
    """
    for one in (first, second):
        missing = sorted(set(seeds) - set(one.seeds))
        if missing:
            raise LoraBenchError(f"there are no items of seed {missing[0]}; known: {sorted(one.seeds)}")
    first, second = first.select(seeds), second.select(seeds)
    if first.items != second.items:
        raise LoraBenchError(
            f"the first method is scored on {first.items} items and the second on {second.items}; expected the same items"
        )
    if not same_groups(first, second):
        raise LoraBenchError("the items of the two methods have different groups; expected the same items")
    return ItemDifference(first, second)


def in_groups(scored: ItemScores | ItemMetric, groups: Sequence[int] | None) -> ItemScores | ItemMetric:
    """Return the scores with items that belong together.

    *groups* has the group of each item, as any numbers: equal ones belong together. None if all items are independent. Raise
    LoraBenchError if there is not one for each item.
    """
    if groups is None:
        return scored
    if len(groups) != scored.items:
        raise LoraBenchError(f"there are {len(groups)} groups for {scored.items} items; expected one for each")
    return replace(scored, groups=np.unique(np.asarray(groups), return_inverse=True)[1])


def same_groups(first: Items, second: Items) -> bool:
    """Tell if two methods can have the same items by their groups; records from before groups have none."""
    return first.groups is None or second.groups is None or bool(np.array_equal(first.groups, second.groups))


def draw_weights(generator: np.random.Generator, draws: int, items: int, groups: Integers | None = None) -> Floats:
    """Draw *draws* resamples of *items* items, or of their groups, and return each item's count: shape (draws, items)."""
    if groups is not None:
        return draw_weights(generator, draws, _independent(items, groups))[:, groups]
    chosen = generator.integers(items, size=(draws, items)) + items * np.arange(draws)[:, None]
    return np.bincount(chosen.ravel(), minlength=draws * items).reshape(draws, items).astype(np.float64)


def interval_of_mean(items: Drawable) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean score over seeds on other items, by resamples; None where it is undefined."""
    generator, block = np.random.default_rng(0), max(1, _BLOCK // items.items)
    sizes = [min(block, _DRAWS - start) for start in range(0, _DRAWS, block)]
    drawn = np.concatenate([items.drawn(generator, size).mean(axis=1) for size in sizes])
    defined = drawn[np.isfinite(drawn)]
    if len(defined) <= 0.99 * _DRAWS:
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def mean_parts(values: Floats, groups: Integers | None = None) -> tuple[Floats, Floats]:
    """Return the two variance parts of a mean's bootstrap with infinitely many draws, without drawing, each of shape (...).

    *values* are x, shape (..., seeds n, items N). With seed means r, item means c and the mean m of all, Σ(c_i − m)² / N² is
    the variance from resampling items alone. Σ(x_si − r_s − c_i + m)² / (nN)² is the additional variance from resampling both.
    Of *groups*, with the group of each item from 0, the sums are squared: to the first order in their number, as their sizes
    vary.
    """
    *_, seeds, items = values.shape
    rows, columns = values.mean(axis=-1, keepdims=True), values.mean(axis=-2, keepdims=True)
    mean = rows.mean(axis=-2, keepdims=True)
    of_items, of_both = (_sums(found, groups) for found in (columns - mean, values - rows - columns + mean))
    item = (of_items**2).sum(axis=(-2, -1)) / items**2
    both = (of_both**2).sum(axis=(-2, -1)) / (seeds * items) ** 2
    return item, both


def _sums(values: Floats, groups: Integers | None) -> Floats:
    if groups is None:
        return values
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    return np.asarray(np.add.reduceat(values[..., order], starts, axis=-1))


def _independent(items: int, groups: Integers | None) -> int:
    return items if groups is None else int(groups.max()) + 1
