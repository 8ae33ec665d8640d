"""The cheapest method that is not worse than the best by more than a margin.

The best method of a table, by its mean score, becomes the reference of `judge_comparison`; every other method is judged against
it by the verdicts of a report. The cheapest of those shown to be better, equivalent or non-inferior is chosen, or the best
itself if none is cheaper by a tenth. Below 29 seeds the last two hold only if few runs collapse: such a choice is at most
indicative. With too few seeds nothing is shown, and the best itself is chosen.

Taking the observed best for the reference makes the proof harder, since its mean is likely to be above its true one. The error
level covers the methods of one task and base model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from lora_bench.errors import LoraBenchError, unknown
from lora_bench.records.analysis import Analysis
from lora_bench.records.record import Record
from lora_bench.records.store import answers_in, read_records
from lora_bench.report import text
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting, compare
from lora_bench.report.model.judged import Held, judge_comparison
from lora_bench.report.model.rows import Row
from lora_bench.report.model.seed_scores import AnswersOf, no_answers
from lora_bench.stats.verdict import Grade, Verdict

Prefer = Literal["storage", "memory", "time"]

# Costs that differ by a smaller share count as equal: a budget has a tolerance.
LIKE_COST = 0.1
# A weight is stored in four bytes.
_WEIGHT_BYTES = 4
_ADMITTED = ("better", "equivalent", "non-inferior")
NO_RESULT = "No result: too many runs did no better than a constant answer"
GRADES: tuple[Grade, ...] = ("exploratory", "indicative", "recommendation")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The choice among the methods of one task and base model.

    Args:
        chosen: Row of the chosen method.
        best: Row with the best mean score.
        reasons: Sentences that say why, one for each method.
        grade: How far to trust it, by the fewest seeds of a verdict; None if nothing could be judged.
    """

    setting: Setting
    table: ModelTable
    chosen: Row
    best: Row
    reasons: tuple[str, ...]
    grade: Grade | None

    @property
    def method(self) -> str:
        """Label of the chosen method."""
        return self.chosen.label


def choose_method(
    runs: str | Path,
    *,
    margin: float | None = None,
    prefer: Prefer = "storage",
    task: str | None = None,
    model: str | None = None,
) -> tuple[Choice, ...]:
    """Choose a method for each task and base model of the records at *runs*.

    Args:
        runs: Folder of runs or a baseline.
        margin: Loss of score that does not matter; the declared margin by default.
        prefer: Cost to keep small.
        task: Only this task.
        model: Only this base model, by its name or the name that reports show.

    Raises:
        LoraBenchError: If there is no such task or model, no method has a score, or the report of these runs finds no result.
    """
    records = read_records(Path(runs))
    return choose_among(
        records, answers_in(Path(runs), records), margin=margin, prefer=prefer, task=task, model=model
    )  # fmt: skip


def choose_among(
    records: Sequence[Record],
    answers: AnswersOf = no_answers,
    *,
    margin: float | None = None,
    prefer: Prefer = "storage",
    task: str | None = None,
    model: str | None = None,
    named: bool = False,
) -> tuple[Choice, ...]:
    """Choose as `choose_method` does, among records at hand; with *named*, also where the report finds no result."""
    if prefer not in get_args(Prefer):
        raise unknown("cost", prefer, get_args(Prefer))
    comparison = compare(records)
    tables = chosen_tables(comparison, task, model)
    found = choices_of(comparison, records, answers, tables=tables, margin=margin, prefer=prefer)
    if not found:
        raise LoraBenchError("no method has a score, so there is nothing to choose")
    judged = None if named else judge_comparison(comparison, records, answers)
    if judged is not None and judged.no_result:
        raise LoraBenchError(f"{NO_RESULT}; train longer, or name a method yourself")
    return found


def choices_of(
    comparison: Comparison,
    records: Sequence[Record],
    answers: AnswersOf,
    *,
    tables: Sequence[tuple[Setting, ModelTable]] | None = None,
    margin: float | None = None,
    prefer: Prefer = "storage",
) -> tuple[Choice, ...]:
    """Return the choice for each of *tables* with a score; by default for all results, as a report's headline advises."""
    return tuple(
        _choose(replace(comparison, settings=(replace(setting, tables=(table,)),)), records, answers, margin, prefer)
        for setting, table in (_result_tables(comparison) if tables is None else tables)
        if any(row.score is not None for row in table.rows)
    )


def _result_tables(comparison: Comparison) -> list[tuple[Setting, ModelTable]]:
    results = [setting for setting in comparison.results if not setting.search and not setting.trials]
    return [(setting, table) for setting in results for table in setting.tables]


def chosen_tables(comparison: Comparison, task: str | None, model: str | None) -> list[tuple[Setting, ModelTable]]:
    """Return the results of a task and base model, or of all.

    Raises:
        LoraBenchError: If no results have this task or model, or all are trials.
    """
    tables = _result_tables(comparison)
    if not tables:
        raise LoraBenchError(
            "these runs only search for learning rates; a method is chosen from runs on the test split"
        )
    for kind, wanted, names in (
        ("task", task, [{setting.spec.task.name} for setting, _ in tables]),
        ("base model", model, [{table.model.name, table.model.shown} for _, table in tables]),
    ):
        known = sorted(set().union(*names))
        if wanted is not None and wanted not in known:
            raise unknown(kind, wanted, known)
    return [
        (setting, table)
        for setting, table in tables
        if task in (None, setting.spec.task.name) and model in (None, table.model.name, table.model.shown)
    ]


