"""What verdicts of `lora_bench.stats` do where runs collapse, come in two kinds or are skewed, before and after `stats.apart`.

    python -m benchmarks.statistics_collapse              tables of docs/error-rates.md; some ten minutes of one CPU core
    python -m benchmarks.statistics_collapse --quick      seconds: shows that it runs

*t alone* are verdicts of Student's t, Holm's procedure and two one-sided tests, as they were. *now* are those of `judge`: with
the least p-value of families in which runs stand apart, and with the collapses that few runs do not exclude. Rows of 3 seeds
are judged as if a verdict did not take four. A test holds the simulated verdicts to those of `judge`. Scores have a standard
deviation of 1 between the runs of one kind, and no items.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from benchmarks.tables import folded
from lora_bench.metrics.support.item_weights import item_metric
from lora_bench.stats import paired_difference
from lora_bench.stats.apart import LEVEL, bound, gaps, least_p, unseen
from lora_bench.stats.items import Floats

Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]
Flags = NDArray[np.bool_]

ALPHA = 0.05
SEEDS = (3, 5, 10)
# Methods beside the reference, and tasks.
FAMILIES = ((3, 1), (3, 4), (9, 5))


def normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return generator.standard_normal(shape)


def of_two_kinds(rate: float, depth: float) -> Draw:
    """Normal scores, of which this share lies *depth* standard deviations lower."""
    return lambda generator, shape: generator.standard_normal(shape) - depth * (generator.random(shape) < rate)


def bad_runs(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """A few bad runs: scores fall off exponentially below the best."""
    return 1 - generator.standard_exponential(shape)


def bounded(a: float, b: float) -> Draw:
    """Scores between 0 and 1, brought to a mean of 0 and a standard deviation of 1."""
    mean, sd = a / (a + b), np.sqrt(a * b / (a + b + 1)) / (a + b)
    return lambda generator, shape: (generator.beta(a, b, shape) - mean) / sd


@dataclass(frozen=True)
class World:
    """Where scores come from, and by how much their mean lies below 0."""

    name: str
    draw: Draw
    below: float = 0.0


NORMAL = World("normal", normal)
ALIKE = (
    NORMAL,
    World("30 % collapse by 10 SD", of_two_kinds(0.3, 10)),
    World("30 % collapse by 20 SD", of_two_kinds(0.3, 20)),
    World("30 % collapse by 40 SD", of_two_kinds(0.3, 40)),
    World("10 % collapse by 20 SD", of_two_kinds(0.1, 20)),
    World("two kinds, 5 SD apart", of_two_kinds(0.5, 5)),
    World("two kinds, 10 SD apart", of_two_kinds(0.5, 10)),
    World("two kinds, 20 SD apart", of_two_kinds(0.5, 20)),
    World("a few bad runs: −exponential", bad_runs),
)
ONE_OF_TWO = (
    World("10 % collapse by 5 SD", of_two_kinds(0.1, 5), below=0.5),
    World("10 % collapse by 10 SD", of_two_kinds(0.1, 10), below=1),
    World("10 % collapse by 20 SD", of_two_kinds(0.1, 20), below=2),
    World("10 % collapse by 50 SD", of_two_kinds(0.1, 50), below=5),
)
SKEWED = (
    World("a few bad runs: −exponential", bad_runs),
    World("bounded: beta(9, 1), mean .9", bounded(9, 1)),
    World("bounded: beta(95, 5), mean .95", bounded(95, 5)),
)


@dataclass(frozen=True)
class Scores:
    """Families of comparisons.

    Args:
        methods: Shape (families, methods, tasks, seeds).
        reference: Shape (families, 1, tasks, seeds).
    """

    methods: Floats
    reference: Floats

    @property
    def differences(self) -> Floats:
        """Shape (families, comparisons, seeds)."""
        families, _, _, seeds = self.methods.shape
        return (self.methods - self.reference).reshape(families, -1, seeds)

    def apart(self) -> Flags:
        """In which families runs stand apart, shape (families, 1)."""
        families, _, _, seeds = self.methods.shape
        rows = np.concatenate([self.methods, self.reference], axis=1).reshape(families, -1, seeds)
        return gaps(rows).sum(axis=1, keepdims=True) > bound(((seeds, rows.shape[1]),), LEVEL)

    def own_apart(self) -> Flags:
        """In which comparisons runs stand apart, shape (families, comparisons)."""
        both = (gaps(self.methods) + gaps(self.reference)).reshape(len(self.methods), -1)
        return both > bound(((self.methods.shape[-1], 2),), LEVEL)


def tail(differences: Floats, threshold: float) -> Floats:
    """One-sided p-values of the claim that means are above *threshold*."""
    seeds = differences.shape[-1]
    error = differences.std(axis=-1, ddof=1) / np.sqrt(seeds)
    return np.asarray(stdtr(seeds - 1, -(differences.mean(axis=-1) - threshold) / error))


def differ(scores: Scores) -> tuple[Flags, Flags]:
    """In which families a difference is called: by t alone, and now. Holm's procedure calls one if the least p-value does."""
    above = tail(scores.differences, 0.0)
    p_values = 2 * np.minimum(above, 1 - above)
    now = np.where(scores.apart(), np.maximum(p_values, least_p(scores.methods.shape[-1])), p_values)
    level = ALPHA / p_values.shape[1]
    return (p_values <= level).any(axis=1), (now <= level).any(axis=1)


