"""Tuning in a report: how good the best of fewer trials would have been, and the cost of all.

A method that is tried more often looks better. So the expected best of k trials stands beside the best of all, for every method
at the same k. It is of trials with the same work that were drawn without regard to their scores, so later rungs of a halving,
which are the best of the first, have none. Trials beyond the range, which the scores of others asked for, are left out.
"""

import statistics
from collections.abc import Mapping, Sequence

from lora_bench.records.budget import amount_of
from lora_bench.report import text
from lora_bench.report.blocks import Block, TextList, TextTable
from lora_bench.report.model.comparison import Comparison, Setting, rows_of, work_of
from lora_bench.report.model.rows import Row, fallen_runs, grouped, total_of
from lora_bench.report.model.searches import best_rates
from lora_bench.report.sections.chosen_rates import chosen_in
from lora_bench.report.sections.method_tables import method_name, metric_name, model_name, size
from lora_bench.report.text import MISSING
from lora_bench.stats import expected_best

Name = tuple[str, str, str]

_DRAWN = (
    "drawn at random. A trial is the mean over its seeds; a failed one counts as the majority class. The last column is the "
    "cost of all."
)
_DRAWN_SHORT = (
    f"{_DRAWN} All of them are short, so runs with all of the work score otherwise, above all those of slow methods."
)
_CHOSEN = "These learning rates are the best of the rung before and not drawn at random, so no expected best is shown."


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


def edge_items(setting: Setting, comparison: Comparison) -> list[Block]:
    """Return the methods of a search, or of the last rung of a halving, whose best learning rate is the last one tried."""
    said = [
        f"{method_name(one.best)} on {model_name(one.table)}: "
        f"{text.learning_rate(one.best.learning_rate)} is the {one.end} tried"
        f"{', beyond the range given' if one.best.extended else ''}."
        for one in chosen_in(setting, comparison)
        if one.best is not None and one.end
    ]
    return ["A better learning rate may lie outside the rates tried:", TextList(said)] if said else []


def failing_items(setting: Setting, rungs: Sequence[Setting]) -> list[Block]:
    """Return the chosen rates of which a trial failed or learned nothing, or one at the next rate on either side."""
    better = setting.spec.task.higher_is_better
    said = []
    for (model, method, _), rows in _by_method(setting).items() if setting is rungs[-1] else ():
        chosen = best_rates(rows, setting)
        by_rate = {row.learning_rate: row for row in rows if row.learning_rate is not None}
        tried = sorted(by_rate)
        if len(chosen) != 1:
            continue
        place = tried.index(chosen[0])
        near = tried[max(0, place - 1) : place + 2]
        found = [
            f"{number} of {len(by_rate[rate].run_ids)} at {text.learning_rate(rate)}"
            for rate in near
            if (number := len(by_rate[rate].failures) + fallen_runs(by_rate[rate], better, by_rate[rate].least_learned))
        ]
        if found:
            said.append(f"{method} on {model}, {text.learning_rate(chosen[0])} chosen: {text.listed(found)}.")
    head = "Runs at a chosen learning rate may fail, since trials at it or at the next ones failed or learned nothing:"
    return [head, TextList(said)] if said else []


def trial_blocks(setting: Setting, rungs: Sequence[Setting] = ()) -> list[Block]:
    """Return the expected best of a search; empty where no method was tried more than once."""
    if setting.rung is None:
        halved = setting.budget is not None and setting.budget.search == "halve_seeds"
        return _expected(setting, _DRAWN.replace("its seeds", "the seeds of all rates") if halved else _DRAWN)
    expected = _expected(setting, _DRAWN_SHORT) if setting.rung == 1 else [_CHOSEN]
    later = next((rung for rung in rungs if (rung.rung or 0) > setting.rung), None)
    if later is None:
        return [*expected]
    most = max(sum(not row.extended for row in rows) for rows in _by_method(later).values())
    target = work_of(later.spec.training)
    work = f" with {amount_of(*target)}" if target is not None else ""
    return [f"The best {most} of each method went on to runs{work}.", *expected]


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
        seconds = total_of(row.train_seconds_total for row in rows)
        lines.append([*name[:2], *cells, *[MISSING] * (most - len(cells)), text.rate(seconds)])
    trials = (text.plural(number, "trial") for number in range(1, most + 1))
    header = ["base model", "method", *trials, "training, s in all"]
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


def _by_method(setting: Setting) -> dict[Name, list[Row]]:
    found = grouped(rows_of([setting]), lambda cell: (model_name(cell.table), method_name(cell.row), size(cell.row)))
    return {name: [row for _, _, row in cells] for name, cells in found.items()}


def _at_each_rate(rows: Sequence[Row]) -> list[float]:
    """Return the mean score of each trial over the seeds that all have, at the floor where a run of it failed.

    Empty where the floor of one is not known.
    """
    shared = set.intersection(*(set(row.seeds) for row in rows)) if rows else set()
    scores = []
    for row in rows:
        values = [score.value for score in row.scores if score.seed in shared]
        value = row.majority_score if row.failures or not values else statistics.fmean(values)
        if value is None:
            return []
        scores.append(value)
    return scores
