"""Losses of series that are too young for the level test: on another machine, with another recipe, or in their first nights.

A series with fewer than eight nights is not judged, so a loss that comes together with new conditions would become their
history. Here tonight's runs are compared with the runs of the series so far; in its first night, with the runs under the
conditions before. The earlier runs give the spread (t on their number less one). A loss found here decides nothing, and the
night is accepted only with `--change`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_bench.gate.night_answer import Finding
from lora_bench.gate.past import Indexed, Past, mean_of, past_of, scaled_scores
from lora_bench.gate.series import NightCell, with_name
from lora_bench.report.text import difference, plural, score
from lora_bench.stats import holm
from lora_bench.stats.estimate import student_tail
from lora_bench.stats.gate import FEWEST_NIGHTS

# Of a hundred nights of an unchanged system with young series one asks for an acknowledgement.
ALPHA = 0.01
# Fewer runs tell nothing of their spread: a loss beyond the margin is then asked about.
FEWEST_RUNS = 3


@dataclass(frozen=True)
class _Young:
    """A young series of tonight beside the runs that it is compared with."""

    cell: NightCell
    past: Past
    elsewhere: bool

    @property
    def runs(self) -> list[float]:
        """The earlier scores, on the scale of the tests."""
        return [score for cell in self.past.cells for score in scaled_scores(cell)]

    @property
    def observed(self) -> float:
        mean = mean_of(self.cell)
        assert mean is not None
        return mean

    @property
    def loss(self) -> float:
        lost = statistics.fmean(self.runs) - self.observed
        return lost if self.cell.higher_is_better else -lost

    def p_value(self) -> float:
        """Of a loss this large from a series that has not moved; 0 beyond the margin where no spread is known, else 1."""
        runs = self.runs
        if self.loss <= self.past.history.margin:
            return 1.0
        if len(runs) < FEWEST_RUNS:
            return 0.0
        spread = max(statistics.stdev(runs), self.past.history.floor)
        error = spread * math.sqrt(1 / len(self.cell.runs) + 1 / len(runs))
        return student_tail(len(runs) - 1, self.loss / error)

    def text(self) -> str:
        """The loss in words."""
        linear = self.cell.scale == "linear"
        expected = statistics.fmean(self.runs)
        was, now = (value if linear else math.exp(value) for value in (expected, self.observed))
        change = difference(now - was) if linear else f"{now / was - 1:+.1%}"
        where = f"{plural(len(self.runs), 'run')} {'under the conditions before' if self.elsewhere else 'so far'}"
        return f"{score(now)} where {where} give {score(was)} ({change}): a loss in too young a series to be judged"


def young_losses(
    cells: Mapping[str, NightCell], pasts: Mapping[str, Past], nights: Sequence[Indexed]
) -> dict[str, Finding]:
    """Return a finding for every young series that lost, by series, all of them judged together.

    Args:
        cells: Tonight's.
        pasts: Of each of them.
        nights: Accepted, oldest first.
    """
    young = {}
    for series, cell in cells.items():
        if mean_of(cell) is None or len(pasts[series].means) >= FEWEST_NIGHTS:
            continue
        found = _Young(cell, pasts[series], elsewhere=False)
        if not found.runs and (before := _before(cell, nights)) is not None:
            found = _Young(cell, before, elsewhere=True)
        if found.runs:
            young[series] = found
    levels = holm([one.p_value() for one in young.values()], ALPHA)
    return {
        series: Finding(kind="loss", status="undecided", text=one.text())
        for (series, one), level in zip(young.items(), levels, strict=True)
        if level.p_value is not None and level.p_value <= ALPHA
    }


def _before(cell: NightCell, nights: Sequence[Indexed]) -> Past | None:
    """The past of the same cell under the conditions that it had last."""
    for one in reversed(nights):
        for other in with_name(one.night, cell.name):
            under_rules = other.model_copy(update={"margin": cell.margin, "higher_is_better": cell.higher_is_better})
            past = past_of(one.night.series_of(other), under_rules, nights, None)
            if any(earlier.scores for earlier in past.cells):
                return past
    return None
