"""Whether the loss that a choice of method states is the loss that it has, on tables like those of the baselines.

    python -m benchmarks.expected_loss              the tables of docs/error-rates.md; ten minutes of one CPU core
    python -m benchmarks.expected_loss --quick      seconds: shows that it runs

Each committed table of three seeds or more is taken for the truth: the mean of a method's sound runs, their spread, the share
that collapsed, and the covariance of methods over test items. Other populations have five methods with runs of a standard
deviation of one point and 1,000 test items; or scores alone, of which a tenth to half of one method's runs are 30 points lower
and all else of a method is one score, where this is seen. New seeds and items are drawn, and the cheapest method whose expected
loss is within a point is taken, in an order of costs by chance, as `lora-bench choose` does. One
seed is judged by the spread that runs usually have.

Runs on folds are those of `benchmarks.folds_coverage`: five linear models of the same rows, each on features of its own, the
truth of which is the accuracy of these models on new rows in closed form.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.folds_coverage import DESIGNS, RIDGES, Design, Table, World
from benchmarks.rate_choice import BASELINES
from lora_bench.records.store import answers_in, read_records
from lora_bench.report.model.choose_method import cheapest
from lora_bench.report.model.comparison import compare
from lora_bench.report.model.seed_scores import scored
from lora_bench.stats.expected_loss import SURE, USUAL_SD, Contender, draw_scores, item_covariance, losses
from lora_bench.stats.items import Floats

SEEDS = (1, 3, 5, 10)
MARGIN = 0.01
DRAWN, QUICK = 5, 1
# Tables on folds that are trained at once.
BLOCK = 30
# Of folds: tables and designs, and how far apart the class means of two methods are, as a share of their distance.
WORLDS = World(300, 30, seed=0.3), World(1_500, 50, seed=0.3)
ON_FOLDS = [Design("1 of 5 folds", 1, 5), *(design for design in DESIGNS if design.seeds == design.folds)]
APART = {"equal": 0.0, "half a point apart": 0.02, "two points apart": 0.08}


@dataclass(frozen=True)
class Truth:
    """The methods of a table; higher is better.

    Args:
        means: Mean of runs that did not collapse.
        spread: Standard deviation of these.
        rates: Share of runs that collapse.
        floors: Score of such a run.
        items: Covariance of the means over test items; None where nothing but scores is known.
    """

    means: Floats
    spread: Floats
    rates: Floats
    floors: Floats
    items: Floats | None

    @property
    def values(self) -> Floats:
        """Mean of all runs."""
        return self.means - self.rates * np.maximum(self.means - self.floors, 0.0)


def committed() -> Iterator[Truth]:
    """Yield the tables of the baselines."""
    for folder in sorted(BASELINES.iterdir()):
        records = read_records(folder) if (folder / "runs.json").is_file() else []
        answers = answers_in(folder, records) if records else None
        for setting in compare(records).results if records else ():
            higher = setting.spec.task.higher_is_better
            for table in () if setting.search or higher is None else setting.tables:
                rows = [scored(row, setting, answers, None) for row in table.rows if row.score and row.score.n > 2]
                found = [_method(row, 1 if higher else -1) for row in rows]
                if len(found) > 1 and None not in found:
                    known = [one.items for one in rows if one.items is not None]
                    covariance = item_covariance(known, 0) if len(known) == len(rows) else None
                    covariance = np.zeros((len(rows),) * 2) if covariance is None else covariance
                    yield Truth(*(np.array(column) for column in zip(*found, strict=True)), covariance)


def _method(row, sign):
    scores = sign * np.array([*row.scores.values()])
    floor = sign * row.row.majority_score if row.row.majority_score is not None else -np.inf
    sound = scores[scores > sign * row.row.least_learned] if row.row.least_learned is not None else scores
    if len(sound) < 2:
        return None
    return sound.mean(), sound.std(ddof=1), 1 - len(sound) / len(scores), max(floor, sound.mean() - 1)


def made(kind: str, number: int = 30) -> Iterator[Truth]:
    """Yield tables of five methods, half a point apart unless "equal" or "wide", one that "collapses" or with "two kinds"."""
    generator = np.random.default_rng(1)
    for _ in range(number):
        apart = {"equal": 0.0, "wide": 0.02, "few items": 0.02, "two kinds": 0.02}.get(kind, 0.005)
        means = 0.8 + apart * generator.standard_normal(5) - 0.08 * (kind == "outlier") * np.eye(5)[0]
        rates = 0.1 * (kind == "collapses") * generator.permutation(np.eye(5)[0])
        if kind == "two kinds":
            rates = generator.uniform(0.1, 0.5) * np.eye(5)[0]
            yield Truth(means + 0.3 * rates, np.zeros(5), rates, means + 0.3 * rates - 0.3, None)
            continue
        spread, items = (0.003, 300) if kind == "few items" else (0.01, 1_000)
        yield Truth(means, np.full(5, spread), rates, np.full(5, 0.5), (np.eye(5) + 1) * 0.08 / items)


# What a choice loses, what it is said to lose, and at most.
Stated = tuple[float, float, float]


@dataclass(frozen=True)
class Outcome:
    """What a choice lost, and what it stated: means over choices, in points, and the share within the bound."""

    lost: float
    expected: float
    within: float
    bound: float


def outcome(truths: Sequence[Truth], seeds: int, drawn: int) -> Outcome:
    """Draw tables from each truth, and choose."""
    generator = np.random.default_rng(seeds)
    return summary(
        [one for truth in truths for _ in range(drawn) if (one := _chosen(truth, seeds, generator)) is not None]
    )


def summary(choices: Sequence[Stated]) -> Outcome:
    """Return the means over choices, in points, and how many were within their bound."""
    lost, expected, bound = np.array(choices).T
    return Outcome(
        lost=100 * float(lost.mean()),
        expected=100 * float(expected.mean()),
        within=float((lost <= bound + 1e-12).mean()),
        bound=100 * float(bound.mean()),
    )


def _chosen(truth: Truth, seeds: int, generator: np.random.Generator) -> Stated | None:
    shape = len(truth.means), seeds
    values, vectors = np.linalg.eigh(np.diag(np.zeros(shape[0])) if truth.items is None else truth.items)
    of_items = vectors @ (np.sqrt(np.maximum(values, 0.0)) * generator.standard_normal(shape[0]))
    gains = (truth.means + of_items)[:, None] + truth.spread[:, None] * generator.standard_normal(shape)
    fell = generator.random(shape) < truth.rates[:, None]
    if truth.items is None:
        seen = fell.any() and not fell.all(axis=1).any()
        gains = np.where(fell, truth.floors[:, None], gains)
        return _stated(gains, None, truth.values, None, generator) if seen else None
    gains[fell] = np.nan
    if np.isnan(gains).sum(axis=1).max() == seeds:
        return None
    return _stated(gains, truth.floors, truth.values, truth.items, generator)


def _stated(
    gains: Floats, floors: Floats | None, truth: Floats, items: Floats | None, generator: np.random.Generator
) -> Stated:
    """Return what the cheapest method within the margin loses, what it is said to lose, and its bound."""
    contenders = [
        Contender(gains=tuple(row), fallen=int(np.isnan(row).sum()), floor=floor, choice_sd=0.0)
        for row, floor in zip(gains, [None] * len(gains) if floors is None else floors.tolist(), strict=True)
    ]
    usual = USUAL_SD if gains.shape[1] == 1 else None
    scores = draw_scores(contenders, items, int(generator.integers(2**32)), usual_sd=usual)
    assert scores is not None
    stated = losses(scores)
    costs = generator.permutation(np.arange(1.0, 1.0 + len(gains))).tolist()
    chosen = cheapest(range(len(gains)), stated, costs, MARGIN)
    return float(truth.max() - truth[chosen]), stated[chosen].expected, stated[chosen].at_most


def on_folds(world: World, design: Design, apart: float, tables: int) -> Outcome:
    """Choose among five methods on each of some tables of a world, by runs on folds."""
    generator, found = np.random.default_rng([world.rows, design.seeds, int(1_000 * apart)]), []
    for done in range(0, tables, BLOCK):
        size = min(BLOCK, tables - done)
        labels = np.where(generator.random((size, world.rows)) < 0.5, 1.0, -1.0)
        ridge, means = np.full(size, RIDGES[1]), world.apart * (1 + apart * generator.standard_normal((5, size)))
        runs = [Table(world, labels, of_method, generator).runs(design, ridge) for of_method in means]
        gains = np.stack([one.scores.mean(axis=-1) for one in runs], axis=1)
        truth = np.stack([one.truth.mean(axis=-1) for one in runs], axis=1)
        of_items = [None] * size
        if design.seeds == 1:
            right = np.stack([one.scores[:, 0] for one in runs], axis=1)
            of_items = [np.cov(of_table) / of_table.shape[1] for of_table in right]
        found += [
            _stated(*of_table, generator)
            for of_table in zip(gains, np.full((size, 5), 0.5), truth, of_items, strict=True)
        ]
    return summary(found)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few tables: shows that it runs")
    drawn = QUICK if parser.parse_args(argv).quick else DRAWN
    populations = {"those of the baselines": [*committed()]}
    populations |= {
        kind: [*made(kind)] for kind in ("equal", "close", "wide", "outlier", "few items", "collapses", "two kinds")
    }
    head = f"| lost | expected | within the bound of {SURE:.0%} | bound |\n| --- | ---: | ---: | ---: | ---: | ---: |"
    print(f"| tables | seeds {head}")
    for name, truths in populations.items():
        for seeds in SEEDS[truths[0].items is None :]:
            _print(f"{name} ({len(truths)}) | {seeds}", outcome(truths, seeds, drawn))
    print(f"\n| on folds | folds {head}")
    for world in WORLDS:
        for name, apart in APART.items():
            for design in ON_FOLDS:
                _print(
                    f"{world.rows:,} rows, {name} | {design.name.removesuffix(' folds')}",
                    on_folds(world, design, apart, BLOCK * drawn),
                )


def _print(row: str, found: Outcome) -> None:
    cells = f"{found.lost:.2f} | {found.expected:.2f} | {found.within:.3f} | {found.bound:.2f}"
    print(f"| {row} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
