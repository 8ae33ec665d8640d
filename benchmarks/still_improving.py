"""How often runs are rightly called "still improving": on committed runs with a longer one of their seed, and made-up curves.

    python -m benchmarks.still_improving

A run gains if the longer run of its method and seed scores more than half a point higher on the test split. Made-up curves have
independent normal noise: flat ones, ones that fall by two standard deviations and are flat from a third of the run on, and ones
that fall on with the logarithm of the step, by one standard deviation with each doubling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lora_bench.records.record import CurvePoint, Record
from lora_bench.records.store import read_records
from lora_bench.report.sections.improving import still_improving
from lora_bench.report.text import table

BASELINES = Path(__file__).parents[1] / "baselines"
# The shorter suite, and the one whose runs are as long or longer by the factor, on the same task and base model.
LONGER = [
    ("glue-small", "sst2-decided", "200 to 500 steps"),
    ("order-grouped", "sst2-decided", "250 to 500 steps"),
    ("order-shuffled", "sst2-decided", "250 to 500 steps, shuffled first"),
]
GAIN = 0.005
CURVES = 2_000


def pairs(short: str, long: str) -> Iterator[tuple[Record, Record]]:
    """Yield the runs of two suites with one method and seed."""
    first, second = (
        {
            (run.spec.method.label, run.spec.seed): run
            for run in read_records(BASELINES / name)
            if run.spec.score_on == "test" and run.spec.task.name == "sst2"
        }
        for name in (short, long)
    )
    yield from ((run, second[key]) for key, run in sorted(first.items()) if key in second)


def flagged(sample: Record, losses: np.ndarray) -> float:
    """Return the share of curves that are called still improving."""
    runs = (
        sample.model_copy(
            update={"curve": tuple(CurvePoint(step=n + 1, loss=float(loss)) for n, loss in enumerate(curve))}
        )
        for curve in losses
    )
    return sum(still_improving(run) for run in runs) / len(losses)


def main() -> None:
    """Print the tables of docs/budgets.md."""
    rows = []
    for short, long, steps in LONGER:
        found = [(still_improving(run), longer.judged_score - run.judged_score) for run, longer in pairs(short, long)]
        gained = [called for called, gain in found if gain > GAIN]
        others = [called for called, gain in found if gain <= GAIN]
        rows.append([steps, f"{sum(gained)} of {len(gained)}", f"{sum(others)} of {len(others)}"])
    print("\n".join(table(["runs", "of those that gain, called", "of the others, called"], rows)), end="\n\n")

    sample = next(run for run, _ in pairs(*LONGER[0][:2]))
    generator = np.random.default_rng(0)
    rows = []
    for points in (10, 20, 50):
        noise = generator.normal(1, 0.01, (CURVES, points))
        place = np.arange(1, points + 1) / points
        laws = (0 * place, 0.02 * np.maximum(0, 1 - 3 * place), -0.01 * np.log(place) / math.log(2))
        rows.append([str(points), *(f"{100 * flagged(sample, noise + law):.0f} %" for law in laws)])
    print("\n".join(table(["points", "flat", "flat from a third on", "falling by one SD a doubling"], rows)))


if __name__ == "__main__":
    main()
