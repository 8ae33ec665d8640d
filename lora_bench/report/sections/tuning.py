"""Tuning in a report: how good the best of fewer trials would have been, and the cost of all.

A method that is tried more often looks better. So the expected best of k trials stands beside the best of all, for every method
at the same k (Dodge et al. 2019, in the unbiased form of Tang et al. 2020). It is of trials with the same work that were drawn
without regard to their scores. Of a successive halving only the first rung is that: what comes after it are the best of it, and
any k of them are better than k drawn ones. So later rungs have none, and what a halving cost is shown rung by rung. Trials
beyond the range, which the scores of others asked for, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from lora_bench.records.budget import AXES, Axis, amount_of
from lora_bench.report import text
from lora_bench.report.blocks import Block, TextList, TextTable
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting, conditions_of
from lora_bench.report.model.rows import Row, canonical, fallen_runs
from lora_bench.report.sections.method_tables import best_rates, method_name, metric_name, model_name, size
from lora_bench.report.text import MISSING
from lora_bench.stats import expected_best

Name = tuple[str, str, str]


def rungs_of_search(setting: Setting, comparison: Comparison) -> tuple[Setting, ...]:
    """Return the settings of the halving that a setting is a rung of, the first rung first; itself where it is of none."""
    if setting.rung is None:
        return (setting,)
    task, shared = setting.spec.task.name, _all_but_work(setting)
    of_task = (other for other in comparison.settings if other.rung is not None and other.spec.task.name == task)
    return tuple(sorted((other for other in of_task if _all_but_work(other) == shared), key=lambda one: one.rung or 0))


def searches(comparison: Comparison) -> list[Setting]:
    """Return the settings in which a method was run with several learning rates."""
    return [setting for setting in comparison.settings if setting.search]


def untuned_tasks(comparison: Comparison) -> list[str]:
    """Return the tasks on which every method ran at one given learning rate; runs that no suite planned say nothing of it.

    None where learning rates are what is compared: those of one method.
    """
    if rates_compared(comparison):
        return []
    tuned = {setting.spec.task.name for setting in comparison.settings if setting.search or setting.trials}
    found = dict.fromkeys(
        setting.spec.task.name
        for setting in comparison.results
        if setting.spec.source is None and (setting.budget is None or (setting.budget.trials or 1) < 2)
    )
    return [task for task in found if task not in tuned]


def rates_compared(comparison: Comparison) -> bool:
    """Tell if the rows of each table are of one method at several learning rates."""
    tables = [table for setting in comparison.results for table in setting.tables]
    return bool(tables) and all(
        len({row.method for row in table.rows}) == 1 and len({row.learning_rate for row in table.rows}) > 1
        for table in tables
    )


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A method whose best learning rate is the last one tried.

    Args:
        row: Row of this rate.
        end: The smallest or the largest.
    """

    row: Row
    table: ModelTable
    end: Literal["smallest", "largest"]


def edges_tried(comparison: Comparison) -> list[Edge]:
    """The edges of all trials that chose rates for results; those of a method that is exempt from several targets once."""
    return [
        *{
            edge.row.run_ids: edge for setting, rungs in _last_trials(comparison) for edge in edges(setting, rungs)
        }.values()
    ]


def tried_searches(comparison: Comparison) -> int:
    """Return the number of methods and base models for which a rate was chosen, at each target."""
    found = {
        frozenset(run_id for row in table.rows if row.label == label for run_id in row.run_ids)
        for setting, _ in _last_trials(comparison)
        for table in setting.tables
        for label in {row.label for row in table.rows}
    }
    return len(found)


def _last_trials(comparison: Comparison) -> list[tuple[Setting, tuple[Setting, ...]]]:
    found = [(setting, rungs_of_search(setting, comparison)) for setting in searches(comparison) if setting.trials]
    return [(setting, rungs) for setting, rungs in found if setting is rungs[-1]]


