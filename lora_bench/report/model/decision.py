"""The decision of a report, without words: the methods to take, how surely, and why nothing is decided.

The headline, the next step, reports beside this one and `Outcome.winner` read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lora_bench.records.record import Record
from lora_bench.report.model.choose_method import GRADES, LIKE_COST
from lora_bench.report.model.overview import DECIDED, NOT_WORSE, SHOWN, UNLESS, UNLESS_COLLAPSE, WITHIN, Line, Overview
from lora_bench.report.sections.improving import improving_runs
from lora_bench.stats.apart import least_p
from lora_bench.stats.verdict import FEWEST_PAIRS, Grade
from lora_bench.stats.verdict import grade as grade_of

# "partly": some comparisons are decided, and no method is advised.
Level = Grade | Literal["partly", "undecided"]

# Of more methods that are alike, the others are named, if these are worse.
MOST_ADVISED = 3


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The decision of a report.

    Args:
        kind: "pick" where verdicts speak for one method, "alike" where any of several will do, "open" where `choose_method`
            names one method and no verdict speaks for it, "several" where it names different ones, "undecided" where no
            comparison is decided; None where nothing was judged.
        level: Strength in a word; None where nothing was judged.
        grade: Grade of the verdicts that it rests on.
        pick: The method that `choose_method` names everywhere, if verdicts speak for it.
        named: The method that `choose_method` names everywhere, whether verdicts speak for it or not.
        advised: Methods to take, any of them; none where none is advised.
        ruled_out: Methods that are worse everywhere, where naming these few says more than naming those advised.
        rivals: Methods that keep the reference from being advised: not shown to be worse or equivalent, with no larger files.
        why: Reason that nothing is decided: too few seeds for a verdict, or collapses; None for neither.
        improving: Number of runs that were still improving when their budget ended.
        ended: Number of runs that ended with a score.
    """

    kind: Literal["pick", "alike", "open", "several", "undecided"] | None
    level: Level | None
    grade: Grade
    pick: Line | None = None
    named: Line | None = None
    advised: tuple[Line, ...] = ()
    ruled_out: tuple[Line, ...] = ()
    rivals: tuple[Line, ...] = ()
    why: Literal["seeds", "collapses"] | None = None
    improving: int
    ended: int

    @property
    def winner(self) -> str | None:
        """Label of the one method that is advised, or None."""
        return self.advised[0].label if len(self.advised) == 1 else None

    @property
    def share_improving(self) -> float:
        """Share of the runs that were still improving."""
        return self.improving / max(self.ended, 1)


def decide(overview: Overview, records: Sequence[Record]) -> Decision:
    """Return what the verdicts of a report of runs decide."""
    improving, ended = improving_runs(records, overview.comparison)
    nothing = Decision(kind=None, level=None, grade="exploratory", improving=improving, ended=ended)
    if overview.judged is None or not overview.contrasts:
        return nothing
    grade = grade_of(min(contrast.verdict.pairs for contrast in overview.contrasts))
    if not any(contrast.shown in SHOWN for contrast in overview.contrasts):
        return replace(nothing, kind="undecided", level="undecided", grade=grade, why=_why(overview))
    labels = {choice.method for choice in overview.choices}
    named = next((line for line in overview.methods if {line.label} == labels), None)
    advised = _advised(overview, named)
    if advised:
        grades = [choice.grade for choice in overview.choices if choice.grade is not None]
        if any(contrast.shown in UNLESS_COLLAPSE for line in advised for contrast in line.contrasts):
            grades.append("indicative")
        grade = min([grade, *grades], key=GRADES.index)
    kind: Literal["pick", "alike", "open", "several"]
    level: Level = grade
    rivals: list[Line] = []
    if len(advised) > 1:
        kind = "alike"
    elif named is None:
        kind, level = "several", _share_decided(overview, grade)
    elif not (rivals := _rivals(overview, named)) and _speaks_for(named):
        kind = "pick"
    else:
        kind, level, advised = "open", _share_decided(overview, "partly"), []
    return replace(
        nothing,
        kind=kind,
        level=level,
        grade=grade,
        pick=None if kind == "open" else named,
        named=named,
        advised=tuple(advised),
        rivals=tuple(rivals),
        ruled_out=tuple(_ruled_out(overview, advised)),
    )


def _why(overview: Overview) -> Literal["seeds", "collapses"] | None:
    verdicts = [contrast.verdict for contrast in overview.contrasts]
    if max(verdict.pairs for verdict in verdicts) < FEWEST_PAIRS:
        return "seeds"
    # Collapsed runs keep the least p after Holm's procedure above the error level in every comparison.
    out_of_reach = all(one.apart and one.family * least_p(one.pairs) > one.alpha for one in verdicts)
    return "collapses" if out_of_reach else None


def _share_decided(overview: Overview, if_all: Level) -> Level:
    """Return how much is decided where no method is advised."""
    decided = [contrast.shown in DECIDED for contrast in overview.contrasts]
    return if_all if all(decided) else "partly" if any(decided) else "undecided"


def _advised(overview: Overview, named: Line | None) -> list[Line]:
    """Return the method of choice, with all that are alike if it is one of them; all methods if all are alike."""
    as_good = ("equivalent", f"equivalent {UNLESS}")
    # The reference, and what is shown to be as good, if no run collapses, with files of its size.
    alike = [line for line in overview.methods if line.reference or (line.all_shown(as_good) and line.like_file)]
    if len(alike) == len(overview.methods) or (named in alike and len(alike) > 1):
        return alike
    return [] if named is None else [named]


def _rivals(overview: Overview, named: Line) -> list[Line]:
    """Return the methods that may be better than the reference at its cost, if that is named."""
    if not named.reference:
        return []
    settled = ("worse", "equivalent", f"equivalent {UNLESS}")
    return [line for line in overview.methods if line.contrasts and not (line.all_shown(settled) or _dearer(line))]


def _dearer(line: Line) -> bool:
    """Tell if a method has larger files than the reference, and is nowhere shown to be better."""
    larger = line.file_ratio is not None and line.file_ratio > 1 + LIKE_COST
    return larger and "better" not in line.by_verdict


def _speaks_for(named: Line) -> bool:
    """Tell if verdicts speak for a method: it is nowhere worse, and somewhere better if its file is larger."""
    if named.reference:
        return True
    larger = named.file_ratio is not None and named.file_ratio > 1 + LIKE_COST
    return named.all_shown(NOT_WORSE) and not (larger and named.all_shown((*WITHIN, *UNLESS_COLLAPSE)))


def _ruled_out(overview: Overview, advised: Sequence[Line]) -> list[Line]:
    rest = [line for line in overview.methods if line not in advised and line.contrasts]
    few = len(advised) > MOST_ADVISED and len(rest) < len(advised)
    return rest if few and all(line.all_shown(("worse",)) for line in rest) else []
