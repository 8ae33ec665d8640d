"""What the gate answers: a verdict on the night, and for every series a status with its findings.

Strings come from records and stand here as they are; whatever shows them makes them harmless first.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import ConfigDict, Field

from lora_bench.documents import Strict
from lora_bench.gate.series import CellName

SCHEMA = 1

Status = Literal["regression", "failed", "undecided", "flaky", "improved", "pass"]
# Worst first.
STATUSES: tuple[Status, ...] = get_args(Status)

Verdict = Literal["pass", "regression", "failed", "undecided"]
EXIT_CODES: dict[Verdict, int] = {"pass": 0, "regression": 1, "failed": 3, "undecided": 4}

SAID: dict[Verdict, str] = {
    "pass": "pass",
    "regression": "regression",
    "failed": "runs failed or are missing",
    "undecided": "cannot decide",
}

# Nights that a count of flaky series looks back on, and how many in them are worth a word.
FLAKY_NIGHTS, FLAKY_WARNING = 14, 3

Kind = Literal[
    "crash", "missing", "unsupported", "diverged", "parameters", "checkpoint_bytes", "flops", "peak", "level", "drift",
    "history", "loss", "rules",
]  # fmt: skip


class Finding(Strict):
    """One thing that was noticed of a series, and what status it gives it.

    Args:
        suspect: Whether the runs have to be done again with new seeds before it counts.
    """

    kind: Kind
    status: Status
    text: str
    suspect: bool = False


class Point(Strict):
    """The mean of an accepted night."""

    label: str
    mean: float


class SeriesAnswer(Strict):
    """What tonight says of one series. Numbers are in the unit of the metric.

    Args:
        series: Its id; what `--change` and `--bisect` take.
        status: The worst of its findings, `pass` where there is none.
        scores: Of tonight's runs.
        observed: Their mean; of times the geometric one.
        expected: Mean of the accepted nights that it is held against.
        worst: The bound on the bad side: beyond it a mean is suspect.
        best: The bound on the good side.
        margin: The difference that nobody should care about; a share of the value for times; None where none is declared.
        suspect: Whether the runs have to be done again with new seeds before the gate can decide.
        confirmation: Scores of the runs that were done again, or None.
        history: Accepted nights since the last acknowledged change, oldest first.
        opened: What is different from the accepted nights where this is a new series.
        run_ids: Of tonight's runs.
        commands: What makes tonight's runs again.
        seconds: What they took.
        flaky_nights: In how many of the last nights it was suspected and not confirmed, tonight included.
    """

    series: str
    name: CellName
    status: Status
    findings: tuple[Finding, ...]
    higher_is_better: bool
    scores: tuple[float, ...] = ()
    observed: float | None = None
    expected: float | None = None
    worst: float | None = None
    best: float | None = None
    margin: float | None = None
    suspect: bool = False
    confirmation: tuple[float, ...] | None = None
    history: tuple[Point, ...] = ()
    opened: tuple[str, ...] = ()
    run_ids: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    seconds: float | None = None
    flaky_nights: int = 0


class Change(Strict):
    """A difference between two environments."""

    what: str
    before: str | None
    after: str | None


class Answer(Strict):
    """What the gate says of a night.

    Args:
        baseline: Name of the baseline.
        label: Of the night.
        confirmed_by: Label of the night that ran what was suspect again, or None.
        nights: Number of accepted nights it was held against.
        last: Label of the last of them.
        environment_changes: What is different from the environment of that one.
        series: Worst first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    schema_version: int = Field(alias="schema", default=SCHEMA)
    verdict: Verdict
    exit_code: int
    suite: str
    baseline: str
    label: str
    confirmed_by: str | None = None
    nights: int
    last: str | None
    environment_changes: tuple[Change, ...] = ()
    series: tuple[SeriesAnswer, ...]

    def of_status(self, status: Status) -> list[SeriesAnswer]:
        """Its series of that status."""
        return [one for one in self.series if one.status == status]

    @property
    def suspects(self) -> list[SeriesAnswer]:
        """The series that have to be run again with new seeds."""
        return [one for one in self.series if one.suspect]

    @property
    def flaky_warnings(self) -> list[SeriesAnswer]:
        """The series that are flaky too often."""
        return [one for one in self.series if one.flaky_nights >= FLAKY_WARNING]


def worst_status(findings: tuple[Finding, ...]) -> Status:
    """The worst status of findings."""
    return min((finding.status for finding in findings), key=STATUSES.index, default="pass")


def verdict_of(series: tuple[SeriesAnswer, ...]) -> Verdict:
    """The verdict on a night: what was seen to regress comes before what failed, and that before what cannot be decided."""
    found = {one.status for one in series}
    verdicts: tuple[Verdict, ...] = ("regression", "failed", "undecided")
    return next((verdict for verdict in verdicts if verdict in found), "pass" if series else "undecided")