def within(scores: Scores, margin: float, level: float) -> tuple[Flags, Flags]:
    """Which comparisons are called equivalent or non-inferior; of methods that are worse by *margin* both are false."""
    above = tail(scores.differences, -margin)
    silent = scores.apart() | scores.own_apart()
    now = np.where(silent, 1.0, np.maximum(above, unseen(scores.methods.shape[-1])))
    return above <= level, now <= level


def blocks(total: int, name: str, *numbers: int) -> Iterator[tuple[np.random.Generator, int]]:
    """Blocks of some MiB, each with a generator of its own."""
    for done in range(0, total, 500):
        yield np.random.default_rng([done, *numbers, *name.encode()]), min(500, total - done)


def false_differences(world: World, methods: int, tasks: int, seeds: int, families: int) -> tuple[float, float]:
    """Shares of families of like methods in which a difference is called, by t alone and now."""
    counts = np.zeros(2)
    for generator, size in blocks(families, world.name, methods, tasks, seeds):
        scores = Scores(
            world.draw(generator, (size, methods, tasks, seeds)), world.draw(generator, (size, 1, tasks, seeds))
        )
        counts += [flags.sum() for flags in differ(scores)]
    before, now = (counts / families).tolist()
    return before, now


# Correlation of two methods' scores over the seeds that move them alike.
SHARED = 0.8


def false_of_shared_seeds(depth: float, methods: int, tasks: int, seeds: int, families: int) -> float:
    """Share of families with a difference called now, where seeds move all like methods alike and runs come in two kinds."""
    called = 0
    for generator, size in blocks(families, "shared seeds", methods, tasks, seeds, int(depth)):
        of_seed = np.sqrt(SHARED) * generator.standard_normal((size, 1, 1, seeds))
        first, reference = (
            of_seed
            + np.sqrt(1 - SHARED) * generator.standard_normal((size, number, tasks, seeds))
            - depth * (generator.random((size, number, tasks, seeds)) < 0.5)
            for number in (methods, 1)
        )
        called += int(differ(Scores(first, reference))[1].sum())
    return called / families


def found(effect: float, methods: int, tasks: int, seeds: int, families: int) -> tuple[float, float]:
    """Shares of families of normal scores in which the difference of one method on one task is found."""
    counts = np.zeros(2)
    for generator, size in blocks(families, "found", methods, tasks, seeds):
        first = normal(generator, (size, methods, tasks, seeds))
        first[:, 0, 0] += effect
        counts += [flags.sum() for flags in differ(Scores(first, normal(generator, (size, 1, tasks, seeds))))]
    before, now = (counts / families).tolist()
    return before, now


