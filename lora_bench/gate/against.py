"""Two sets of runs of one suite, before a change and after it: an answer as on a night, without any history.

    runs before, runs now → a night of each (crashes, counts) + one family of verdicts (scores, by seed) → Answer

Runs of one seed see the same data in the same order, so scores are compared seed by seed, on the suite's test items. A loss
counts where it is shown and beyond the margin; a pass takes that a loss of the margin is excluded in every series, or that all
scores are the same. `stats.pooled` has both rules' spread.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lora_bench.errors import LoraBenchError
from lora_bench.gate.exact import exact_findings
from lora_bench.gate.judge import with_missing
from lora_bench.gate.night_answer import (
    STATUSES,
    Answer,
    Finding,
    SeriesAnswer,
    Status,
    answer_of,
    answer_on,
    environment_changes,
)
from lora_bench.gate.past import mean_of
from lora_bench.gate.read_night import night_of
from lora_bench.gate.series import Night, NightCell, changed_conditions, with_name
from lora_bench.records.analysis import Analysis
from lora_bench.records.record import Record
from lora_bench.report import text
from lora_bench.report.model.overview import unless_words
from lora_bench.report.model.seed_scores import no_answers
from lora_bench.report.sections.compare_runs import FEWEST_OF_A_CHANGE, Pair, RunSet, hold_against
from lora_bench.stats.apart import unseen
from lora_bench.stats.pooled import chance_to_pass, pools, pools_of, seeds_to_pass
from lora_bench.stats.power import ALPHA, POWER
from lora_bench.util.filenames import file_name

# Of like systems five differences are hardly ever the same, and not none.
FEWEST_ALIKE = 5
# Settings that leave the recipe as it is.
HARMLESS = ("keep_weights", "training.threads")


@dataclass(frozen=True)
class Against:
    """Runs held against others: the answer, and what was compared, by series.

    *seeds* is the number with which an unchanged system passes in 80 %, if it is more than there are.
    """

    answer: Answer
    pairs: dict[str, Pair]
    seeds: int | None


def judge_against(
    before: RunSet, now: RunSet, *, night: Night | None = None, margin: float | None = None, change: str | None = None
) -> Against:
    """Judge the runs of *now*, with a change, against those of *before*, without it.

    *night* is the accepted night that *before* are the runs of (`runs_of_night`). *margin* is the loss that does not matter, in
    the unit of the metrics; by default as the runs of *before* declare. *change* says why settings of the suite differ; without
    it they leave the answer undecided. Raise LoraBenchError if they are of several suites, or have no cell in common.
    """
    # A change may not lower the bar that it is held against.
    declared = next((record.analysis for record in before.records if record.analysis is not None), None)
    settings = declared or Analysis(reference=before.name)
    if margin is not None:
        settings = settings.model_copy(update={"margin": margin})
    sets = hold_against(before, now, settings, of_change=True)
    was, is_now = night or night_of(before.records, _label(before.name)), night_of(now.records, "now")
    of_run = {score.run_id: pair for pair in sets.pairs for score in pair.second.scores}
    pairs = {
        series: pair
        for series, cell in is_now.by_series().items()
        if (pair := next((of_run[run.run_id] for run in cell.runs if run.run_id in of_run), None)) is not None
    }
    margins = {pair.place: pair.verdict.margin for pair in sets.pairs}
    pooled = pools({one.place: one.difference for one in sets.pairs}, {one.place: one.metric for one in sets.pairs})
    alpha = settings.alpha * min((settings.share(pair.verdict.pairs) for pair in sets.pairs), default=1.0)
    plan = ChanceToPass(chance_to_pass(pooled, margins, alpha), seeds_to_pass(pooled, margins, alpha))
    answers = []
    for series, cell in is_now.by_series().items():
        if cell.name.learning_rate is None:
            pair, of_pair = pairs.get(series), []
            if pair is not None:
                of_pair = [*_scores(pair, cell.higher_is_better, settings, plan), *_settings(pair, change)]
            answers.append(_answer(series, cell, pair, of_pair, was, is_now))
    answer = answer_of(
        sorted(with_missing(answers, is_now, was), key=lambda one: STATUSES.index(one.status)),
        suite=is_now.suite,
        baseline=before.name,
        label=now.name,
        nights=0,
        last=before.name,
        plan=plan.text,
        environment_changes=tuple(environment_changes(was, is_now)),
    )
    return Against(answer, pairs, plan.seeds if plan.chance < POWER else None)


def runs_of_night(night: Night, name: str, now: Sequence[Record]) -> RunSet:
    """Return the night's runs as records, to hold other runs against: a night keeps scores, margins and counts, and no records.

    A run's id is the hash of its spec, so the record of the same id in *now* has the rest. Runs that *now* lacks or that ended
    otherwise are left out here; the night itself has them. So are scores that new seeds did not confirm. Raise LoraBenchError
    if no run is in both.
    """
    sound = [cell for series, cell in night.by_series().items() if series not in night.flaky]
    scores = {run.run_id: run.score for cell in sound for run in cell.runs}
    margins = {cell.name.task: cell.margin for cell in night.cells if cell.name.task and cell.margin}
    rules = Analysis(reference=name, margin=margins)
    records = [
        record.model_copy(update={"scores": {metric: score}, "analysis": rules})
        for record in now
        if (score := scores.get(record.run_id)) is not None
        and record.status == "ok"
        and (metric := record.spec.task.metric)
    ]
    if not records:
        raise LoraBenchError(
            f"no run is in both: {night.label} of {name} is a night of the suite {night.suite}, "
            "and other settings, data or seeds are other runs"
        )
    return RunSet(name, records, no_answers)


@dataclass(frozen=True)
class ChanceToPass:
    """How likely an unchanged system is to pass with the seeds that there are.

    *seeds* is the fewest with which it is 80 %; None above 1,000.
    """

    chance: float
    seeds: int | None

    @property
    def text(self) -> str:
        """Describe it in one sentence."""
        if self.chance > 0.995:
            return "with these seeds and margins an unchanged system passes"
        likely = f"with these seeds and margins an unchanged system passes in {self.chance:.0%} of checks"
        enough = "more than 1,000 seeds" if self.seeds is None else text.plural(self.seeds, "seed")
        return likely if self.chance >= POWER else f"{likely}; it takes {enough} for {POWER:.0%}"


def plan_of(cells: Sequence[NightCell], margin: float | None = None) -> ChanceToPass:
    """Say how likely a check against runs like these would be to pass, were both sets drawn anew; *margin* replaces theirs."""
    scored = {index: cell.scores for index, cell in enumerate(cells) if len(set(cell.scores)) > 1}
    found = pools_of(
        {index: 2 * statistics.variance(scores) for index, scores in scored.items()},
        {index: len(scores) for index, scores in scored.items()},
        {index: cells[index].name.metric for index in scored},
    )
    margins = {index: cells[index].margin if margin is None else margin for index in scored}
    return ChanceToPass(chance_to_pass(found, margins, ALPHA), seeds_to_pass(found, margins, ALPHA))


def _answer(
    series: str, cell: NightCell, pair: Pair | None, of_pair: Sequence[Finding], was: Night, is_now: Night
) -> SeriesAnswer:
    old = with_name(was, cell.name)
    same = [one for one in old if was.series_of(one) == series]
    findings = [*exact_findings(cell, was, same), *_diverged(cell, old), *of_pair]
    if pair is None and old and cell.scores:
        findings.append(Finding(kind="difference", status="undecided", text=_why_apart(cell, old[0], was, is_now)))
    elif pair is None and not old:
        new = "new: the other runs lack it, so nothing was compared"
        findings.append(Finding(kind="difference", status="undecided", text=new))
    return answer_on(
        cell,
        series,
        findings,
        observed=mean_of(cell),
        expected=mean_of(old[0]) if old else None,
        margin=pair.verdict.margin if pair is not None else cell.margin,
    )


def _label(name: str) -> str:
    """The name of a set as the label of a night, which is a file's name."""
    try:
        return file_name(name.replace("/", "-"))
    except ValueError:
        return "before"


