"""What intervals and verdicts of `lora_bench.stats` do on data of which the truth is known.

    python -m benchmarks.statistics_coverage              the tables of docs/error-rates.md; about two minutes of one CPU core
    python -m benchmarks.statistics_coverage --quick      seconds: shows that it runs

Scores are simulated, thousands of experiments at once, and an interval covers if the truth is in it. The numbers of an
experiment are those that `paired_difference` and `judge` give (a test holds the two together); only the published
Multibootstrap is drawn here anew, with the same draws for all experiments.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from benchmarks.tables import folded
from lora_bench.stats.crossed import combined, unbiased_parts
from lora_bench.stats.items import mean_parts

Floats = NDArray[np.float64]
Simulate = Callable[[np.random.Generator, int, int], Floats]

SEEDS = (3, 5, 10)
ITEMS = 100
ALPHA = 0.05
METHODS, TASKS = 3, 4


@dataclass(frozen=True)
class World:
    """Where scores come from.

    Args:
        simulate: From a generator, experiments and seeds to per-item scores, shape (experiments, seeds, items); one item
            where there are no items but a score for each seed.
        truth: The mean that intervals are to hold.
    """

    name: str
    simulate: Simulate
    truth: float


def normal(seed: float, item: float, both: float) -> Simulate:
    """Per-item differences of two methods: a part of each seed, one of each item, and one of each pair of them.

    Args:
        seed: Standard deviation of the seeds' part in the score.
        item: Of the items' part in the score: 10 times as much on each of the 100 items.
        both: Likewise.
    """

    def simulate(generator: np.random.Generator, experiments: int, seeds: int) -> Floats:
        reach = np.sqrt(ITEMS)
        of_seed = seed * generator.standard_normal((experiments, seeds, 1))
        of_item = item * reach * generator.standard_normal((experiments, 1, ITEMS))
        return of_seed + of_item + both * reach * generator.standard_normal((experiments, seeds, ITEMS))

    return simulate


def right_or_wrong(generator: np.random.Generator, experiments: int, seeds: int) -> Floats:
    """Per-item differences of two methods that are equally good: each item is right or wrong.

    The logit of being right is of the item (2 ± 2), of the method on the item (± 0.7), and of the run (± 0.1).
    """
    item = generator.normal(2, 2, (experiments, 1, ITEMS))
    right = []
    for _ in range(2):
        logit = (
            item + generator.normal(0, 0.7, (experiments, 1, ITEMS)) + generator.normal(0, 0.1, (experiments, seeds, 1))
        )
        right.append(generator.random((experiments, seeds, ITEMS)) < 1 / (1 + np.exp(-logit)))
    return right[0] * 1.0 - right[1]


def of_seeds(draw: Callable[[np.random.Generator, tuple[int, int]], Floats]) -> Simulate:
    """A score for each seed, and no items."""
    return lambda generator, experiments, seeds: draw(generator, (experiments, seeds))[..., None]


def collapsing(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Normal scores, and one run of ten that ends ten standard deviations below."""
    return generator.standard_normal(shape) - 10 * (generator.random(shape) < 0.1)


NORMAL = (
    World("seeds alone", normal(1, 0, 0), 0),
    World("items a third of seeds", normal(1, 1 / 3, 1 / 3), 0),
    World("items as seeds", normal(1, 1, 1 / 3), 0),
    World("items three times seeds", normal(1, 3, 1 / 3), 0),
    World("each run errs on items of its own", normal(0, 0, 1), 0),
    World("right or wrong, 100 items", right_or_wrong, 0),
)
SKEWED = (
    World("a few bad runs: −exponential", of_seeds(lambda generator, shape: -generator.exponential(size=shape)), -1),
    World("bounded: beta(9, 1), mean .9", of_seeds(lambda generator, shape: generator.beta(9, 1, shape)), 0.9),
    World("bounded: beta(95, 5), mean .95", of_seeds(lambda generator, shape: generator.beta(95, 5, shape)), 0.95),
    World("one run of ten collapses", of_seeds(collapsing), -1),
    World(
        "difference of two −exponential",
        of_seeds(lambda generator, shape: generator.exponential(size=shape) - generator.exponential(size=shape)),
        0,
    ),
    World(
        "difference of two that collapse",
        of_seeds(lambda generator, shape: collapsing(generator, shape) - collapsing(generator, shape)),
        0,
    ),
)


