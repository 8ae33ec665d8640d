"""What intervals of rotating folds do on data of which the truth is known, beside those of one test split.

    python -m benchmarks.folds_coverage              the table of docs/error-rates.md; some three minutes of one CPU core
    python -m benchmarks.folds_coverage --quick      seconds: shows that it runs

Rows are drawn from two normal classes, and two methods are trained on them: least squares with a ridge, each on features of
its own, so that both see the same rows and differ as methods do. A linear rule w x + b has an accuracy on new rows in closed
form, (Φ((w μ + b) / |w|) + Φ((w μ − b) / |w|)) / 2 with classes around μ and −μ. A seed moves the weights at random, as the
seed of a run does. Training rows of folds overlap as in a suite, where selection takes a tenth of the rows. Methods with the
same μ are alike: their accuracies are the same over tables, though not on each.

An interval of a difference or a score covers if it holds the truth of these models: the mean over new seeds, on new rows, of
what is trained on these folds. It covers over tables if it holds the mean over other tables of as many rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from benchmarks.statistics_coverage import errors, share
from benchmarks.tables import folded

Floats = NDArray[np.float64]

SELECTION = 0.1
RIDGES = (0.1, 3.0, 100.0)
TRIALS = 3
# Draws of seeds that give the truth of a model.
NEW_SEEDS = 40


@dataclass(frozen=True)
class World:
    """Where rows come from, and how far seeds move a model.

    Args:
        rows: Rows of the table.
        features: Features of each method.
        apart: Distance of the class means from 0 in the features of a method.
        seed: Standard deviation of a weight over seeds, in units of the weights' own.
    """

    rows: int
    features: int
    apart: float = 1.25
    seed: float = 0.0

    @property
    def name(self) -> str:
        """Its facts in words."""
        return f"{self.rows:,} rows, {self.features} features{', seeds differ' if self.seed else ''}"


WORLDS = (
    World(100, 10),
    World(300, 10),
    World(300, 30),
    World(300, 30, seed=0.3),
    World(1_500, 50, seed=0.3),
)


@dataclass(frozen=True)
class Design:
    """How rows are tested: by *seeds* runs on folds, or all on one test split with a *test* share of the rows."""

    name: str
    seeds: int
    folds: int = 0
    test: float = 0.0

    @property
    def share(self) -> float:
        """Share of the rows that a run tests."""
        return 1 / self.folds if self.folds else self.test

    @property
    def overlap(self) -> float:
        """Test rows for each training row of folds; 0 for one test split."""
        return self.share / (1 - self.share - SELECTION) if self.folds else 0.0


DESIGNS = (
    Design("5 folds", 5, 5),
    Design("3 of 5 folds", 3, 5),
    Design("10 folds", 10, 10),
    Design("one split, 5 seeds", 5, test=0.2),
)


@dataclass(frozen=True)
class Runs:
    """Per-item scores and true accuracies of a method's runs: shapes (experiments, seeds, items) and (experiments, seeds)."""

    scores: Floats
    truth: Floats

    def less(self, other: Runs) -> Runs:
        """Return the differences to another method's runs."""
        return Runs(self.scores - other.scores, self.truth - other.truth)