def edges(setting: Setting, rungs: Sequence[Setting]) -> list[Edge]:
    """Return the methods whose best learning rate is the smallest or the largest tried, so that a better one may lie beyond.

    Args:
        setting: A search, or the last rung of a halving.
        rungs: Rungs of its halving, or the search alone; all rates of the first are those that were tried.
    """
    begun = {canonical(table.model.model_dump()): table.rows for table in rungs[0].tables}
    found = []
    for table in setting.tables:
        of_model = begun.get(canonical(table.model.model_dump()), table.rows)
        for label in dict.fromkeys(row.label for row in table.rows):
            rows = [row for row in table.rows if row.label == label]
            tried = sorted(
                {
                    row.learning_rate
                    for row in (*of_model, *rows)
                    if row.label == label and row.learning_rate is not None
                }
            )
            best = best_rates(rows, setting.spec.task.higher_is_better)
            if len(tried) > 1 and len(best) == 1 and best[0] in (tried[0], tried[-1]):
                row = next(row for row in rows if row.learning_rate == best[0])
                found.append(Edge(row=row, table=table, end="smallest" if best[0] == tried[0] else "largest"))
    return found


def edge_items(setting: Setting, rungs: Sequence[Setting]) -> list[Block]:
    """Return the edges of a search, or of the last rung of a halving."""
    found = edges(setting, rungs) if setting is rungs[-1] else []
    said = [
        f"{method_name(edge.row)} on {model_name(edge.table)}: "
        f"{text.learning_rate(edge.row.learning_rate)} is the {edge.end} tried"
        f"{', beyond the range given' if edge.row.extended else ''}."
        for edge in found
    ]
    return ["A better learning rate may lie outside the rates tried:", TextList(said)] if said else []


def failing_items(setting: Setting, rungs: Sequence[Setting]) -> list[Block]:
    """Return the chosen rates of which a trial failed or learned nothing, or one at the next rate on either side."""
    better = setting.spec.task.higher_is_better
    said = []
    for (model, method, _), rows in _by_method(setting).items() if setting is rungs[-1] else ():
        chosen = best_rates(rows, better)
        by_rate = {row.learning_rate: row for row in rows if row.learning_rate is not None}
        tried = sorted(by_rate)
        if len(chosen) != 1:
            continue
        place = tried.index(chosen[0])
        near = tried[max(0, place - 1) : place + 2]
        found = [
            f"{number} of {len(by_rate[rate].run_ids)} at {text.learning_rate(rate)}"
            for rate in near
            if (number := len(by_rate[rate].failures) + fallen_runs(by_rate[rate], better))
        ]
        if found:
            said.append(f"{method} on {model}, {text.learning_rate(chosen[0])} chosen: {text.listed(found)}.")
    head = "Runs at a chosen learning rate may fail, since trials at it or at the next ones failed or learned nothing:"
    return [head, TextList(said)] if said else []


def trial_blocks(setting: Setting, rungs: Sequence[Setting] = ()) -> list[Block]:
    """Return the expected best of a search, and at the end of a halving the cost of its rungs.

    Args:
        setting: The search, or a rung of it.
        rungs: Rungs of its halving.

    Returns:
        Nothing where no method was tried more than once.
    """
    if setting.rung is None:
        return _expected(setting, _DRAWN)
    last = bool(rungs) and setting is rungs[-1]
    expected = _expected(setting, _DRAWN_SHORT) if setting.rung == 1 else [_CHOSEN]
    return [*_went_on(setting, rungs), *expected, *(_costs(rungs) if last else [])]


_DRAWN = (
    "drawn at random. A trial is the mean over its seeds; a failed one counts as the majority class. The last column is the "
    "cost of all."
)
_DRAWN_SHORT = (
    f"{_DRAWN} All of them are short, so runs with all of the work score otherwise, above all those of slow methods."
)
_CHOSEN = "These learning rates are the best of the rung before and not drawn at random, so no expected best is shown."


def _expected(setting: Setting, how: str) -> list[Block]:
    better = setting.spec.task.higher_is_better
    found = _by_method(setting)
    most = max((sum(not row.extended for row in rows) for rows in found.values()), default=0)
    if better is None or most < 2:
        return []
    lines = []
    for name, rows in found.items():
        scores = _at_each_rate([row for row in rows if not row.extended])
        expected: Sequence[float] = expected_best(scores, higher_is_better=better) if scores else ()
        cells = [text.score(value) for value in expected]
        lines.append([*name[:2], *cells, *[MISSING] * (most - len(cells)), text.rate(_seconds(rows))])
    header = [
        "base model",
        "method",
        *(text.plural(number, "trial") for number in range(1, most + 1)),
        "training, s in all",
    ]
    return [
        f"The expected best {metric_name(setting)} of so many of these trials, {how}{_beyond(found)}",
        TextTable(header, lines, numbers_from=2),
    ]