def _choose(
    only: Comparison, records: Sequence[Record], answers: AnswersOf, margin: float | None, prefer: Prefer
) -> Choice:
    """Choose among the methods of a comparison of one table."""
    (setting,) = only.settings
    (table,) = setting.tables
    scores = {id(row): row.score.mean for row in table.rows if row.score is not None}
    rows = [row for row in table.rows if id(row) in scores]
    whole = [row for row in rows if not row.failures] or rows
    best = (min if setting.spec.task.higher_is_better is False else max)(whole, key=lambda row: scores[id(row)])
    declared = next((record.analysis for record in records if record.analysis is not None), None)
    settings = (declared or Analysis(reference=best.label)).model_copy(
        update={"reference": best.label} if margin is None else {"reference": best.label, "margin": margin}
    )
    judged = judge_comparison(only, records, answers, settings)
    held = {id(one.row): one for one in judged.held} if judged is not None else {}
    admitted = [best]
    admitted += [
        row for row in rows if id(row) in held and _shown(held[id(row)].verdict) in _ADMITTED and not row.failures
    ]
    costs = {id(row): cost for row, cost in zip(rows, _costs(rows, prefer), strict=True)}
    chosen = _cheapest(admitted, costs, best)
    grades = [one.verdict.grade for one in held.values()]
    if id(chosen) in held and held[id(chosen)].verdict.verdict not in _ADMITTED:
        grades.append("indicative")
    return Choice(
        setting=setting,
        table=table,
        chosen=chosen,
        best=best,
        reasons=tuple(_reason(row, best, held.get(id(row)), costs[id(row)], prefer, chosen) for row in rows),
        grade=min(grades, key=GRADES.index) if grades else None,
    )


def _cheapest(admitted: Sequence[Row], costs: Mapping[int, float | None], best: Row) -> Row:
    """Return the cheapest of these; of those that cost hardly more, the best one if it is among them, else the cheapest."""
    known = [cost for row in admitted if (cost := costs[id(row)]) is not None]
    cost_of_best = costs[id(best)]
    if known and cost_of_best is not None and cost_of_best <= min(known) * (1 + LIKE_COST):
        return best
    return min(admitted, key=lambda row: (costs[id(row)] is None, costs[id(row)] or 0.0, row is not best))


def _shown(verdict: Verdict) -> str:
    """Return a verdict's finding; an open one gives what it would be if no run collapses."""
    return verdict.verdict if verdict.verdict in _ADMITTED else verdict.unless_collapse or verdict.verdict


def _costs(rows: Sequence[Row], prefer: Prefer) -> list[float | None]:
    """Return the cost of each method, all by one kind of measurement."""
    if prefer == "memory":
        return [row.train_peak_bytes for row in rows]
    if prefer == "time":
        return [row.train_seconds for row in rows]
    kept = [row.checkpoint_bytes for row in rows]
    if None not in kept:
        return kept
    stored = [row.parameters.stored if row.parameters is not None else None for row in rows]
    return [None if number is None else float(_WEIGHT_BYTES * number) for number in stored]


def _reason(row: Row, best: Row, held: Held | None, cost: float | None, prefer: Prefer, chosen: Row) -> str:
    assert row.score is not None
    said = f"{row.label}: {text.score(row.score.mean)} over {text.plural(row.score.n, 'seed')}"
    if row is best:
        said += ", the best mean"
    elif held is None:
        said += f", not judged against {best.label}"
    else:
        verdict, interval = held.verdict, held.verdict.simultaneous
        within = f" (interval {text.ends(interval, text.difference)})" if interval else ""
        margin = f" at a margin of {verdict.margin:g}" if verdict.margin is not None else ""
        shown = _shown(verdict)
        against = f"{shown} to" if shown in ("equivalent", "non-inferior") else f"{shown} than"
        if shown == "inconclusive":
            against = "undecided against"
        rate = "some" if verdict.cancelled is None else f"over {text.percent(verdict.cancelled.rate)} of"
        unless = f" unless {rate} runs collapse" if verdict.decides else ""
        unless += ", at these rates" if verdict.choice_sd is None and shown != "inconclusive" else ""
        said += f", {against} {best.label}{margin}{unless}: {text.difference(verdict.difference)}{within}"
    if row.failures:
        said += f", {len(row.failures)} of {text.plural(len(row.run_ids), 'run')} failed"
    said += f"; {_cost_words(row, cost, prefer)}"
    return f"{said}{'; chosen' if row is chosen else ''}"


def _cost_words(row: Row, cost: float | None, prefer: Prefer) -> str:
    shared = ", measured while other work ran beside it" if row.exclusive is False and prefer != "storage" else ""
    if cost is None:
        return f"its {prefer} was not measured"
    if prefer == "time":
        return f"trains in {text.rate(cost)} s{shared}"
    return f"{'stores' if prefer == 'storage' else 'trains in'} {text.mebibytes(cost)} MiB{shared}"