@dataclass(frozen=True)
class Errors:
    """Means of experiments, with the standard error and the freedom of t and of the bootstrap, each of one shape."""

    mean: Floats
    t: tuple[Floats, Floats]
    bootstrap: tuple[Floats, Floats]

    def halves(self, tail: float) -> tuple[Floats, Floats]:
        """Half-widths of the t-interval and of the one that is reported, the wider of the two."""
        t, bootstrap = (-stdtrit(freedom, tail) * error for error, freedom in (self.t, self.bootstrap))
        return t, np.maximum(t, bootstrap)

    def p_values(self) -> Floats:
        """The larger two-sided p-value of no difference."""
        return np.maximum(
            *(2 * stdtr(freedom, -np.abs(self.mean) / error) for error, freedom in (self.t, self.bootstrap))
        )


def errors(values: Floats, groups: NDArray[np.int64] | None = None) -> Errors:
    """What is known of means over seeds and items, for values of shape (..., seeds, items), and the group of each item."""
    *shape, seeds, items = values.shape
    scores = values.mean(axis=-1)
    alone = scores.var(axis=-1) / seeds
    t = np.sqrt(alone * seeds / (seeds - 1)), np.full(shape, seeds - 1.0)
    if items == 1:
        return Errors(scores.mean(axis=-1), t, t)
    items = items if groups is None else len(set(groups.tolist()))
    parts = unbiased_parts(alone, *mean_parts(values, groups), seeds=seeds, items=items)
    variance, freedom = combined(*parts, seeds=seeds, items=items)
    return Errors(scores.mean(axis=-1), t, (np.sqrt(variance), freedom))


def percentiles(values: Floats, generator: np.random.Generator, draws: int) -> tuple[Floats, Floats]:
    """The 95 % percentile intervals of the Multibootstrap as published."""
    _, seeds, items = values.shape
    of_items = generator.multinomial(items, np.full(items, 1 / items), draws) / items
    of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
    means = np.einsum("end,dn->ed", values @ of_items.T, of_seeds)
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2], axis=1)
    return low, high


@dataclass(frozen=True)
class Coverage:
    """Shares of 95 % intervals that hold the truth: Student's t over seeds, the published bootstrap, the reported one."""

    t: float
    published: float
    reported: float