def _beyond(found: Mapping[Name, Sequence[Row]]) -> str:
    """Name the trials beyond the range, which are in the cost alone; "" where there are none."""
    rates = [
        f"{text.code(row.label)} on {name[0]} at {text.learning_rate(row.learning_rate)}"
        for name, rows in found.items()
        for row in rows
        if row.extended
    ]
    if not rates:
        return ""
    return f" Tried beyond the range, as the best rate was at its edge, and only in the cost: {text.listed(rates)}."


def _went_on(setting: Setting, rungs: Sequence[Setting]) -> list[str]:
    """Count the learning rates of a rung that went on to the next one."""
    later = next((rung for rung in rungs if (rung.rung or 0) > (setting.rung or 0)), None)
    if later is None:
        return []
    most = max(sum(not row.extended for row in rows) for rows in _by_method(later).values())
    target = _target(later)
    work = f" with {amount_of(*target)}" if target is not None else ""
    return [f"The best {most} of each method went on to runs{work}."]


def _costs(rungs: Sequence[Setting]) -> list[Block]:
    """Return the cost of each rung of a halving, and of all together."""
    found = [_by_method(rung) for rung in rungs]
    lines = []
    for name in dict.fromkeys(name for rung in found for name in rung):
        cells: list[str] = []
        seconds: list[float] = []
        for rung in found:
            rows = rung.get(name, [])
            spent = _seconds(rows)
            cells += [text.count(len(rows)), text.count(sum(len(row.run_ids) for row in rows)), text.rate(spent)]
            seconds += [spent] if spent is not None else []
        lines.append([*name[:2], *cells, text.rate(math.fsum(seconds) if seconds else None)])
    columns = ("learning rates", "runs", "training, s")
    header = ["base model", "method", *(f"rung {rung.rung}: {column}" for rung in rungs for column in columns)]
    return [
        f"The cost of tuning each method, rung by rung. {_runs_of(rungs)}",
        TextTable([*header, "training, s in all"], lines, numbers_from=2),
    ]


def _runs_of(rungs: Sequence[Setting]) -> str:
    """Return the work of a run of each rung, and the planned total of all rungs."""
    amounts = [f"{amount_of(*target)} in rung {rung.rung}" for rung in rungs if (target := _target(rung)) is not None]
    budget = rungs[-1].budget
    trials = text.count(budget.trials if budget is not None else None)
    return f"A run has {text.listed(amounts)}. All runs of a seed have at most the work of {trials} full runs."


def _by_method(setting: Setting) -> dict[Name, list[Row]]:
    """Return the rows of each base model, method and size."""
    found: dict[Name, list[Row]] = {}
    for table in setting.tables:
        for row in table.rows:
            found.setdefault((model_name(table), method_name(row), size(row)), []).append(row)
    return found


def _all_but_work(setting: Setting) -> str:
    """Return the conditions that the rungs of a halving share: all but the amount of work and its number of steps."""
    parts = {*AXES, "steps", "warmup_steps", "caps"}
    shared: Iterable[tuple[str, JsonValue]] = conditions_of(setting.spec, setting.budget).items()
    return canonical(
        {name: value for name, value in shared if not (name.startswith("training.") and name.split(".")[1] in parts)}
    )


def _target(setting: Setting) -> tuple[Axis, float] | None:
    amounts = ((axis, getattr(setting.spec.training, axis)) for axis in AXES)
    return next(((axis, amount) for axis, amount in amounts if amount is not None), None)


def _at_each_rate(rows: Sequence[Row]) -> list[float]:
    """Return the mean score of each trial, at the floor where a run of it failed; empty where the floor of one is not known."""
    scores = []
    for row in rows:
        value = row.majority_score if row.failures or row.score is None else row.score.mean
        if value is None:
            return []
        scores.append(value)
    return scores


def _seconds(rows: Sequence[Row]) -> float | None:
    known = [row.train_seconds_total for row in rows if row.train_seconds_total is not None]
    return math.fsum(known) if known else None
