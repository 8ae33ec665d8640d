"""What tuning came to: how good the best of fewer trials would have been, and what all of them cost.

A method that is tried more often looks better. So the expected best of k trials stands beside the best of all, for every method
at the same k (Dodge et al. 2019, in the unbiased form of Tang et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lora_bench.report import text
from lora_bench.report.comparison import Setting
from lora_bench.report.rows import Row
from lora_bench.report.tables import method_name, metric_name, model_name, size
from lora_bench.report.text import MISSING
from lora_bench.stats import expected_best


def trial_lines(setting: Setting) -> list[str]:
    """The expected best of a search, as lines of Markdown; empty where no method was tried more than once."""
    better = setting.spec.task.higher_is_better
    found: list[tuple[list[str], list[Row]]] = []
    for table in setting.tables:
        by_method: dict[tuple[str, str], list[Row]] = {}
        for row in table.rows:
            by_method.setdefault((row.label, size(row)), []).append(row)
        found += [([model_name(table), method_name(rows[0])], rows) for rows in by_method.values()]
    most = max((len(rows) for _, rows in found), default=0)
    if better is None or most < 2:
        return []
    lines = []
    for names, rows in found:
        scores = _at_each_rate(rows)
        expected: Sequence[float] = expected_best(scores, higher_is_better=better) if scores else ()
        cells = [text.score(value) for value in expected]
        lines.append([*names, *cells, *[MISSING] * (most - len(cells)), text.rate(_seconds(rows))])
    header = [
        "base model",
        "method",
        *(text.plural(number, "trial") for number in range(1, most + 1)),
        "training, s in all",
    ]
    return [
        "",
        f"The expected best {metric_name(setting)} of so many of these trials, drawn without regard to their scores; a trial "
        "is the mean over its seeds, and one that failed counts as the majority class. The last column is what they cost.",
        "",
        *text.table(header, lines, numbers_from=2),
    ]


def _at_each_rate(rows: Sequence[Row]) -> list[float]:
    """The mean score of each trial, at the floor where a run of it failed; empty where the floor of one is not known."""
    scores = []
    for row in rows:
        value = row.majority_score if row.failures or row.score is None else row.score.mean
        if value is None:
            return []
        scores.append(value)
    return scores


def _seconds(rows: Sequence[Row]) -> float | None:
    known = [row.train_seconds_total for row in rows if row.train_seconds_total is not None]
    return math.fsum(known) if known else None
