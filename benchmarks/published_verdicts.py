"""What verdicts on published numbers say where the truth is known.

    python benchmarks/published_verdicts.py              the tables of docs/error-rates.md; two minutes of one CPU core
    python benchmarks/published_verdicts.py --quick      seconds: shows that it runs

Scores of single runs are normal. The published number is the mean of its own runs, printed with one decimal of a percent and,
unless it is of one run, with its standard deviation. Each word comes from `lora_bench.published.rule`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lora_bench.published.rule import TOLERANCE, Gap, Word, uncertainty, words

EXPERIMENTS, QUICK = 4000, 20
FAMILIES, CELLS = 500, 40
WORDS: tuple[Word, ...] = ("reproduced", "in line", "not reproduced", "too wide")
POINT, STEP = 0.01, 0.0005
DESIGNS = ((5, 5), (5, 1), (3, 3))
DEVIATIONS = (0.2, 0.5, 1.0, 2.0)
DIFFERENCES = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)


@dataclass(frozen=True)
class World:
    """Where scores come from; standard deviations and the difference are in points.

    Args:
        runs: Ours.
        seeds: Theirs.
        deviation: Of single runs.
        difference: True mean of ours less theirs.
        start: Standard deviation of the luck that all runs of one start share.
        starts: 1 if ours come from one start, and so do theirs; else 0.
    """

    runs: int
    seeds: int
    deviation: float
    difference: float
    start: float = 0.0
    starts: int = 0

    def gap(self, generator: np.random.Generator) -> Gap:
        """Draw our runs and a published number."""
        luck = self.start * generator.standard_normal(2)
        ours = POINT * (80 + self.difference + luck[0] + self.deviation * generator.standard_normal(self.runs))
        theirs = POINT * (80 + luck[1] + self.deviation * generator.standard_normal(self.seeds))
        spread = round(float(theirs.std(ddof=1)), 3) if self.seeds > 1 else None
        known = uncertainty(ours.tolist(), "mean", spread=spread, seeds=self.seeds, starts=self.starts)
        assert known is not None
        printed = round(float(theirs.mean()), 3)
        return Gap(difference=float(ours.mean()) - printed, uncertainty=known, tolerance=TOLERANCE, rounding=STEP)


def alone(world: World, experiments: int, seed: int = 1) -> Counter[Word]:
    """Count the words on cells that are each judged alone."""
    generator = np.random.default_rng(seed)
    return Counter(words([world.gap(generator)])[0] for _ in range(experiments))


def tables_with(world: World, word: Word, families: int, seed: int = 1) -> float:
    """Return the share of tables of `CELLS` cells that have a word at least once."""
    generator = np.random.default_rng(seed)
    return float(np.mean([word in words([world.gap(generator) for _ in range(CELLS)]) for _ in range(families)]))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few experiments: shows that it runs")
    quick = parser.parse_args(argv).quick
    experiments, families = (QUICK, 2) if quick else (EXPERIMENTS, FAMILIES)
    print("| our runs | theirs | SD | true difference | reproduced | in line | not reproduced | too wide |")
    print("| --: | --: | --: | --: | --: | --: | --: | --: |")
    for runs, seeds in DESIGNS:
        for deviation in DEVIATIONS:
            for difference in DIFFERENCES:
                found = alone(World(runs, seeds, deviation, difference), experiments)
                shares = " | ".join(f"{found[word] / experiments:.1%}" for word in WORDS)
                print(f"| {runs} | {seeds} | {deviation} | {difference:g} | {shares} |")
    print()
    print(f"| tables of {CELLS} cells, SD 0.5, 5 + 5 runs | with one wrong word or more |")
    print("| --- | --: |")
    for difference, word in ((0.0, "not reproduced"), (1.0, "reproduced")):
        share = tables_with(World(5, 5, 0.5, difference), word, families)
        print(f"| true difference {difference:g}, *{word}* | {share:.1%} |")
    print()
    print("| no true difference, SD 0.5, a start's luck 0.5, 5 + 5 runs | not reproduced |")
    print("| --- | --: |")
    for said, starts in (("start left out", 0), ("start counted", 1)):
        found = alone(World(5, 5, 0.5, 0.0, start=0.5, starts=starts), experiments)
        print(f"| {said} | {found['not reproduced'] / experiments:.1%} |")


if __name__ == "__main__":
    main()
