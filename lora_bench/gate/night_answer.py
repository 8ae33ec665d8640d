"""The gate's answer: a verdict on the night, and for every series a status with its findings.

Strings come from records unchanged; the code that shows them must escape them first.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

from pydantic import ConfigDict, Field

from lora_bench.documents import Strict
from lora_bench.gate.series import CellName, Night, NightCell
from lora_bench.records.again import again
from lora_bench.records.record import Environment

SCHEMA = 1
PACKAGE = "package "

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


Kind = Literal[
    "crash", "missing", "unsupported", "diverged", "parameters", "checkpoint_bytes", "flops", "peak", "level", "drift",
    "history", "loss", "rules", "difference", "settings", "score",
]  # fmt: skip


class Finding(Strict):
    """One observation on a series, and the status it leads to.

    Args:
        kind: What was looked at.
        status: The status that it gives the series.
        text: The observation, in words.
        suspect: Whether the runs must be repeated with new seeds before it counts.
    """

    kind: Kind
    status: Status
    text: str
    suspect: bool = False


class Point(Strict):
    """Mean of an accepted night.

    Args:
        label: Label of the night.
        mean: Mean of its scores.
    """

    label: str
    mean: float


class SeriesAnswer(Strict):
    """Tonight's result for one series. Numbers are in the unit of the metric.

    Args:
        series: Id of the series, as `--change` and `--bisect` take it.
        name: The cell.
        status: The worst status of its findings; `pass` without findings.
        findings: What the gate observed.
        higher_is_better: Whether a greater score is better.
        scores: Scores of tonight's runs.
        observed: Their mean; for times the geometric mean.
        expected: Mean of the accepted nights that it is compared with.
        worst: The bound on the bad side: beyond it a mean is suspect.
        best: The bound on the good side.
        margin: The smallest difference that matters; for times a share of the value; None if none is declared.
        suspect: Whether the runs must be repeated with new seeds before the gate can decide.
        confirmation: Scores of the repeated runs, or None.
        history: Accepted nights since the last acknowledged change, oldest first.
        opened: Differences from the accepted nights, if this is a new series.
        run_ids: Ids of tonight's runs.
        commands: Commands that reproduce tonight's runs.
        seconds: Duration of tonight's runs.
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


class Change(Strict):
    """A difference between two environments.

    Args:
        what: A package, or a part of the machine.
        before: Its version or value before; None without it.
        after: Its version or value now; None without it.
    """

    what: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        return f"{self.what}: {self.before or 'none'} → {self.after or 'none'}"


class Answer(Strict):
    """The gate's answer on a night.

    Args:
        schema_version: Version of this layout.
        verdict: The answer.
        exit_code: Exit code of `check`.
        suite: Name of the suite.
        baseline: Name of the baseline.
        label: Label of the night.
        confirmed_by: Label of the night that repeated the suspect runs, or None.
        nights: Number of accepted nights it was compared with; 0 where runs are held against others, and not against nights.
        last: Label of the last accepted night, or the name of the other runs.
        plan: How likely an unchanged system was to pass, where runs are held against others.
        environment_changes: Changes from the environment of the last accepted night, or of the other runs.
        series: Answers on the series, worst first.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_version: int = Field(alias="schema", default=SCHEMA)
    verdict: Verdict
    exit_code: int
    suite: str
    baseline: str
    label: str
    confirmed_by: str | None = None
    nights: int
    last: str | None
    plan: str | None = None
    environment_changes: tuple[Change, ...] = ()
    series: tuple[SeriesAnswer, ...]

    def of_status(self, status: Status) -> list[SeriesAnswer]:
        """Return the series of that status."""
        return [one for one in self.series if one.status == status]

    @property
    def suspects(self) -> list[SeriesAnswer]:
        """Return the series that must be run again with new seeds."""
        return [one for one in self.series if one.suspect]


def answer_on(cell: NightCell, series: str, findings: Iterable[Finding], **facts: Any) -> SeriesAnswer:
    """Return the answer on a series from tonight's cell, what was found of it, and further *facts* of the answer."""
    return SeriesAnswer(
        series=series,
        name=cell.name,
        status=worst_status(findings := tuple(findings)),
        findings=findings,
        higher_is_better=cell.higher_is_better,
        scores=tuple(cell.scores),
        run_ids=tuple(run.run_id for run in cell.runs),
        commands=tuple(dict.fromkeys(shown for run in cell.runs if (shown := again(run.command)))),
        seconds=sum(run.seconds for run in cell.runs if run.seconds is not None) or None,
        **facts,
    )


def worst_status(findings: Iterable[Finding]) -> Status:
    """Return the worst status among findings."""
    return min((finding.status for finding in findings), key=STATUSES.index, default="pass")


def answer_of(series: Sequence[SeriesAnswer], **facts: Any) -> Answer:
    """Return the answer on a night: regressions come before failures, and failures before undecided series."""
    found = {one.status for one in series}
    verdicts: tuple[Verdict, ...] = ("regression", "failed", "undecided")
    verdict: Verdict = next((name for name in verdicts if name in found), "pass" if series else "undecided")
    return Answer(verdict=verdict, exit_code=EXIT_CODES[verdict], series=tuple(series), **facts)


def environment_changes(before: Night, after: Night) -> list[Change]:
    """Return the differences of two environments, packages first; a night with several shows all their values."""
    was, now = _facts(before.environments), _facts(after.environments)
    return [
        Change(what=what, before=was.get(what), after=now.get(what))
        for what in sorted({*was, *now}, key=lambda what: (not what.startswith(PACKAGE), what))
        if was.get(what) != now.get(what)
    ]


def _facts(environments: tuple[Environment, ...]) -> dict[str, str]:
    """Return the values of environments by name, such as a package or the driver."""
    found: dict[str, list[str]] = {}
    for environment in environments:
        content = environment.model_dump(mode="json", exclude={"packages"})
        packages = {f"{PACKAGE}{name}": version for name, version in environment.packages.items()}
        for what, value in {**packages, **content}.items():
            shown = "unknown" if value is None else str(value)
            if shown not in found.setdefault(what.replace("_", " "), []):
                found[what.replace("_", " ")].append(shown)
    return {what: ", ".join(sorted(values)) for what, values in found.items()}
