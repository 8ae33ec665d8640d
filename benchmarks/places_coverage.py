"""Coverage of the intervals of `lora-bench pool`: tasks, base models, seeds and test items drawn at random.

    python -m benchmarks.places_coverage [--repeats 4000]

Each repeat draws effects of tasks (SD 1 point), of base models and of places, adds the noise of seeds and items, and asks if
the 95 % interval has the true mean, 0. Plans: every task on every base model, or most tasks on the first base model alone. In
brackets: the median width of an interval in points. Columns: SD of the effects of base models, in points.
"""

from __future__ import annotations

import argparse

import numpy as np

from lora_bench.report.text import table
from lora_bench.stats.places import PlaceDifference, over_places

# Tasks, base models, and tasks that have base models beside the first.
PLANS = [(3, 1, 0), (5, 1, 0), (9, 1, 0), (3, 2, 3), (5, 2, 5), (9, 2, 2), (9, 3, 9), (9, 3, 2), (9, 3, 4)]
# Standard deviations in points: base models, interaction, noise.
SPREADS = [(0.0, 0.3, 0.3), (0.5, 0.5, 0.5), (1.0, 0.5, 0.5)]


def coverage(plan: tuple[int, int, int], spreads: tuple[float, float, float], repeats: int) -> tuple[float, float]:
    """Return the share of intervals with the true mean, and their median width in points."""
    tasks, models, shared = plan
    of_model, of_place, noise = spreads
    keys = [(task, model) for model in range(models) for task in range(tasks) if model == 0 or task < shared]
    generator = np.random.default_rng([*plan, *(int(10 * one) for one in spreads)])
    hits, widths = 0, []
    for _ in range(repeats):
        task, model = generator.normal(0, 1, tasks), generator.normal(0, of_model, models)
        rest = generator.normal(0, np.hypot(of_place, noise), len(keys))
        places = {
            (f"t{t}", f"m{m}"): PlaceDifference(value=float(task[t] + model[m] + e), error=noise, freedom=8.0)
            for (t, m), e in zip(keys, rest, strict=True)
        }
        interval = over_places(places).estimate.interval()
        assert interval is not None
        hits += 0.0 in interval
        widths.append(interval.high - interval.low)
    return hits / repeats, float(np.median(widths))


def main() -> None:
    """Print the table of docs/statistics.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=4_000)
    repeats = parser.parse_args().repeats
    rows = []
    for plan in PLANS:
        tasks, models, shared = plan
        of_others = "–" if models == 1 else "all" if shared == tasks else str(shared)
        # One base model is no draw of base models: its effect is part of what is estimated.
        found = [coverage(plan, (0.0, *one[1:]) if models == 1 else one, repeats) for one in SPREADS]
        rows.append(
            [str(tasks), str(models), of_others, *(f"{100 * share:.1f} % ({width:.1f})" for share, width in found)]
        )
    header = ["tasks", "base models", "tasks on the others", *(f"base models SD {one[0]:g}" for one in SPREADS)]
    print("\n".join(table(header, rows)))


if __name__ == "__main__":
    main()
