"""Two sets of runs of one suite, before a change and after it: an answer as on a night, without any history.

    runs before, runs now → a night of each (crashes, counts) + one family of verdicts (scores, by seed) → Answer

Runs of one seed see the same data in the same order, so scores are compared seed by seed, and answer by answer where both sets
keep predictions. A loss counts where it is shown and beyond the margin; a pass takes that a loss of the margin is excluded, or
that all scores are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lora_bench.gate.environment_changes import environment_changes
from lora_bench.gate.exact import exact_findings
from lora_bench.gate.judge import with_missing
from lora_bench.gate.night_answer import EXIT_CODES, STATUSES, Answer, Finding, SeriesAnswer, verdict_of, worst_status
from lora_bench.gate.past import mean_of
from lora_bench.gate.read_night import night_of
from lora_bench.gate.series import Night, NightCell, changed_conditions, with_name
from lora_bench.records.analysis import Analysis
from lora_bench.report import text
from lora_bench.report.sections.compare_runs import Pair, RunSet, hold_against
from lora_bench.stats.verdict import FEWEST_PAIRS
from lora_bench.util.filenames import file_name


@dataclass(frozen=True)
class Against:
    """Runs held against others.

    Args:
        answer: The answer, worst series first.
        pairs: What was compared, by series.
    """

    answer: Answer
    pairs: dict[str, Pair]


def judge_against(before: RunSet, now: RunSet, *, margin: float | None = None) -> Against:
    """Judge the runs of *now* against those of *before*.

    Args:
        before: What is there without the change.
        now: What is there with it.
        margin: The loss that does not matter, in the unit of the metrics; by default as the runs of *before* declare.

    Raises:
        LoraBenchError: If they are of several suites, or have no cell in common.
    """
    # A change may not lower the bar that it is held against.
    declared = next((record.analysis for record in before.records if record.analysis is not None), None)
    settings = declared or Analysis(reference=before.name)
    sets = hold_against(before, now, settings if margin is None else settings.model_copy(update={"margin": margin}))
    was, is_now = night_of(before.records, _label(before.name)), night_of(now.records, "now")
    of_run = {score.run_id: pair for pair in sets.pairs for score in pair.second.scores}
    pairs = {
        series: pair
        for series, cell in is_now.by_series().items()
        if (pair := next((of_run[run.run_id] for run in cell.runs if run.run_id in of_run), None)) is not None
    }
    answers = [
        _answer(series, cell, pairs.get(series), was, is_now)
        for series, cell in is_now.by_series().items()
        if cell.name.learning_rate is None
    ]
    answers = sorted(with_missing(answers, is_now, was), key=lambda one: STATUSES.index(one.status))
    verdict = verdict_of(tuple(answers))
    answer = Answer(
        verdict=verdict,
        exit_code=EXIT_CODES[verdict],
        suite=is_now.suite,
        baseline=before.name,
        label=now.name,
        nights=0,
        last=before.name,
        environment_changes=tuple(environment_changes(was, is_now)),
        series=tuple(answers),
    )
    return Against(answer, pairs)


def _answer(series: str, cell: NightCell, pair: Pair | None, was: Night, is_now: Night) -> SeriesAnswer:
    old = with_name(was, cell.name)
    same = [one for one in old if was.series_of(one) == series]
    findings = [*exact_findings(cell, was, same), *_diverged(cell, old)]
    if pair is not None:
        findings += _scores(pair, cell.higher_is_better)
    elif old and cell.scores:
        findings.append(Finding(kind="difference", status="undecided", text=_why_apart(cell, old[0], was, is_now)))
    elif not old:
        findings.append(Finding(kind="difference", status="pass", text="new: there is nothing to compare it with"))
    ran = [run for run in cell.runs if run.seconds is not None]
    return SeriesAnswer(
        series=series,
        name=cell.name,
        status=worst_status(tuple(findings)),
        findings=tuple(findings),
        higher_is_better=cell.higher_is_better,
        scores=tuple(cell.scores),
        observed=mean_of(cell),
        expected=mean_of(old[0]) if old else None,
        margin=pair.verdict.margin if pair is not None else cell.margin,
        run_ids=tuple(run.run_id for run in cell.runs),
        commands=tuple(run.command for run in cell.runs if run.command is not None),
        seconds=sum(run.seconds or 0.0 for run in ran) if ran else None,
    )


def _label(name: str) -> str:
    """The name of a set as the label of a night, which is a file's name."""
    try:
        return file_name(name.replace("/", "-"))
    except ValueError:
        return "before"


def _diverged(cell: NightCell, old: Sequence[NightCell]) -> list[Finding]:
    """The seeds that diverge now and had a score before."""
    scored = {run.seed: run.score for one in old for run in one.runs if run.score is not None}
    return [
        Finding(
            kind="diverged",
            status="regression",
            text=f"seed {run.seed} diverged; it had {text.score(scored[run.seed])} before",
        )
        for run in cell.with_status("diverged")
        if run.seed in scored
    ]


def _scores(pair: Pair, higher_is_better: bool) -> list[Finding]:
    """What a comparison of scores found; nothing where a loss of the margin is excluded."""
    verdict = pair.verdict
    if not any(pair.difference.differences):
        return []
    gain = verdict.difference if higher_is_better else -verdict.difference
    beyond = verdict.margin is None or abs(gain) > verdict.margin
    said = f"{text.difference(verdict.difference)} over {text.plural(verdict.pairs, 'seed')}{_interval(pair)}"
    if verdict.verdict == "worse" and beyond:
        return [Finding(kind="difference", status="regression", text=f"a loss is shown: {said}")]
    if verdict.verdict == "better" and beyond:
        return [Finding(kind="difference", status="improved", text=f"a gain is shown: {said}; look for a leak")]
    if verdict.verdict == "worse":
        return [
            Finding(kind="difference", status="pass", text=f"a loss is shown that is smaller than the margin: {said}")
        ]
    if verdict.verdict in ("better", "equivalent", "non-inferior"):
        return []
    if verdict.unless_collapse is not None:
        rarely = f"no loss of the margin, unless runs collapse now and then, which so few seeds do not show: {said}"
        return [Finding(kind="difference", status="pass", text=rarely)]
    return [
        Finding(
            kind="difference", status="undecided", text=f"a loss of the margin is not excluded: {said}; {_needs(pair)}"
        )
    ]


def _interval(pair: Pair) -> str:
    interval = pair.verdict.interval
    if interval is None or pair.verdict.pairs < FEWEST_PAIRS:
        return ""
    margin = "" if pair.verdict.margin is None else f", margin {pair.verdict.margin:.3g}"
    return f", 95 % interval {text.difference(interval.low)} to {text.difference(interval.high)}{margin}"


def _needs(pair: Pair) -> str:
    """What would decide a comparison."""
    verdict = pair.verdict
    if verdict.margin is None:
        return "no margin is declared for the metric: give --margin"
    if verdict.pairs < FEWEST_PAIRS:
        return f"no test has fewer than {FEWEST_PAIRS} seeds"
    if verdict.needed is None:
        return "more seeds, or a wider --margin"
    return f"{verdict.needed.seeds} seeds are likely to decide, if this is the true difference"


def _why_apart(cell: NightCell, old: NightCell, was: Night, is_now: Night) -> str:
    if not old.scores:
        return f"no score to compare with: {text.plural(len(old.runs), 'run')} gave none before"
    changes = changed_conditions((old.conditions, was.machine_of(old)), (cell.conditions, is_now.machine_of(cell)))
    return f"not compared: {'; '.join(changes) or 'no seed is in both'}"
