"""How often all true ranks of a report lie in the ranges that it states, beside other rules for ranks.

    python -m benchmarks.rank_coverage              the table of docs/error-rates.md; some three minutes of one CPU core
    python -m benchmarks.rank_coverage --quick      seconds: shows that it runs

Methods with a reference are ranked on each task as `lora_bench.report.model.ranking` does; a test holds the two together. With
alpha = .05 for either of its families all true ranks are to be held in .9 of reports, and so are those of two other procedures:

* *pooled*: Tukey's studentized range with one spread for all methods, at .9 over the tasks;
* *largest*: differences beyond what the largest of all is by normal errors, with step-down (Mogstad, Romano, Shaikh and Wilhelm
  2024, https://doi.org/10.1093/restud/rdad006), as in the package csranks.

*Bootstrap* is the 2.5th to the 97.5th percentile of each method's rank over resamples of the seeds, *means* the rank of its
mean score. Methods with equal true means share all their ranks, from one more than there are better methods to their number
less the worse ones (the set-ranks of Al Mohamad, Goeman and van Zwet 2022, Biometrics 78), and a range must hold all of them.
Scores have a standard deviation of 1 between the runs of one kind, and no items.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import studentized_range

from benchmarks.statistics_collapse import Draw, Scores, blocks, normal, of_two_kinds, share, tail
from benchmarks.statistics_coverage import holm_rejects
from benchmarks.tables import folded
from lora_bench.stats.apart import least_p
from lora_bench.stats.items import Floats
from lora_bench.stats.verdict import FEWEST_PAIRS

# Best and worst ranks of the methods on each task, each of shape (reports, methods, tasks).
Ranges = tuple[NDArray[np.int64], NDArray[np.int64]]

ALPHA = 0.05
SEEDS = (3, 5, 10)
# Methods and tasks of a report.
SIZES = ((3, 1), (9, 3), (20, 8))
RESAMPLES = 200


def alike(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return np.zeros(shape)


def in_halves(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Half of the methods, at random, four standard deviations better than the others."""
    return 4.0 * (generator.random(shape).argsort(axis=1) < shape[1] // 2)


def one_noisy(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Normal scores, of which those of the last method have four times the spread."""
    scores = generator.standard_normal(shape)
    scores[:, -1] *= 4
    return scores


def one_collapses(better: float) -> Draw:
    """Normal scores; the last method collapses in a tenth of its runs by 20, and is better by so much where it does not."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        scores = generator.standard_normal(shape)
        scores[:, -1] += better - 20 * (generator.random(scores[:, -1].shape) < 0.1)
        return scores

    return draw


def last_worse(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """The mean of `one_collapses` of a method that is no better where it does not."""
    return np.where(np.arange(shape[1])[:, None] == shape[1] - 1, -2.0, np.zeros(shape))


@dataclass(frozen=True)
class World:
    """Where scores come from: true means, (reports, methods, tasks), and runs around them, (reports, methods, tasks, seeds)."""

    name: str
    means: Draw
    draw: Draw = normal


WORLDS = (
    World("all alike", alike),
    World("half of them 4 SD better", in_halves),
    World("means of SD 1", normal),
    World("alike, one's runs of SD 4", alike, one_noisy),
    World("alike, all collapse in 10 % by 20 SD", alike, of_two_kinds(0.1, 20)),
    World("alike, one collapses so", last_worse, one_collapses(0)),
    World("one collapses so, else 2 SD better", alike, one_collapses(2)),
)


def true_ranges(means: Floats) -> Ranges:
    """Return all ranks of each method by the true means."""
    return _left_by(means[:, :, None] > means[:, None])


def _left_by(better: NDArray[np.bool_]) -> Ranges:
    """Return the ranks that are left where the second axis is better than the third."""
    return 1 + better.sum(axis=1), better.shape[1] - better.sum(axis=2)


def stated_ranges(scores: Floats) -> Ranges:
    """Return the ranges that reports state on scores of shape (reports, methods, tasks, seeds); the first is the reference."""
    reports, methods, tasks, seeds = scores.shape
    first, second = np.triu_indices(methods, 1)
    better = np.zeros((reports, methods, methods, tasks), dtype=bool)
    if seeds >= FEWEST_PAIRS:
        above = tail(scores[:, first] - scores[:, second], 0.0)
        least = np.where(Scores(scores[:, 1:], scores[:, :1]).apart(), least_p(seeds), 0.0)[..., None]
        p_values = np.maximum(2 * np.minimum(above, 1 - above), least)
        shown = np.zeros(p_values.shape, dtype=bool)
        for family in (first == 0, first > 0):
            found = p_values[:, family]
            shown[:, family] = holm_rejects(found.reshape(reports, -1), ALPHA).reshape(found.shape)
        better[:, first, second], better[:, second, first] = shown & (above < 0.5), shown & (above > 0.5)
    return _left_by(better)


def ranks(means: Floats) -> NDArray[np.int64]:
    """Return the ranks of methods, the second axis, from best to worst."""
    return 1 + (-means).argsort(axis=1).argsort(axis=1)


def pooled(scores: Floats) -> Ranges:
    """Return the ranges that Tukey's studentized range leaves, with one spread for all methods of a task."""
    _, methods, tasks, seeds = scores.shape
    means, freedom = scores.mean(axis=-1), (methods - 1) * (seeds - 1)
    left = scores - means[..., None]
    squares = ((left - left.mean(axis=1, keepdims=True)) ** 2).sum(axis=(1, 3)) / freedom
    least = _studentized((1 - 2 * ALPHA) ** (1 / tasks), methods, freedom) * np.sqrt(squares / seeds)
    return _left_by(means[:, :, None] - means[:, None] > least[:, None, None])


@lru_cache
def _studentized(confidence: float, methods: int, freedom: int) -> float:
    return float(studentized_range.ppf(confidence, methods, freedom))


def largest(scores: Floats, generator: np.random.Generator) -> Ranges:
    """Return the ranges that differences beyond the largest of normal draws leave, with step-down over those not shown."""
    _, methods, tasks, seeds = scores.shape
    first, second = np.triu_indices(methods, 1)
    means, errors = scores.mean(axis=-1), scores.std(axis=-1, ddof=1) / np.sqrt(seeds)
    gains, of_pairs = means[:, first] - means[:, second], np.hypot(errors[:, first], errors[:, second])
    better = np.zeros((len(scores), methods, methods, tasks), dtype=bool)
    for place, (gain, error) in enumerate(zip(gains, of_pairs, strict=True)):
        drawn = errors[place] * generator.standard_normal((RESAMPLES, methods, tasks))
        off = np.abs(drawn[:, first] - drawn[:, second]) / error
        shown, new = np.zeros(gain.shape, dtype=bool), np.ones(1, dtype=bool)
        while new.any() and not shown.all():
            new = ~shown & (np.abs(gain) / error > np.quantile(off[:, ~shown].max(axis=1), 1 - 2 * ALPHA))
            shown |= new
        better[place, first, second], better[place, second, first] = shown & (gain > 0), shown & (gain < 0)
    return _left_by(better)


def bootstrapped(scores: Floats, generator: np.random.Generator) -> Ranges:
    """Return percentile intervals of ranks over resamples of the seeds, which methods and tasks share."""
    seeds = scores.shape[-1]
    drawn = ranks(scores @ (generator.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES).T / seeds))
    low, high = np.quantile(drawn, [ALPHA / 2, 1 - ALPHA / 2], axis=-1, method="inverted_cdf")
    return low, high


RULES = ("ranges", "pooled", "largest", "bootstrap", "means")


@dataclass(frozen=True)
class Coverage:
    """Shares of reports of which every range holds all true ranks, by rule, and mean numbers of ranks in a range.

    *width* also has that of the true ranks.
    """

    held: dict[str, float]
    width: dict[str, float]


def coverage(world: World, methods: int, tasks: int, seeds: int, reports: int) -> Coverage:
    """Simulate reports."""
    held, width = dict.fromkeys(RULES, 0.0), dict.fromkeys((*RULES, "true"), 0.0)
    for generator, size in blocks(reports, world.name, methods, tasks, seeds):
        means = world.means(generator, (size, methods, tasks))
        scores = means[..., None] + world.draw(generator, (size, methods, tasks, seeds))
        # By chance any method is the reference.
        order = generator.permutation(methods)
        means, scores = means[:, order], scores[:, order]
        best, worst = true_ranges(means)
        of_means = ranks(scores.mean(axis=-1))
        found = {
            "ranges": stated_ranges(scores),
            "pooled": pooled(scores),
            "largest": largest(scores, generator),
            "bootstrap": bootstrapped(scores, generator),
            "means": (of_means, of_means),
            "true": (best, worst),
        }
        for rule, (low, high) in found.items():
            width[rule] += float((high - low + 1).mean()) * size / reports
            if rule in held:
                held[rule] += float(((low <= best) & (high >= worst)).all(axis=(1, 2)).sum()) / reports
    return Coverage(held, width)


WIDTHS = ("ranges", "pooled", "bootstrap", "true")


def lines(reports: int) -> Iterator[str]:
    """A Markdown table."""
    heads = [*(f"held: {RULES[0]}", *RULES[1:]), *(f"ranks: {WIDTHS[0]}", *WIDTHS[1:])]
    yield f"| methods on each task | seeds | {' | '.join(heads)} |"
    yield f"| --- | {' | '.join(['---:'] * (1 + len(heads)))} |"
    for world in WORLDS:
        for methods, tasks in SIZES:
            for seeds in SEEDS:
                found = coverage(world, methods, tasks, seeds, reports)
                cells = [*(share(found.held[rule]) for rule in RULES), *(f"{found.width[rule]:.1f}" for rule in WIDTHS)]
                yield f"| {world.name}: {methods} × {tasks} | {seeds} | {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few reports: shows that it runs")
    print(*folded(lines(10 if parser.parse_args(arguments).quick else 500)), sep="\n")


if __name__ == "__main__":
    main()
