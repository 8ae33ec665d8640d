"""What `lora-bench check --against` sees with few seeds: smallest losses found, and false alarms.

    python -m benchmarks.against_simulation            the table of docs/error-rates.md; some minutes of one CPU core
    python -m benchmarks.against_simulation --quick    seconds: shows that it runs

In a family of comparisons one method loses, and the others stay as they are. Scores of a seed differ between the two sets by
normal noise of standard deviation 1, as where training is not bit for bit the same; the margin is 0.5. Judged by
`lora_bench.stats.judge`, by the rule of `lora_bench.gate.against`: a loss must be shown, and beyond the margin.
"""

from __future__ import annotations

import argparse

import numpy as np

from lora_bench.stats import judge, paired_difference

SEEDS = (3, 5, 10)
FAMILIES = (1, 4, 12)
MARGIN, FOUND = 0.5, 0.8
LOSSES = np.round(np.concatenate([np.arange(1.0, 3.0, 0.1), np.arange(3.0, 20.5, 0.5)]), 1)


def lost(generator: np.random.Generator, seeds: int, family: int, loss: float) -> list[bool]:
    """Judge one family, whose first comparison has a loss: which of them count as regressions."""
    # Scores around 50, so that noise is small beside them, as in a metric of percent.
    noise = generator.standard_normal((family, seeds))
    noise[0] -= loss
    differences = {
        number: paired_difference(dict(enumerate(50.0 + row)), dict.fromkeys(range(seeds), 50.0), draw_seed=0)
        for number, row in enumerate(noise)
    }
    found = judge(differences, margin=MARGIN, power=None)
    return [one.verdict == "worse" and one.difference < -MARGIN for one in found.values()]


def share_found(seeds: int, family: int, loss: float, families: int) -> float:
    generator = np.random.default_rng([seeds, family, int(loss * 10)])
    return float(np.mean([lost(generator, seeds, family, loss)[0] for _ in range(families)]))


def smallest(seeds: int, family: int, families: int) -> float | None:
    """The smallest loss that is found in 80 % of families, by bisection over the list of losses."""
    low, high = 0, len(LOSSES)
    while low < high:
        middle = (low + high) // 2
        if share_found(seeds, family, float(LOSSES[middle]), families) >= FOUND:
            high = middle
        else:
            low = middle + 1
    return float(LOSSES[low]) if low < len(LOSSES) else None


def false_alarms(seeds: int, family: int, families: int) -> float:
    """The share of families without any loss in which one is called a regression."""
    generator = np.random.default_rng([seeds, family])
    return float(np.mean([any(lost(generator, seeds, family, 0.0)) for _ in range(families)]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    families = 20 if parser.parse_args().quick else 400
    print("| comparisons | seeds | smallest loss found in 80 % of runs | pull requests without a loss that fail |")
    print("| ---: | ---: | ---: | ---: |")
    for family in FAMILIES:
        for seeds in SEEDS:
            loss = smallest(seeds, family, families)
            shown = "none" if loss is None else f"{loss:.1f} SD"
            print(f"| {family} | {seeds} | {shown} | {false_alarms(seeds, family, families):.3f} |", flush=True)


if __name__ == "__main__":
    main()
