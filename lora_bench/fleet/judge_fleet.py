"""For whom an adapter of its own pays: each group's adapter against the shared one and against its linear probe.

A group's two models answer the same test rows. Which of the rows that one alone has right goes to which model is tested by the
exact test of McNemar, and all claims on groups are one family of Holm's procedure. Each model is one run: a claim is on these
weights and on new rows of the group. The mean over groups has an interval whose unit is the group.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from lora_bench import stats
from lora_bench.errors import LoraBenchError
from lora_bench.exchange.scores.single_runs import p_of_items
from lora_bench.fleet.train_fleet import ADAPTER, PROBE
from lora_bench.records.record import Record
from lora_bench.records.store import Answers, answers_in
from lora_bench.stats.estimate import Estimate, Interval, mean_estimate
from lora_bench.suite.load_suite import Suite
from lora_bench.tasks import Task, load_data

Rival = Literal["shared", "probe"]
RIVALS: tuple[Rival, ...] = ("shared", "probe")
ALPHA = 0.05
# Ranges of training rows, with as many groups each, and the fewest groups that tell of a range.
MOST_RANGES, FEWEST_OF_RANGE = 5, 4


@dataclass(frozen=True)
class OwnLess:
    """A group's own adapter less a rival, on the group's test rows.

    Args:
        gained: Test rows that the own adapter alone has right.
        lost: Test rows that the rival alone has right.
        p_value: Of no difference on new rows; 1 if both have the same rows right.
        adjusted_p: The same after Holm's procedure over all claims.
    """

    difference: float
    gained: int
    lost: int
    p_value: float
    adjusted_p: float = 1.0

    @property
    def verdict(self) -> str:
        """What is shown of the own adapter: "better", "worse" or "inconclusive"."""
        if self.adjusted_p > ALPHA:
            return "inconclusive"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True)
class GroupResult:
    """A group with its scores by model, "own", "shared" and "probe"; a score is None if its run gave none."""

    value: str
    task: str
    train: int
    test: int
    scores: Mapping[str, float | None]
    against: Mapping[Rival, OwnLess]
    run_ids: Mapping[str, str]


@dataclass(frozen=True)
class RowRange:
    """Groups with alike numbers of training rows, and the mean of the own adapter less a rival over them."""

    least: int
    most: int
    groups: int
    mean: float
    interval: Interval | None


@dataclass(frozen=True)
class FleetResult:
    """The groups of a fleet, by the values of a *column*."""

    column: str
    groups: Sequence[GroupResult]

    def judged(self, rival: Rival) -> list[GroupResult]:
        """Return the groups whose own adapter could be compared with a rival."""
        return [group for group in self.groups if rival in group.against]

    def verdicts(self, rival: Rival, verdict: str) -> list[GroupResult]:
        """Return the groups with a verdict."""
        return [group for group in self.judged(rival) if group.against[rival].verdict == verdict]

    def mean(self, rival: Rival) -> Estimate:
        """Return the mean over groups of the own adapter less a rival; every group weighs alike."""
        return mean_estimate([group.against[rival].difference for group in self.judged(rival)])

    def ranges(self, rival: Rival) -> list[RowRange]:
        """Return ranges of training rows; their intervals hold together. Groups with as many rows are in one range."""
        groups = sorted(self.judged(rival), key=lambda group: group.train)
        number = min(MOST_RANGES, len(groups) // FEWEST_OF_RANGE)
        starts = sorted({_first(groups, place * len(groups) // number) for place in range(number)}) if number else []
        found = []
        for start, end in zip(starts, [*starts[1:], len(groups)], strict=True):
            part = groups[start:end]
            mean = mean_estimate([group.against[rival].difference for group in part])
            interval = mean.interval(1 - ALPHA / len(starts))
            found.append(RowRange(part[0].train, part[-1].train, len(part), mean.value, interval))
        return found

    def begins(self, rival: Rival) -> tuple[int | None, int] | None:
        """Return from how many training rows on the own adapter is shown to be better, on average over groups.

        The second number is where the first of the ranges begins from which on all are shown to be better, and None is returned
        if the last is not. It may begin earlier: after the last range that is shown to be worse, whose end is the first number.
        """
        ranges = self.ranges(rival)
        shown = [one.interval is not None and one.interval.low > 0 for one in ranges]
        if not shown or not shown[-1]:
            return None
        first = len(shown) - next((at for at, better in enumerate(reversed(shown)) if not better), len(shown))
        return max((one.most for one in self.worse(rival)), default=None), ranges[first].least

    def worse(self, rival: Rival) -> list[RowRange]:
        """Return the ranges in which the own adapter is shown to be worse."""
        return [one for one in self.ranges(rival) if one.interval is not None and one.interval.high < 0]


def _first(groups: Sequence[GroupResult], place: int) -> int:
    """Return the place of the first group with as many training rows as the one at *place*."""
    return next(at for at, group in enumerate(groups) if group.train == groups[place].train)


@dataclass(frozen=True)
class _Answered:
    """A run with its answers by the id of a test row."""

    record: Record
    task: Task
    base: Path
    answers: Answers | None

    @cached_property
    def right(self) -> dict[str, bool]:
        """Whether each test row is answered right; empty if the run gave no score."""
        if self.answers is None or self.record.judged_score is None:
            return {}
        ids = load_data(self.task, self.base).splits["test"].ids
        pairs = zip(self.answers.predictions, self.answers.references, strict=True)
        return {row: given == right for row, (given, right) in zip(ids, pairs, strict=True)}


def judge_fleet(
    column: str, suites: Mapping[str, Suite], records: Mapping[str, Sequence[Record]], folders: Mapping[str, Path]
) -> FleetResult:
    """Judge the adapters of a fleet, by the suites "fleet" and "shared", their records and the folders of these.

    Raise LoraBenchError if the suites deal the rows out to other splits.
    """
    ((task, base),) = suites["shared"].tasks
    record = shared_run(records["shared"])
    everyone = _Answered(record, task, base, answers_in(folders["shared"], [record])(record.run_id))
    answers = answers_in(folders["fleet"], records["fleet"])
    found = {(one.spec.task.name, one.spec.method.label): one for one in records["fleet"]}
    groups = []
    for task, base in suites["fleet"].tasks:
        runs = {label: found.get((task.task, label)) for label in (ADAPTER, PROBE)}
        if None not in runs.values():
            own_and_probe = [
                _Answered(one, task, base, answers(one.run_id)) for one in runs.values() if one is not None
            ]
            groups.append(_result(task.rows[column][0], everyone, *own_and_probe))
    return FleetResult(column, _corrected(groups))


def shared_run(records: Iterable[Record]) -> Record:
    """Return the run of the shared adapter. Raise LoraBenchError if there is none."""
    found = [record for record in records if record.spec.score_on == "test"]
    if len(found) != 1:
        raise LoraBenchError(f"the suite of the shared adapter has {len(found)} runs on test rows, and is to have one")
    return found[0]


def _result(value: str, everyone: _Answered, own: _Answered, probe: _Answered) -> GroupResult:
    splits = load_data(own.task, own.base).splits
    ids = splits["test"].ids
    if everyone.right and not set(ids) <= everyone.right.keys():
        raise LoraBenchError(
            f"{own.task.task} has test rows that the shared adapter was not tested on: both suites must split rows alike"
        )
    right = {"own": own.right, "shared": everyone.right, "probe": probe.right}
    against = {
        rival: _compared(own.right, right[rival], ids, splits["test"].groups)
        for rival in RIVALS
        if own.right and right[rival]
    }
    return GroupResult(
        value=value,
        task=own.task.task,
        train=len(splits["train"].ids),
        test=len(ids),
        scores={name: float(np.mean([of[row] for row in ids])) if of else None for name, of in right.items()},
        against=against,
        run_ids={"own": own.record.run_id, "shared": everyone.record.run_id, "probe": probe.record.run_id},
    )


def _compared(own: Mapping[str, bool], rival: Mapping[str, bool], ids: Sequence[str], groups: Sequence[int]) -> OwnLess:
    differences = [own[row] - rival[row] for row in ids]
    # Rows with one text, or of one declared group, count as one.
    p_value = p_of_items(np.bincount(groups or np.arange(len(ids)), weights=differences).astype(np.float64))
    return OwnLess(
        difference=float(np.mean(differences)),
        gained=differences.count(1),
        lost=differences.count(-1),
        p_value=1.0 if p_value is None else p_value,
    )


def _corrected(groups: Sequence[GroupResult]) -> list[GroupResult]:
    """Return the groups with p-values of all their claims as one family, in which a claim without runs counts as one too."""
    claims = [(at, rival) for at in range(len(groups)) for rival in RIVALS]
    found = [groups[at].against.get(rival) for at, rival in claims]
    adjusted = stats.holm([None if one is None else one.p_value for one in found], ALPHA)
    for (at, rival), one, corrected in zip(claims, found, adjusted, strict=True):
        if one is not None and corrected.p_value is not None:
            against = {**groups[at].against, rival: replace(one, adjusted_p=corrected.p_value)}
            groups = [*groups[:at], replace(groups[at], against=against), *groups[at + 1 :]]
    return [*groups]
