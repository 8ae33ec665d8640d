"""How often `lora-bench check --against` passes without a loss, passes one that it should not, and finds one.

    python -m benchmarks.against_simulation            the tables of docs/error-rates.md; two minutes of one CPU core
    python -m benchmarks.against_simulation --quick    seconds: shows that it runs

Scores are in points, and their standard deviation over seeds is .65 in both sets, as of a small model on SST-2. Training is not
bit for bit the same: scores of one seed have nothing in common, unless said otherwise. Many checks are judged at once as
`lora_bench.stats.pooled` judges them (a test holds the two together), and regressions by `lora_bench.stats.judge`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc, stdtr

from lora_bench.report.sections.compare_runs import FEWEST_OF_A_CHANGE
from lora_bench.stats import judge, paired_difference
from lora_bench.stats.pooled import LEVEL, with_pooled_spread

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]

RUN = 0.65
SD = RUN * float(np.sqrt(2))
SEEDS = (3, 5, 10)
ALPHA = 0.05
CELLS_AND_MARGINS = ((4, 0.5), (4, 1.0), (4, 1.5), (12, 1.0), (12, 1.5))
CHECKS, BLOCK = 100_000, 10_000


def normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return generator.standard_normal(shape)


def collapsing(rate: float) -> Draw:
    """A share of runs ends ten standard deviations below."""
    return lambda generator, shape: generator.standard_normal(shape) - 10.0 * (generator.random(shape) < rate)


@dataclass(frozen=True)
class Law:
    """The scores of a cell, in points.

    Args:
        run: Draws them, with a standard deviation of about 1 run.
        first: Spread of the first cell, which is the one that loses, beside that of the others.
        together: Correlation of both sets' scores of a seed.
    """

    run: Draw = normal
    first: float = 1.0
    together: float = 0.0

    def draw(self, generator: np.random.Generator, checks: int, cells: int, seeds: int) -> tuple[Floats, Floats]:
        """The scores before and after a change that changes nothing, each of shape (checks, cells, seeds)."""
        width = np.where(np.arange(cells) == 0, self.first, 1.0)[:, None]
        shared, *own = (self.run(generator, (checks, cells, seeds)) for _ in range(3))
        share = self.together
        before, now = (80 + RUN * width * (np.sqrt(share) * shared + np.sqrt(1 - share) * one) for one in own)
        return before, now


LAWS = {
    "normal": Law(),
    "scores of a seed correlated, .6": Law(together=0.6),
    "heavy tails: Student's t, 3": Law(run=lambda generator, shape: generator.standard_t(3, shape) / np.sqrt(3)),
    "a few bad runs: −exponential": Law(run=lambda generator, shape: -generator.standard_exponential(shape)),
    "10 % collapse by 10 SD": Law(run=collapsing(0.1)),
    "30 % collapse by 10 SD": Law(run=collapsing(0.3)),
}
WIDER = {f"this cell has {width:g} times the spread": Law(first=width) for width in (1.5, 2.0, 4.0)}


def spread(before: Floats, now: Floats) -> tuple[Floats, Floats]:
    """The variance of every cell's differences and its degrees of freedom, each of shape (checks, cells)."""
    cells, seeds = before.shape[1:]
    own, both = (
        [scores.var(axis=-1, ddof=1) for scores in (before, now)],
        [scores - scores.mean(axis=-1, keepdims=True) for scores in (before, now)],
    )
    correlation = (both[0] * both[1]).sum(axis=-1) / (seeds - 1) / np.sqrt(own[0] * own[1])
    mean, freedom = correlation.mean(axis=1), cells * (seeds - 1)
    paired = 2 * stdtr(freedom - 1, -np.abs(mean) * np.sqrt((freedom - 1) / (1 - mean**2))) <= LEVEL
    variance = np.where(paired[:, None], (now - before).var(axis=-1, ddof=1), own[0] + own[1])
    each = np.where(paired, 1, 2) * (seeds - 1)
    pooled = np.ones(variance.shape, dtype=bool)
    for left in range(cells, 1, -1):
        widest = np.where(pooled, variance, -1.0).argmax(axis=1)
        greatest = np.take_along_axis(variance, widest[:, None], axis=1)[:, 0]
        rest = ((pooled * variance).sum(axis=1) - greatest) / (left - 1)
        out = (pooled.sum(axis=1) == left) & (fdtrc(each, (left - 1) * each, greatest / rest) * left <= LEVEL)
        pooled[np.flatnonzero(out), widest[out]] = False
    count = pooled.sum(axis=1, keepdims=True)
    together = (pooled * variance).sum(axis=1, keepdims=True) / count
    return np.where(pooled, together, variance), np.where(pooled, count, 1) * each[:, None].astype(float)


