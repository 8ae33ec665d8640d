"""Losses of series that are too young for the level test: on another machine, with another recipe, or in their first nights.

A series with fewer than eight nights is not judged, so a loss that arrives with new conditions would become their history.
Instead, tonight's runs are compared with the earlier runs of the series; in its first night, with those under the previous
conditions. The earlier runs give the spread (t on their number less one). A loss found here is run again with new seeds; if
they confirm it, the night does not fail, but is accepted only with `--change`.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_bench.gate.night_answer import Finding
from lora_bench.gate.past import Indexed, Past, mean_of, past_of, shown_move
from lora_bench.gate.series import NightCell, with_name
from lora_bench.report.text import plural
from lora_bench.stats import holm
from lora_bench.stats.estimate import student_tail
from lora_bench.stats.gate import CONFIRMATIONS, FEWEST_NIGHTS

# One in a hundred nights of an unchanged system with young series asks for an acknowledgement.
ALPHA = 0.01
# Fewer runs give no spread: a loss beyond the margin then needs an acknowledgement.
FEWEST_RUNS = 3


@dataclass(frozen=True)
class _Young:
    """A young series of tonight beside the runs that it is compared with."""

    cell: NightCell
    past: Past
    elsewhere: bool

    @property
    def runs(self) -> list[float]:
        """Return the earlier scores, on the scale of the tests."""
        return [score for night in self.past.history.seeds or () for score in night]

    def p_value(self, cell: NightCell) -> float | None:
        """Return the p-value of a loss as large as that of *cell* in an unchanged series; None without its mean.

        Without a spread it is 0 beyond the margin and else 1.
        """
        runs, mean = self.runs, mean_of(cell)
        if mean is None:
            return None
        loss = (statistics.fmean(runs) - mean) * (1 if cell.higher_is_better else -1)
        if loss <= self.past.history.margin:
            return 1.0
        if len(runs) < FEWEST_RUNS:
            return 0.0
        spread = max(statistics.stdev(runs), self.past.history.floor)
        error = spread * math.sqrt(1 / len(cell.runs) + 1 / len(runs))
        return student_tail(len(runs) - 1, loss / error)

    def finding(self, again: Sequence[NightCell]) -> Finding:
        """Return what is found after runs with new seeds."""
        mean = mean_of(self.cell)
        assert mean is not None, "a loss is that of a mean"
        was, now, change = shown_move(self.cell, statistics.fmean(self.runs), mean)
        where = f"{plural(len(self.runs), 'run')} {'under the conditions before' if self.elsewhere else 'so far'}"
        said = f"{now} where {where} give {was} ({change}): a loss in too young a series to be judged"
        found = [self.p_value(cell) for cell in again]
        if any(p_value is not None and p_value > ALPHA for p_value in found):
            return Finding(kind="loss", status="flaky", text=f"{said}; not so with new seeds")
        suspect = len(again) < CONFIRMATIONS and None not in found
        return Finding(kind="loss", status="undecided", text=said, suspect=suspect)


def young_losses(
    cells: Mapping[str, NightCell],
    pasts: Mapping[str, Past],
    nights: Sequence[Indexed],
    again: Mapping[str, Sequence[NightCell]],
) -> dict[str, Finding]:
    """Return a finding for every young series that lost, by series, all of them judged together."""
    young = {}
    for series, cell in cells.items():
        if mean_of(cell) is None or len(pasts[series].history.nights) >= FEWEST_NIGHTS:
            continue
        found = _Young(cell, pasts[series], elsewhere=False)
        if not found.runs and (before := _before(cell, nights)) is not None:
            found = _Young(cell, before, elsewhere=True)
        if found.runs:
            young[series] = found
    levels = holm([one.p_value(one.cell) for one in young.values()], ALPHA)
    return {
        series: one.finding(again[series])
        for (series, one), level in zip(young.items(), levels, strict=True)
        if level.p_value is not None and level.p_value <= ALPHA
    }


def _before(cell: NightCell, nights: Sequence[Indexed]) -> Past | None:
    """Return the past of the same cell under its previous conditions."""
    for night, _ in reversed(nights):
        for other in with_name(night, cell.name):
            under_rules = other.model_copy(update={"margin": cell.margin, "higher_is_better": cell.higher_is_better})
            past = past_of(night.series_of(other), under_rules, nights)
            if past.history.nights:
                return past
    return None
