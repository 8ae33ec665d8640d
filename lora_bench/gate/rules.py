"""Rules for judging a night: the margin and the direction of each cell in the accepted nights.

A night's own records carry its suite's declaration. If that applied, a suite could lower its own bar on a bad night. So the
accepted nights decide, and `baseline accept` takes a different declaration only with `--change`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_bench.gate.night_answer import Finding
from lora_bench.gate.series import Night, NightCell, with_name

STATED = "the accepted nights hold"


@dataclass(frozen=True)
class Ruled:
    """A night's cells with the margin and the direction of the accepted nights, and findings on those that declare others."""

    cells: dict[str, NightCell]
    findings: dict[str, Finding]


def under_rules(cells: Mapping[str, NightCell], accepted: Sequence[Night], margin: float | None = None) -> Ruled:
    """Put tonight's cells under the rules of the accepted nights, oldest first.

    *margin* is declared for tonight in place of its suite's own, for scores.
    """
    ruled: dict[str, NightCell] = {}
    findings: dict[str, Finding] = {}
    for series, own in declared(cells, margin).items():
        rule = _rule_of(own, accepted) or own
        ruled[series] = own.model_copy(update={"margin": rule.margin, "higher_is_better": rule.higher_is_better})
        if changes := _changes(rule, own):
            text = f"other rules: {'; '.join(changes)}"
            findings[series] = Finding(kind="rules", status="undecided", text=text)
    return Ruled(ruled, findings)


def declared(cells: Mapping[str, NightCell], margin: float | None) -> dict[str, NightCell]:
    """Return the cells with *margin* in place of their suite's; steps of probes keep theirs."""
    return {
        series: cell if margin is None or cell.scale == "log" else cell.model_copy(update={"margin": margin})
        for series, cell in cells.items()
    }


def _rule_of(cell: NightCell, accepted: Sequence[Night]) -> NightCell | None:
    """Return the last accepted cell of that name, or for a new name the last of its task and metric."""
    for night in reversed(accepted):
        if found := with_name(night, cell.name):
            return found[0]
    what = cell.name.task, cell.name.metric
    cells = (other for night in reversed(accepted) for other in night.cells)
    return next((other for other in cells if (other.name.task, other.name.metric) == what), None)


def _changes(rule: NightCell, own: NightCell) -> list[str]:
    """Describe each rule that *own* declares differently."""
    changes = []
    if own.margin != rule.margin:
        changes.append(f"{STATED} a margin of {_margin(rule)}, tonight declares {_margin(own)}")
    if own.higher_is_better != rule.higher_is_better:
        better = "higher" if rule.higher_is_better else "lower"
        changes.append(f"{STATED} {better} scores to be better, tonight declares the opposite")
    return changes


def _margin(cell: NightCell) -> str:
    return "none" if cell.margin is None else f"{cell.margin:.4g}"