def coverage(world: World, seeds: int, experiments: int, draws: int = 0, seed: int = 0) -> Coverage:
    """How often intervals of a world hold its truth.

    Args:
        world: Where scores come from.
        seeds: n.
        experiments: How many.
        draws: Resamples for the published bootstrap, in a fifth of the experiments; none where 0.
        seed: Of everything that is random.
    """
    generator = np.random.default_rng([seed, seeds, *world.name.encode()])
    covered = np.zeros(3)
    drawn = 0
    # Blocks of a few MiB.
    for size in _blocks(experiments, 1000):
        values = world.simulate(generator, size, seeds)
        found = errors(values)
        t, reported = found.halves(ALPHA / 2)
        off = np.abs(found.mean - world.truth)
        covered[0] += (off <= t).sum()
        covered[2] += (off <= reported).sum()
        if draws:
            low, high = percentiles(values[: size // 5], generator, draws)
            covered[1] += ((low <= world.truth) & (world.truth <= high)).sum()
            drawn += size // 5
    return Coverage(covered[0] / experiments, covered[1] / drawn if drawn else np.nan, covered[2] / experiments)


def coverage_of_copies(copies: int, seeds: int, experiments: int, seed: int = 0) -> tuple[float, float]:
    """How often reported 95 % intervals hold the truth where each text stands several times among 100 rows.

    Texts do to a score what seeds do, and rows of a text score alike but for an eighth of that variance.

    Returns:
        With rows for independent items, and with texts.
    """
    generator = np.random.default_rng([seed, seeds, copies])
    texts = np.repeat(np.arange(ITEMS // copies), copies)
    hits = np.zeros(2)
    for size in _blocks(experiments, 1000):
        of_text = np.sqrt(len(texts) / copies) * generator.standard_normal((size, 1, ITEMS // copies))
        of_row = np.sqrt(len(texts) / 8) * generator.standard_normal((size, seeds, ITEMS))
        values = generator.standard_normal((size, seeds, 1)) + of_text[..., texts] + of_row
        for place, groups in enumerate((None, texts)):
            found = errors(values, groups)
            hits[place] += (np.abs(found.mean) <= found.halves(ALPHA / 2)[1]).sum()
    return hits[0] / experiments, hits[1] / experiments


@dataclass(frozen=True)
class Calls:
    """What families of comparisons come to.

    Args:
        any: Share of families with a difference called where there is none.
        found: Share of planted differences that were called; NaN where none were planted.
    """

    any: float
    found: float


def families(
    seeds: int,
    count: int,
    *,
    effect: float = 0.0,
    item: float = 0.0,
    tasks: int = TASKS,
    alpha: float = ALPHA,
    seed: int = 0,
) -> Calls:
    """Three methods against one reference on some tasks, judged as one family by Holm's procedure.

    Args:
        seeds: Of each method.
        count: Families.
        effect: By how much the first method is better on every task, in standard deviations of a method's score over seeds.
        item: Standard deviation of a score that comes from the choice of items, in the same; 0: there are no items.
        tasks: Number of tasks.
        alpha: Error level of the family.
        seed: Of everything that is random.
    """
    generator = np.random.default_rng([seed, seeds, tasks, int(100 * effect), int(100 * item)])
    false = found = 0
    for size in _blocks(count, 250):
        p_values = errors(suites(generator, size, seeds, effect, item, tasks)).p_values()
        called = holm_rejects(p_values.reshape(size, -1), alpha).reshape(p_values.shape)
        planted = called[:, 0] if effect else called[:, :0]
        others = called[:, 1:] if effect else called
        false += others.any(axis=(1, 2)).sum()
        found += planted.sum()
    return Calls(false / count, found / (count * tasks) if effect else np.nan)


def suites(generator: np.random.Generator, size: int, seeds: int, effect: float, item: float, tasks: int) -> Floats:
    """Per-item differences to the reference, shape (size, methods, tasks, seeds, items)."""
    items = ITEMS if item else 1
    scores = generator.standard_normal((size, METHODS + 1, tasks, seeds, 1)) + np.zeros(items)
    if item:
        scores = scores + item * np.sqrt(items) * generator.standard_normal((size, METHODS + 1, tasks, 1, items))
    scores[:, 1] += effect
    return scores[:, 1:] - scores[:, :1]


def holm_rejects(p_values: Floats, alpha: float) -> NDArray[np.bool_]:
    """Which of each row's hypotheses Holm's procedure rejects."""
    order = np.argsort(p_values, axis=1)
    size = p_values.shape[1]
    passed = np.take_along_axis(p_values, order, axis=1) <= alpha / (size - np.arange(size))
    rejected = np.empty(p_values.shape, dtype=bool)
    np.put_along_axis(rejected, order, np.logical_and.accumulate(passed, axis=1), axis=1)
    return rejected


def _blocks(total: int, size: int) -> Iterator[int]:
    for done in range(0, total, size):
        yield min(size, total - done)


def share(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}".removeprefix("0")


def coverage_lines(heading: str, worlds: tuple[World, ...], experiments: int, draws: int) -> Iterator[str]:
    """A Markdown table of coverage: published bootstrap, t, reported interval, for each number of seeds."""
    yield f"| {heading} | seeds | t | Multibootstrap | reported |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for world in worlds:
        for seeds in SEEDS:
            found = coverage(world, seeds, experiments, draws)
            yield f"| {world.name} | {seeds} | {share(found.t)} | {share(found.published)} | {share(found.reported)} |"


def copies_lines(experiments: int) -> Iterator[str]:
    """A Markdown table of coverage where texts stand several times in a test split."""
    yield "| times that each text stands among 100 rows | seeds | rows as items | texts as items |"
    yield "| ---: | ---: | ---: | ---: |"
    for copies in (1, 2, 4):
        for seeds in SEEDS:
            rows, texts = coverage_of_copies(copies, seeds, experiments)
            yield f"| {copies} | {seeds} | {share(rows)} | {share(texts)} |"


# What the choice of items does to a score, in standard deviations over seeds.
FAMILIES = {"seeds alone": 0.0, "items as seeds": 1.0}


def family_lines(count: int) -> Iterator[str]:
    """Markdown tables of families: differences called where there are none, and planted ones that are found."""
    yield "| 3 methods × 4 tasks, all equal | seeds | families with any difference called |"
    yield "| --- | ---: | ---: |"
    for name, item in FAMILIES.items():
        for seeds in SEEDS:
            yield f"| {name} | {seeds} | {share(families(seeds, count, item=item).any)} |"
    yield ""
    yield "| first method better by 2 SD, 10 seeds | found in a family of 3 | of 12 |"
    yield "| --- | ---: | ---: |"
    for name, effect in (("of a method's scores", 2.0), ("of the differences", 2 * np.sqrt(2))):
        found = [share(families(10, count, effect=effect, tasks=tasks).found) for tasks in (1, TASKS)]
        yield f"| {name} | {' | '.join(found)} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few experiments: shows that it runs")
    quick = parser.parse_args(arguments).quick
    experiments, draws = (100, 100) if quick else (20_000, 1000)
    for heading, worlds in (("differences", NORMAL), ("scores that are not normal", SKEWED)):
        print(*folded(coverage_lines(heading, worlds, experiments, draws)), "", sep="\n")
    print(*folded(copies_lines(experiments)), "", sep="\n")
    print(*folded(family_lines(100 if quick else 20_000)), sep="\n")


if __name__ == "__main__":
    main()
