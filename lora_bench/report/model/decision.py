"""The decision of a report, without words: the method to take, how much of it is shown, and why nothing is.

The headline, the next step, reports beside this one and `Outcome.winner` read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from lora_bench.records.record import Record
from lora_bench.report.model.overview import DECIDED, SHOWN, Line, Overview
from lora_bench.report.sections.improving import improving_runs
from lora_bench.stats.apart import least_p
from lora_bench.stats.verdict import FEWEST_PAIRS, Grade
from lora_bench.stats.verdict import grade as grade_of

# "partly": some comparisons are decided.
Level = Grade | Literal["partly", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The decision of a report.

    Args:
        level: Strength of what is shown; None where nothing was judged.
        taken: The method to take; None where nothing was judged, runs learned nothing, or tables share no methods.
        why: Reason that nothing is shown: too few seeds for a verdict, or collapses; None for neither.
        improving: Number of runs that were still improving when their budget ended.
        ended: Number of runs that ended with a score.
    """

    level: Level | None = None
    taken: Line | None = None
    why: Literal["seeds", "collapses"] | None = None
    improving: int
    ended: int

    @property
    def winner(self) -> str | None:
        """Label of the method to take, or None."""
        return None if self.taken is None else self.taken.label

    @property
    def all_shown(self) -> bool:
        """Whether every comparison is decided."""
        return self.level in get_args(Grade)

    @property
    def share_improving(self) -> float:
        """Share of the runs that were still improving."""
        return self.improving / max(self.ended, 1)


def decide(overview: Overview, records: Sequence[Record]) -> Decision:
    """Return what the runs of a report decide."""
    improving, ended = improving_runs(records, overview.comparison)
    nothing = Decision(improving=improving, ended=ended)
    if overview.judged is None or not overview.contrasts:
        return nothing
    label = overview.taken.label if overview.taken is not None else None
    taken = next((line for line in overview.methods if line.label == label), None)
    if not any(contrast.shown in SHOWN for contrast in overview.contrasts):
        return replace(nothing, level="undecided", taken=taken, why=_why(overview))
    decided = [contrast.shown in DECIDED for contrast in overview.contrasts]
    grade = grade_of(min(contrast.verdict.pairs for contrast in overview.contrasts))
    level: Level = grade if all(decided) else "partly" if any(decided) else "undecided"
    return replace(nothing, level=level, taken=taken)


def _why(overview: Overview) -> Literal["seeds", "collapses"] | None:
    verdicts = [contrast.verdict for contrast in overview.contrasts]
    if max(verdict.pairs for verdict in verdicts) < FEWEST_PAIRS:
        return "seeds"
    # Collapsed runs keep the least p after Holm's procedure above the error level in every comparison.
    out_of_reach = all(one.apart and one.family * least_p(one.pairs) > one.alpha for one in verdicts)
    return "collapses" if out_of_reach else None