def excluded(before: Floats, now: Floats, margin: float) -> NDArray[np.bool_]:
    """Which cells exclude a loss of the margin, of shape (checks, cells)."""
    variance, freedom = spread(before, now)
    t = ((now - before).mean(axis=-1) + margin) / np.sqrt(variance / before.shape[-1])
    return np.asarray(stdtr(freedom, -t) <= ALPHA)


def passed(cells: int, seeds: int, margin: float, checks: int) -> float:
    """The share of checks without a loss in which every cell excludes one."""
    count = 0
    for done in range(0, checks, BLOCK):
        generator = np.random.default_rng([cells, seeds, int(margin * 10), done])
        before, now = LAWS["normal"].draw(generator, min(BLOCK, checks - done), cells, seeds)
        count += int(excluded(before, now, margin).all(axis=1).sum())
    return count / checks


def loss_passed(law: str, cells: int, seeds: int, checks: int) -> float:
    """The share of checks in which the first cell excludes the loss that it has: no other cell keeps them from passing."""
    count = 0
    for done in range(0, checks, BLOCK):
        generator = np.random.default_rng([cells, seeds, done, *law.encode()])
        before, now = {**LAWS, **WIDER}[law].draw(generator, min(BLOCK, checks - done), cells, seeds)
        now[:, 0] -= 1.0
        count += int(excluded(before, now, 1.0)[:, 0].sum())
    return count / checks


def called(cells: int, seeds: int, margin: float, loss: float, checks: int) -> float:
    """The share of checks in which the cell that lost is a regression, or, without a loss, any cell."""
    generator = np.random.default_rng([cells, seeds, int(margin * 10), int(loss * 10)])
    before, now = LAWS["normal"].draw(generator, checks, cells, seeds)
    now[:, 0] -= loss
    count = 0
    for scores in zip(now, before, strict=True):
        family = {
            cell: paired_difference(*(dict(enumerate(one[cell].tolist())) for one in scores), draw_seed=0)
            for cell in range(cells)
        }
        found = judge(
            with_pooled_spread(family, dict.fromkeys(family, "accuracy")),
            margin=margin,
            power=None,
            fewest=FEWEST_OF_A_CHANGE,
        )
        regressions = [one.verdict == "worse" and one.difference < -margin for one in found.values()]
        count += regressions[0] if loss else any(regressions)
    return count / checks


def shown(values: Iterator[float]) -> str:
    return "/".join(f"{value:.3f}".removeprefix("0") for value in values)


def passing_lines(checks: int) -> Iterator[str]:
    """How often a check without a loss passes or fails, and one with a loss of two points is found."""
    yield "| margin, points | cells | without a loss: pass, 3/5/10 seeds | fail | a loss of 2 points found |"
    yield "| ---: | ---: | ---: | ---: | ---: |"
    for cells, margin in CELLS_AND_MARGINS:
        row = [shown(passed(cells, seeds, margin, checks) for seeds in SEEDS)]
        row += [shown(called(cells, seeds, margin, loss, checks // 400) for seeds in SEEDS) for loss in (0.0, 2.0)]
        yield f"| {margin} | {cells} | {' | '.join(row)} |"


def loss_lines(checks: int) -> Iterator[str]:
    """How often a cell that lost the margin excludes that."""
    yield "| a cell that lost the margin excludes that | alone: 3/5/10 seeds | one of 4 | one of 12 |"
    yield "| --- | ---: | ---: | ---: |"
    for law in (*LAWS, *WIDER):
        some = checks if law == "normal" else checks // 5
        row = [shown(loss_passed(law, cells, seeds, some) for seeds in SEEDS) for cells in (1, 4, 12)]
        yield f"| {law} | {' | '.join(row)} |"


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    checks = 400 if parser.parse_args(arguments).quick else CHECKS
    for lines in (passing_lines, loss_lines):
        print(*lines(checks), "", sep="\n", flush=True)


if __name__ == "__main__":
    main()