def false_margins(
    world: World, methods: int, worse: int, seeds: int, families: int, margin: float
) -> tuple[float, float]:
    """Shares of families with a method called equivalent or non-inferior that is worse by the margin.

    Args:
        world: Of the methods that are worse; the others and the reference are normal, and equally good.
        methods: Comparisons of a family.
        worse: How many of the methods are worse. Holm's procedure is taken to have proven all others, so that these are tested
            at the level of a family of their own.
        seeds: Of each.
        families: How many.
        margin: In standard deviations of a run of one kind.
    """
    counts = np.zeros(2)
    for generator, size in blocks(families, world.name, methods, worse, seeds):
        first = normal(generator, (size, methods, 1, seeds))
        first[:, :worse] = world.draw(generator, (size, worse, 1, seeds)) + world.below - margin
        scores = Scores(first, normal(generator, (size, 1, 1, seeds)))
        counts += [flags[:, :worse].any(axis=1).sum() for flags in within(scores, margin, ALPHA / worse)]
    before, now = (counts / families).tolist()
    return before, now


def share(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


# Of a mean difference of two normal scores: the margin of skewed methods, at which two one-sided tests have some power.
STANDARD_ERRORS = 4.0


def in_error(seeds: int) -> float:
    return STANDARD_ERRORS * float(np.sqrt(2 / seeds))


ITEMS, RESAMPLES = 100, 400
METRICS = ("accuracy", "f1", "matthews_correlation", "pearson", "spearman")


def answers(generator: np.random.Generator, metric: str, seeds: int, collapse: float) -> tuple[Floats, list[Floats]]:
    """References, and the answers of two methods that are equally good, each of shape (seeds, items).

    Args:
        generator: Of everything.
        metric: Classes for the first three, numbers for correlations.
        seeds: Of each method.
        collapse: Share of runs that answer the same class to everything, or next to noise.
    """
    truth = generator.standard_normal(ITEMS)
    said = []
    for _ in range(2):
        own = 0.7 * generator.standard_normal(ITEMS)
        run = (
            truth + own + 0.3 * generator.standard_normal((seeds, ITEMS)) + 0.1 * generator.standard_normal((seeds, 1))
        )
        fallen = generator.random(seeds) < collapse
        run[fallen] = (-9.0 if metric in METRICS[:3] else 0.0) + 0.1 * generator.standard_normal((fallen.sum(), ITEMS))
        said.append(run)
    if metric not in METRICS[:3]:
        return truth, said
    # A third of the items are of class 1.
    return (truth > 0.43).astype(np.float64), [(one > 0.6).astype(np.float64) for one in said]


def metric_coverage(metric: str, seeds: int, experiments: int, collapse: float = 0.0) -> tuple[float, float]:
    """How often 95 % intervals of the difference of two equally good methods hold 0: over seeds alone, and as reported."""
    counts = np.zeros(2)
    known = 0
    for number in range(experiments):
        generator = np.random.default_rng([number, seeds, int(100 * collapse), *metric.encode()])
        truth, said = answers(generator, metric, seeds, collapse)
        pair = [item_metric(metric, truth.tolist(), dict(enumerate(one.tolist())), classes=2) for one in said]
        scores = [dict(enumerate(one.scores().tolist())) for one in pair]
        if not all(np.isfinite([*one.values()]).all() for one in scores):
            continue
        known += 1
        alone = paired_difference(*scores, draw_seed=0).estimate.interval()
        both = paired_difference(*scores, draw_seed=0, items=(pair[0], pair[1]), draws=RESAMPLES).estimate.interval()
        # Runs that all agree give no interval: that claims nothing.
        counts += [one is None or 0.0 in one for one in (alone, both)]
    of_seeds, reported = (counts / known).tolist()
    return of_seeds, reported


def pairs_of(sizes: Sequence[int]) -> str:
    """The columns of a table that has two shares for each size of a family."""
    return " | ".join(f"of {size}: t alone | now" for size in sizes)


def cells(found: Iterable[tuple[float, float]]) -> str:
    return " | ".join(f"{share(before)} | {share(now)}" for before, now in found)


def difference_lines(families: int) -> Iterator[str]:
    """False differences of like methods, and the differences that are still found."""
    sizes = [methods * tasks for methods, tasks in FAMILIES]
    yield f"| like methods whose runs are | seeds | {pairs_of(sizes)} |"
    yield f"| --- | {' | '.join(['---:'] * (1 + 2 * len(sizes)))} |"
    for world in ALIKE:
        for seeds in SEEDS:
            shares = (false_differences(world, *family, seeds, families) for family in FAMILIES)
            yield f"| {world.name} | {seeds} | {cells(shares)} |"
    yield ""
    yield f"| one true difference among normal scores | seeds | {pairs_of(sizes)} |"
    yield f"| --- | {' | '.join(['---:'] * (1 + 2 * len(sizes)))} |"
    for effect, seeds in EFFECTS:
        yield f"| {effect:.0f} SD | {seeds} | {cells(found(effect, *family, seeds, families) for family in FAMILIES)} |"


def shared_lines(families: int) -> Iterator[str]:
    """False differences where seeds move all methods alike: why a verdict takes four seeds."""
    sizes = " | ".join(f"of {methods * tasks}" for methods, tasks in FAMILIES)
    yield f"| two kinds of runs, correlation {SHARED:g} over seeds | seeds | {sizes} |"
    yield f"| --- | {' | '.join(['---:'] * (1 + len(FAMILIES)))} |"
    for depth in (6, 10, 20):
        for seeds in (3, 4, 5):
            shares = " | ".join(share(false_of_shared_seeds(depth, *family, seeds, families)) for family in FAMILIES)
            yield f"| {depth} SD apart | {seeds} | {shares} |"


# Differences that a family of 12 has some power to find with as many seeds.
EFFECTS = ((30.0, 3), (8.0, 5), (3.0, 10))
MARGIN_SEEDS = (3, 5, 10, 29, 53, 100)
# Methods of a family, and how many of them are worse by the margin.
MARGIN_FAMILIES = {"alone": (1, 1), "one of 12": (12, 1), "all of 12": (12, 12)}


def margin_lines(families: int) -> Iterator[str]:
    """False claims of a margin of methods that are worse by it."""
    columns = " | ".join(f"{name}: t alone | now" for name in MARGIN_FAMILIES)
    yield f"| worse by the margin, and its runs are | seeds | {columns} |"
    yield f"| --- | {' | '.join(['---:'] * (1 + 2 * len(MARGIN_FAMILIES)))} |"
    for world in (*ONE_OF_TWO, *SKEWED, NORMAL):
        for seeds in MARGIN_SEEDS:
            margin = world.below or in_error(seeds)
            shares = (false_margins(world, *family, seeds, families, margin) for family in MARGIN_FAMILIES.values())
            yield f"| {world.name} | {seeds} | {cells(shares)} |"


def coverage_lines(experiments: int) -> Iterator[str]:
    """Coverage of intervals of differences of metrics that are no means over items."""
    yield "| difference of two equally good methods | seeds | over seeds | reported | reported, 10 % collapse |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for metric in METRICS:
        for seeds in SEEDS:
            alone, both = metric_coverage(metric, seeds, experiments)
            _, collapsing = metric_coverage(metric, seeds, experiments, collapse=0.1)
            yield f"| {metric} | {seeds} | {share(alone)} | {share(both)} | {share(collapsing)} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few experiments: shows that it runs")
    quick = parser.parse_args(arguments).quick
    families, experiments = (20, 5) if quick else (10_000, 1_000)
    every = (difference_lines(families), shared_lines(families), margin_lines(families), coverage_lines(experiments))
    for lines in every:
        print(*folded(lines), "", sep="\n", flush=True)


if __name__ == "__main__":
    main()
