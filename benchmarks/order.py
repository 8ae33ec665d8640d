"""Grouped batches less shuffled ones, by seed: do batches of like lengths cost accuracy?

    python -m benchmarks.order

Intervals cover new seeds and test items; p is Holm's over all rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lora_bench.records.store import answers_in, has_records, read_records
from lora_bench.report.model.comparison import compare, rows_of
from lora_bench.report.model.seed_scores import Scored, difference_of, scored
from lora_bench.report.text import probability, table
from lora_bench.stats import holm

BASELINES = Path(__file__).parents[1] / "baselines"
SUITES = ("order-50", "order-200", "order-grouped", "order-shuffled", "order-1000")


def rows() -> Iterator[tuple[tuple[int, str], str, Scored]]:
    """Yield steps and method, order, and scores."""
    for name in SUITES:
        if not has_records(BASELINES / name):
            continue
        records = read_records(BASELINES / name)
        answers = answers_in(BASELINES / name, records)
        for setting, _, row in rows_of(compare(records).results):
            training = setting.spec.training
            label = row.label.removesuffix("-shuffled")
            yield (training.steps or 0, label), training.order, scored(row, setting, answers)


def points(difference: float) -> str:
    """Return a difference in points of 100."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def main() -> None:
    """Print the table of docs/scaling.md."""
    found: dict[tuple[int, str], dict[str, Scored]] = {}
    for key, order, row in rows():
        found.setdefault(key, {})[order] = row
    compared = {key: difference_of(pair["grouped"], pair["shuffled"]) for key, pair in sorted(found.items())}
    differences = {key: one.difference for key, one in compared.items() if not isinstance(one, str)}
    adjusted = holm([one.estimate.p_value() for one in differences.values()], 0.05)
    lines = []
    for ((steps, label), one), p in zip(differences.items(), adjusted, strict=True):
        interval = one.estimate.interval()
        ends = "–" if interval is None else f"{points(interval.low)} to {points(interval.high)}"
        means = [100 * sum(scores) / len(scores) for scores in one.scores]
        lines.append(
            [
                f"{steps:,}", f"`{label}`", str(one.pairs), f"{means[0]:.1f}", f"{means[1]:.1f}",
                points(one.estimate.value), ends, probability(p.p_value),
            ]
        )  # fmt: skip
    header = ["steps", "method", "seeds", "grouped", "shuffled", "difference", "interval", "p"]
    print("\n".join(table(header, lines, numbers_from=2)))


if __name__ == "__main__":
    main()