def _diverged(cell: NightCell, old: Sequence[NightCell]) -> list[Finding]:
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


def _scores(pair: Pair, higher_is_better: bool, settings: Analysis, plan: ChanceToPass) -> list[Finding]:
    """What a comparison of scores found; nothing where a loss of the margin is excluded."""
    verdict = pair.verdict
    if not any(pair.difference.differences):
        return []
    share = settings.share(verdict.pairs)
    estimate = replace(pair.difference.estimate, share=share)
    gain = estimate if higher_is_better else estimate.negated()
    beyond = verdict.margin is None or abs(gain.value) > verdict.margin
    said = f"{text.difference(verdict.difference)} over {text.plural(verdict.pairs, 'seed')}{_interval(pair)}"

    def finding(status: Status, why: str) -> list[Finding]:
        return [Finding(kind="difference", status=status, text=f"{why}: {said}")]

    if verdict.verdict == "worse" and beyond:
        return finding("regression", "a loss is shown")
    if not gain.uncertainties and gain.value < 0 and beyond and verdict.pairs >= FEWEST_ALIKE:
        return finding("regression", "the same loss in every seed")
    if verdict.verdict == "better" and beyond:
        return finding("improved", "a gain is shown, look for a leak")
    p_value = None if verdict.margin is None else gain.p_above(-verdict.margin)
    if p_value is None or p_value > settings.alpha or verdict.pairs < FEWEST_OF_A_CHANGE:
        said = f"{said}; {_needs(pair, plan)}"
        return finding("undecided", "a loss of the margin is not excluded")
    if verdict.verdict == "worse":
        return finding("pass", "a loss is shown that is smaller than the margin")
    if unseen(verdict.pairs) > settings.alpha:
        return finding("pass", f"no loss of the margin {unless_words([verdict])}")
    return []


