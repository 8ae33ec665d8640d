"""The gate: compare a night with the accepted nights of a baseline, and suspect series with two further sets of seeds."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lora_bench.errors import LoraBenchError
from lora_bench.gate.exact import CRASHES, diverged_more, exact_findings, missing_cells, reasons
from lora_bench.gate.night_answer import (
    STATUSES,
    Answer,
    Finding,
    Kind,
    Point,
    SeriesAnswer,
    Status,
    answer_of,
    answer_on,
    environment_changes,
    worst_status,
)
from lora_bench.gate.past import Past, in_its_unit, indexed, mean_of, past_of, shown_move, under_rules
from lora_bench.gate.series import Night, NightCell, changed_conditions, with_name
from lora_bench.gate.young import young_losses
from lora_bench.report.text import plural, score
from lora_bench.stats.gate import (
    CONFIRMATIONS,
    FEWEST_NIGHTS,
    TRAILING_NIGHTS,
    JudgedSeries,
    Shift,
    confirm,
    judge_night,
)

UNCONFIRMED = f"not confirmed with {CONFIRMATIONS} sets of new seeds"


def judge(
    tonight: Night,
    accepted: Sequence[Night],
    baseline: str,
    again: Sequence[Night] = (),
    *,
    margin: float | None = None,
) -> Answer:
    """Compare a night with *accepted* nights of a *baseline*, oldest first. Raise LoraBenchError if their suite is another.

    *again* has the sets of runs that were repeated with new seeds, first to last. *margin* replaces that of tonight's suite;
    margins of the accepted nights take precedence over both.
    """
    last = accepted[-1] if accepted else None
    if last is not None and last.suite != tonight.suite:
        raise LoraBenchError(
            f"{tonight.label} is a night of the suite {tonight.suite!r}, and the baseline {baseline!r} of {last.suite!r}"
        )
    cells, rules = under_rules(tonight.by_series(), accepted, margin)
    nights = indexed(accepted)
    pasts = {series: past_of(series, cell, nights) for series, cell in cells.items()}
    means = {series: mean for series, cell in cells.items() if (mean := mean_of(cell)) is not None}
    judged = judge_night(means, {series: past.history for series, past in pasts.items()})
    sets = [night.by_series() for night in again]
    repeated = {series: tuple(one[series] for one in sets if series in one) for series in cells}
    young = young_losses(cells, pasts, nights, repeated)
    answers = [
        _Series(
            series,
            cell,
            pasts[series],
            judged.get(series),
            repeated[series],
            tonight,
            accepted,
            tuple(found[series] for found in (young, rules) if series in found),
        ).answer()
        for series, cell in cells.items()
    ]
    answers = with_missing(answers, tonight, last)
    return answer_of(
        sorted(answers, key=lambda one: (STATUSES.index(one.status), _size(one), one.name.words)),
        suite=tonight.suite,
        baseline=baseline,
        label=tonight.label,
        confirmed_by=again[-1].label if again else None,
        nights=len(accepted),
        last=last.label if last is not None else None,
        environment_changes=tuple(environment_changes(last, tonight)) if last is not None else (),
    )


def _size(series: SeriesAnswer) -> float:
    """Return a sort key that puts the greatest relative loss first."""
    if series.observed is None or not series.expected:
        return 0.0
    change = (series.observed - series.expected) / abs(series.expected)
    return change if series.higher_is_better else -change


def with_missing(answers: list[SeriesAnswer], tonight: Night, last: Night | None) -> list[SeriesAnswer]:
    """Add the answers on cells with fewer runs tonight than in the last accepted night."""
    for expected, reason in missing_cells(tonight, last):
        assert last is not None
        finding = Finding(kind="missing", status="failed", text=reason)
        there = next((index for index, answer in enumerate(answers) if answer.name == expected.name), None)
        if there is not None:
            findings = (*answers[there].findings, finding)
            answers[there] = answers[there].model_copy(
                update={"findings": findings, "status": worst_status(findings), "suspect": False}
            )
            continue
        absent = SeriesAnswer(
            series=last.series_of(expected),
            name=expected.name,
            status="failed",
            findings=(finding,),
            higher_is_better=expected.higher_is_better,
        )
        answers.append(absent)
    return answers


@dataclass(frozen=True)
class _Series:
    """One series of tonight, with the inputs of its answer."""

    series: str
    cell: NightCell
    past: Past
    judged: JudgedSeries | None
    again: Sequence[NightCell]
    tonight: Night
    accepted: Sequence[Night]
    other: tuple[Finding, ...]

    def answer(self) -> SeriesAnswer:
        last = self.accepted[-1] if self.accepted else None
        opened = self._opened()
        findings = (
            *exact_findings(self.cell, last, self.past.cells),
            *self._diverged(),
            *self._moved(),
            *self._no_history(opened),
        )
        findings = (*(findings or self._not_judged()), *self.other)
        held = self.past.history.margin or None
        level = None if self.judged is None else self.judged.level
        mean = mean_of(self.cell)
        return answer_on(
            self.cell,
            self.series,
            findings,
            observed=None if mean is None else self._own(mean),
            expected=None if level is None else self._own(level.expected),
            worst=None if level is None else self._own(level.worst),
            best=None if level is None else self._own(level.best),
            margin=held if held is None or self.cell.scale == "linear" else math.expm1(held),
            suspect=any(finding.suspect for finding in findings),
            confirmation=tuple(score for cell in self.again for score in cell.scores) if self.again else None,
            history=tuple(
                Point(label=label, mean=self._own(mean))
                for label, mean in zip(self.past.labels, self.past.history.nights, strict=True)
            ),
            opened=opened,
        )

    def _own(self, value: float) -> float:
        return in_its_unit(self.cell, value)

    def _opened(self) -> tuple[str, ...]:
        """List the changes that make this a new series of its cell since the last accepted night; empty if it is not new."""
        if self.past.cells:
            return ()
        for night in reversed(self.accepted):
            for cell in with_name(night, self.cell.name):
                return tuple(changed_conditions(night.setting_of(cell), self.tonight.setting_of(self.cell)))
        return ("a cell that no accepted night has",) if self.accepted else ()

    def _no_history(self, opened: tuple[str, ...]) -> Iterator[Finding]:
        if self.cell.with_status("unsupported"):
            reason = None if self.past.cells else "an unsupported pair that no accepted night has"
        elif not self.cell.scores:
            reason = None  # another finding covers its runs
        elif opened:
            reason = f"a new series: {'; '.join(opened)}"
        else:
            reason = self.judged.reason if self.judged is not None else None
        if reason is not None:
            yield Finding(kind="history", status="undecided", text=reason)

    def _not_judged(self) -> Iterator[Finding]:
        """Yield a finding that keeps a series from passing if nothing could be compared."""
        both = [*self.past.cells[-1:], self.cell]
        unsupported = len(both) > 1 and all(run.status == "unsupported" for cell in both for run in cell.runs)
        if mean_of(self.cell) is None and not unsupported:
            without = [run for run in self.cell.runs if run.score is None]
            why = f" ({reasons(without)})" if without else ""
            reason = f"{len(without)} of {plural(len(self.cell.runs), 'run')} gave no score{why}, so nothing was judged"
            yield Finding(kind="diverged", status="undecided", text=reason)

    def _diverged(self) -> Iterator[Finding]:
        """Yield what is found of a series with more divergences, after its runs with new seeds."""
        if (more := diverged_more(self.cell, self.past.cells)) is None:
            return
        enough = len(self.past.history.nights) >= FEWEST_NIGHTS
        for cell in self.again:
            if (once_more := diverged_more(cell, self.past.cells)) is not None:
                more = f"{more}; again with new seeds: {once_more}"
                continue
            if crashed := cell.with_status(*CRASHES, "unsupported"):
                more = f"{more}; runs with new seeds gave no scores: {reasons(crashed)}"
                yield Finding(kind="diverged", status="undecided", text=more)
                return
            mean = mean_of(cell)
            if mean is None or not enough or confirm(self.past.history, mean).answer == "flaky":
                yield Finding(kind="diverged", status="flaky", text=f"{more}; not so with new seeds")
                return
            # Tonight has no mean that could have been suspect, so these seeds are evidence on the level.
            more = f"{more}; not so with new seeds, which give {score(self._own(mean))}, beyond the bound of one series"
        yield self._after("diverged", "regression", more)

    def _moved(self) -> Iterator[Finding]:
        level, drift = (self.judged.level, self.judged.drift) if self.judged is not None else (None, None)
        if level is not None and level.direction is not None:
            yield self._confirmed("level", level, self._said(level, plural(level.nights, "night")))
        # One outlying night moves the mean of five: then new seeds decide whether it counts.
        elif level is not None and drift is not None and drift.direction is not None:
            said = self._said(drift, f"the first {drift.nights} accepted nights")
            yield self._confirmed("drift", drift, f"drift: {said}, as the mean of the last {TRAILING_NIGHTS} nights")

    def _confirmed(self, kind: Kind, shift: Shift, said: str) -> Finding:
        """Return what is found of a series that moved after its runs with new seeds."""
        assert shift.direction is not None
        for cell in self.again:
            mean = mean_of(cell)
            if mean is None:
                without = [run for run in cell.runs if run.score is None]
                said = f"{said}; runs with new seeds gave no scores: {reasons(without)}"
                return Finding(kind=kind, status="undecided", text=said)
            second = confirm(self.past.history, mean, direction=shift.direction, first=shift, drift=kind == "drift")
            said = f"{said}; {score(self._own(mean))} with new seeds"
            if second.answer == "flaky":
                return Finding(kind=kind, status="flaky", text=f"{said}, within the bound")
        return self._after(kind, "regression" if shift.direction == "worse" else "improved", said)

    def _after(self, kind: Kind, status: Status, said: str) -> Finding:
        """Return a finding that every set of new seeds so far confirms."""
        if len(self.again) >= CONFIRMATIONS:
            return Finding(kind=kind, status=status, text=f"{said}; confirmed with new seeds")
        status = "undecided" if status == "regression" else status
        return Finding(kind=kind, status=status, text=f"{said}; {UNCONFIRMED}", suspect=True)

    def _said(self, shift: Shift, nights: str) -> str:
        expected, observed, change = shown_move(self.cell, shift.expected, shift.observed)
        bound = score(self._own(shift.worst if shift.direction == "worse" else shift.best))
        return f"{observed} where {nights} give {expected} ({change}); the bound is {bound}"