class Table:
    """Tables of a world, one for each experiment, with the features of one method; *apart* is one, or one for each."""

    def __init__(self, world: World, labels: Floats, apart: float | Floats, generator: np.random.Generator) -> None:
        self.world, self.labels, self.generator = world, labels, generator
        self.mean = np.multiply.outer(apart, np.full(world.features, world.features**-0.5))
        noise = generator.standard_normal((*labels.shape, world.features))
        around = labels[..., None] * self.mean[..., None, :]
        self.rows = np.concatenate([around + noise, np.ones((*labels.shape, 1))], axis=-1)

    def places(self, design: Design, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows to train on, to choose by and to test for a seed."""
        rows, fold = self.world.rows, seed % design.folds if design.folds else 0
        tests, chosen = round(design.share * rows), round(SELECTION * rows)
        test = np.arange(fold * tests, fold * tests + tests)
        selection = (fold * tests + tests + np.arange(chosen)) % rows
        return np.setdiff1d(np.arange(rows), [*test, *selection]), selection, test

    def fit(self, train: NDArray[np.int64], ridge: float) -> Floats:
        """Return the weights of each experiment before a seed moves them."""
        x = self.rows[:, train]
        gram = np.swapaxes(x, 1, 2) @ x + ridge * np.eye(x.shape[-1])
        return np.asarray(np.linalg.solve(gram, np.swapaxes(x, 1, 2) @ self.labels[:, train, None])[..., 0])

    def moved(self, weights: Floats, seeds: int) -> Floats:
        """Return the weights of some seeds, shape (seeds, experiments, features + 1)."""
        scale = self.world.seed * np.sqrt((weights[:, :-1] ** 2).mean(axis=-1))[:, None]
        return weights + scale * self.generator.standard_normal((seeds, *weights.shape))

    def right(self, weights: Floats, rows: NDArray[np.int64]) -> Floats:
        """Return 1 for each row that is answered right, shape (experiments, rows)."""
        return ((self.rows[:, rows] @ weights[..., None])[..., 0] * self.labels[:, rows] > 0).astype(float)

    def accuracy(self, weights: Floats) -> Floats:
        """Return the accuracy on new rows, the mean over the first axis, which is of seeds."""
        size = np.sqrt((weights[..., :-1] ** 2).sum(axis=-1))
        middle, bias = (weights[..., :-1] * self.mean).sum(axis=-1) / size, weights[..., -1] / size
        return np.asarray(((ndtr(middle + bias) + ndtr(middle - bias)) / 2).mean(axis=0))

    def runs(self, design: Design, ridges: Floats) -> Runs:
        """Return the runs of a method with the ridge of each experiment."""
        scores, truth = [], []
        for seed in range(design.seeds):
            train, _, test = self.places(design, seed)
            weights = self._with(ridges, train)
            scores.append(self.right(self.moved(weights, 1)[0], test))
            truth.append(self.accuracy(self.moved(weights, NEW_SEEDS if self.world.seed else 1)))
        return Runs(np.stack(scores, axis=1), np.stack(truth, axis=1))

    def chosen(self, design: Design) -> Floats:
        """Return the ridge of each experiment with the best mean over trials, each scored on its own selection rows."""
        means = []
        for ridge in RIDGES:
            trials = []
            for seed in range(100, 100 + TRIALS):
                train, selection, _ = self.places(design, seed)
                trials.append(self.right(self.moved(self.fit(train, ridge), 1)[0], selection).mean(axis=-1))
            means.append(np.mean(trials, axis=0))
        return np.asarray(RIDGES)[np.argmax(means, axis=0)]

    def _with(self, ridges: Floats, train: NDArray[np.int64]) -> Floats:
        found = np.zeros((len(self.labels), self.world.features + 1))
        for ridge in np.unique(ridges):
            found[ridges == ridge] = self.fit(train, float(ridge))[ridges == ridge]
        return found


def halves(scores: Floats, design: Design, tail: float = 0.025) -> dict[str, Floats]:
    """Return half-widths of intervals of the mean by their names; `reported` and, without items, `alone` are the package's."""
    _, seeds, items = scores.shape
    if not design.folds:
        found = errors(scores).halves(tail)
        return {"t": found[0], "reported": found[1]}
    t = -stdtrit(seeds - 1, tail) * np.sqrt(scores.mean(axis=-1).var(axis=-1, ddof=1))
    alone = np.sqrt(scores.var(axis=-1, ddof=1).mean(axis=-1) / (seeds * items))
    pooled = -stdtrit(seeds * items - 1, tail) * alone
    return {
        "t": t / np.sqrt(seeds),
        "items": pooled,
        "Nadeau": t * np.sqrt(1 / seeds + design.overlap),
        "reported": np.maximum(t / np.sqrt(seeds), pooled),
        "alone": t * np.sqrt((1 + design.overlap) / seeds),
    }


@dataclass(frozen=True)
class Coverage:
    """Shares of 95 % intervals that cover, by the name of the interval.

    Args:
        models: They hold the truth of these models.
        tables: They hold the mean over tables: 0 for like methods, so that the others are called different.
        score: Those of one method's score hold the truth of its models.
        found: Share of different methods that are called so.
        bias: Mean of scores less the truth, with a ridge that trials choose, over a quarter of the experiments.
    """

    models: dict[str, float]
    tables: dict[str, float]
    score: dict[str, float]
    found: dict[str, float]
    bias: float


def coverage(world: World, design: Design, experiments: int, seed: int = 0) -> Coverage:
    """Simulate pairs of like methods, and of methods of which one is some points better."""
    generator = np.random.default_rng(
        [seed, world.rows, world.features, int(10 * world.seed), design.seeds, design.folds]
    )
    like, better, alone, bias = [], [], [], []
    size = max(1, 2_000_000 // (world.rows * world.features))
    for done in range(0, experiments, size):
        labels = np.where(generator.random((min(size, experiments - done), world.rows)) < 0.5, 1.0, -1.0)
        first, second = (Table(world, labels, world.apart, generator) for _ in range(2))
        best = Table(world, labels, world.apart * 1.15, generator)
        given = np.full(len(labels), RIDGES[1])
        runs = first.runs(design, given)
        alone.append(runs)
        like.append(runs.less(second.runs(design, given)))
        better.append(best.runs(design, given).less(runs))
        if done < experiments / 4:
            tuned = first.runs(design, first.chosen(design))
            bias.append(_off(tuned) - _off(runs))  # less the luck of these rows, of which the mean is 0
    same, other, score = (
        Runs(np.concatenate([of.scores for of in found]), np.concatenate([of.truth for of in found]))
        for found in (like, better, alone)
    )

    def held(runs: Runs, truth: Floats | float) -> dict[str, float]:
        off = np.abs(runs.scores.mean(axis=(1, 2)) - truth)
        return {name: float((off <= half).mean()) for name, half in halves(runs.scores, design).items()}

    return Coverage(
        models=held(same, same.truth.mean(axis=1)),
        tables=held(same, 0.0),
        score=held(score, score.truth.mean(axis=1)),
        found={name: 1 - covered for name, covered in held(other, 0.0).items()},
        bias=float(np.concatenate(bias).mean()),
    )


def _off(runs: Runs) -> Floats:
    """Return by how much the mean score of each experiment exceeds the truth of its models."""
    return np.asarray(runs.scores.mean(axis=(1, 2)) - runs.truth.mean(axis=1))


SHOWN = ("t", "items", "Nadeau", "reported", "alone")


def lines(worlds: Sequence[World], experiments: int, *, each: bool = False) -> Iterator[str]:
    """A Markdown table: for each design the least coverage over worlds, or of *each*, and the largest bias."""
    yield f"| {'/'.join(SHOWN)} | difference | over tables | score | found | bias, points |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for design in DESIGNS:
        found = {world.name: coverage(world, design, experiments) for world in worlds}
        for name, of in found.items() if each else {"": [*found.values()]}.items():
            group = [of] if isinstance(of, Coverage) else of
            rules = [rule for rule in SHOWN if rule in group[0].models]
            cells = [
                "/".join(share(min(getattr(one, what)[rule] for one in group)) for rule in rules)
                for what in ("models", "tables", "score")
            ]
            cells.append("/".join(share(float(np.mean([one.found[rule] for one in group]))) for rule in rules))
            worst = max((one.bias for one in group), key=abs)
            yield f"| {design.name}{', ' if name else ''}{name} | {' | '.join(cells)} | {100 * worst:+.2f} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", action="store_true", help="a row for each world")
    parser.add_argument("--quick", action="store_true", help="few experiments: shows that it runs")
    options = parser.parse_args(arguments)
    worlds, experiments = (WORLDS[:2], 20) if options.quick else (WORLDS, 2_000)
    print(*folded(lines(worlds, experiments, each=options.each)), sep="\n")


if __name__ == "__main__":
    main()