def _settings(pair: Pair, change: str | None) -> list[Finding]:
    """Settings of the suite that differ: scores then differ for that reason, or hide another."""
    if not (differs := [name for name in pair.differs if name not in HARMLESS]):
        return []
    said = f"other settings: {', '.join(differs)}"
    if change is None:
        return [Finding(kind="settings", status="undecided", text=f'{said}; if they are meant, give --change "why"')]
    return [Finding(kind="settings", status="pass", text=f"{said}; {change}")]


def _interval(pair: Pair) -> str:
    interval = pair.verdict.interval
    if interval is None or pair.verdict.pairs < FEWEST_OF_A_CHANGE:
        return ""
    margin = "" if pair.verdict.margin is None else f", margin {pair.verdict.margin:.3g}"
    return f", 95 % interval {text.difference(interval.low)} to {text.difference(interval.high)}{margin}"


def _needs(pair: Pair, plan: ChanceToPass) -> str:
    if pair.verdict.margin is None:
        return "no margin is declared for the metric: give --margin"
    if pair.verdict.pairs < FEWEST_OF_A_CHANGE:
        return f"no test has fewer than {FEWEST_OF_A_CHANGE} seeds"
    if plan.seeds is None or plan.seeds <= pair.verdict.pairs:
        return "more seeds, or a wider --margin"
    return f"{plan.seeds} seeds would pass in {POWER:.0%}, if nothing changed"


def _why_apart(cell: NightCell, old: NightCell, was: Night, is_now: Night) -> str:
    if not old.scores:
        return f"no score to compare with: {text.plural(len(old.runs), 'run')} gave none before"
    changes = changed_conditions(was.setting_of(old), is_now.setting_of(cell))
    return f"not compared: {'; '.join(changes) or 'no seed is in both'}"
