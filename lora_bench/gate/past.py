"""A series' past in accepted nights, and the rules that they set.

The past is its cells since the last acknowledged change, their means, and the tests' input.

Scores that new seeds did not confirm, of a flaky night, are no part of the input: one collapsed run would widen the spread for
twenty nights, and draw down the mean of the last five.

Rules are the margin and the direction of each cell. A night's own records carry its suite's declaration. If that applied, a
suite could lower its own bar on a bad night. So the accepted nights decide, and `baseline accept` takes a different declaration
only with `--change`.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_bench.gate.night_answer import Finding
from lora_bench.gate.series import Night, NightCell, with_name
from lora_bench.report.text import difference, score
from lora_bench.stats.gate import FEWEST_NIGHTS, MOST_NIGHTS, TRAILING_NIGHTS, History

# Drift is measured from the first accepted nights since the last acknowledged change, at most twenty of them and none
# of the last five.
DRIFT_NIGHTS = FEWEST_NIGHTS + TRAILING_NIGHTS - 1
# The smallest plausible spread, as a share of the margin, or of the mean without a margin.
FLOOR_SHARE, FLOOR_WITHOUT_MARGIN = 0.25, 1e-4
STATED = "the accepted nights hold"


@dataclass(frozen=True)
class Past:
    """A series in the accepted nights since its last acknowledged change, oldest first, on the scale of its tests.

    *labels* are those of nights whose runs all have scores, without the flaky ones; *history* has the means of these.
    """

    cells: tuple[NightCell, ...]
    labels: tuple[str, ...]
    history: History


# A night with its cells by series id. Ids are hashes, and a history looks each one up many times.
Indexed = tuple[Night, Mapping[str, NightCell]]


def indexed(nights: Sequence[Night]) -> list[Indexed]:
    """Index the cells of each night by series."""
    return [(night, night.by_series()) for night in nights]


def past_of(series: str, cell: NightCell, nights: Sequence[Indexed]) -> Past:
    """Collect the past of a series from accepted nights, oldest first; *cell* is tonight's, for its direction and margin."""
    begin = max((index for index, (night, _) in enumerate(nights) if series in night.acknowledged), default=0)
    found = [(night, there) for night, cells in nights[begin:] if (there := cells.get(series)) is not None]
    scored = [
        (night.label, mean, one)
        for night, one in found
        if series not in night.flaky and (mean := mean_of(one)) is not None
    ]
    means = tuple(mean for _, mean, _ in scored)
    held = cell.margin or 0.0
    level = abs(statistics.fmean(means)) if means else 1.0
    history = History(
        nights=means,
        higher_is_better=cell.higher_is_better,
        margin=held,
        floor=held * FLOOR_SHARE or max(level, 1.0) * FLOOR_WITHOUT_MARGIN,
        anchor=means[: min(MOST_NIGHTS, len(means) + 1 - TRAILING_NIGHTS)] if len(means) >= DRIFT_NIGHTS else None,
        seeds=tuple(scaled_scores(one) for _, _, one in scored),
        kind=cell.scale,
    )
    return Past(tuple(one for _, one in found), tuple(label for label, *_ in scored), history)


def in_its_unit(cell: NightCell, value: float) -> float:
    """Convert a value of the tests to the unit of a cell's metric."""
    return value if cell.scale == "linear" else math.exp(value)


def shown_move(cell: NightCell, was: float, now: float) -> tuple[str, str, str]:
    """Return two values of the tests in the unit of the metric, and their difference, as texts."""
    was, now = in_its_unit(cell, was), in_its_unit(cell, now)
    change = difference(now - was) if cell.scale == "linear" else f"{now / was - 1:+.1%}"
    return score(was), score(now), change


def mean_of(cell: NightCell) -> float | None:
    """Return the mean over a night's runs on the scale of the tests, or None if a run has no score."""
    if not cell.runs or len(cell.scores) < len(cell.runs):
        return None
    if cell.scale == "log" and min(cell.scores) <= 0:
        return None
    return statistics.fmean(scaled_scores(cell))


def scaled_scores(cell: NightCell) -> tuple[float, ...]:
    """Return a night's scores on the scale of the tests, in the order of the seeds; times must be above 0 to count."""
    if cell.scale == "linear":
        return tuple(cell.scores)
    return tuple(math.log(value) for value in cell.scores if value > 0)


def under_rules(
    cells: Mapping[str, NightCell], accepted: Sequence[Night], margin: float | None = None
) -> tuple[dict[str, NightCell], dict[str, Finding]]:
    """Return tonight's cells under the margin and direction of the accepted nights, and findings on those that declare others.

    *margin* is declared for tonight in place of its suite's own, for scores. *accepted* are oldest first.
    """
    ruled: dict[str, NightCell] = {}
    findings: dict[str, Finding] = {}
    for series, cell in cells.items():
        own = declared(cell, margin)
        rule = _rule_of(own, accepted) or own
        ruled[series] = own.model_copy(update={"margin": rule.margin, "higher_is_better": rule.higher_is_better})
        if changes := _changes(rule, own):
            text = f"other rules: {'; '.join(changes)}"
            findings[series] = Finding(kind="rules", status="undecided", text=text)
    return ruled, findings


def declared(cell: NightCell, margin: float | None) -> NightCell:
    """Return the cell with *margin* in place of its suite's; steps of probes keep theirs."""
    return cell if margin is None or cell.scale == "log" else cell.model_copy(update={"margin": margin})


def _rule_of(cell: NightCell, accepted: Sequence[Night]) -> NightCell | None:
    """Return the last accepted cell of that name, or for a new name the last of its task and metric."""
    for night in reversed(accepted):
        if found := with_name(night, cell.name):
            return found[0]
    what = cell.name.task, cell.name.metric
    cells = (other for night in reversed(accepted) for other in night.cells)
    return next((other for other in cells if (other.name.task, other.name.metric) == what), None)


def _changes(rule: NightCell, own: NightCell) -> list[str]:
    changes = []
    if own.margin != rule.margin:
        held, tonight = ("none" if one.margin is None else f"{one.margin:.4g}" for one in (rule, own))
        changes.append(f"{STATED} a margin of {held}, tonight declares {tonight}")
    if own.higher_is_better != rule.higher_is_better:
        better = "higher" if rule.higher_is_better else "lower"
        changes.append(f"{STATED} {better} scores to be better, tonight declares the opposite")
    return changes
