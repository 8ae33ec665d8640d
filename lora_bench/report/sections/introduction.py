"""The first words of a report's protocol, and facts where no verdict is drawn.

Every sentence is made from the records and claims no more than they do: the highest mean is a fact with its interval
and with whose intervals reach it, and no method is called better.
"""

from __future__ import annotations

from collections.abc import Sequence

from lora_bench.report.blocks import Block, TextList
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting
from lora_bench.report.model.rows import Row
from lora_bench.report.sections.method_tables import interval, metric_name, model_name, on_split, setting_name
from lora_bench.report.text import code, listed, natural, plural, score
from lora_bench.stats import Interval
from lora_bench.stats.verdict import FEWEST_PAIRS


def introduction(comparison: Comparison, judged: bool = False) -> list[Block]:
    """Return the compared methods, how the runs ended, and, where no verdict says it, the worth of the numbers."""
    # Trials are no results, unless there is nothing else.
    results = [setting for setting in comparison.settings if not setting.search] or comparison.settings
    rows = [row for setting in results for row in setting.rows]
    models = {model_name(table) for setting in comparison.settings for table in setting.tables}
    tasks = dict.fromkeys(code(setting.spec.task.name) for setting in comparison.settings)
    seeds = sorted({len(row.seeds) for row in rows})
    metrics = dict.fromkeys(_metric(setting) for setting in results)
    protocols = dict.fromkeys(code(setting.spec.protocol) for setting in comparison.settings if setting.spec.protocol)
    ended = sorted(comparison.statuses.items(), key=lambda item: (item[0] != "ok", item[0]))
    statuses = listed(
        [f"{number} {'' if index else 'ended '}{code(status)}" for index, (status, number) in enumerate(ended)]
    )
    trials = len(
        {
            run_id
            for setting in comparison.settings
            if setting not in results
            for row in setting.rows
            for run_id in row.run_ids
        }
    )
    tuned = (
        f" {trials:,} of them {'was a trial' if trials == 1 else 'were trials'}, which chose learning rates."
        if trials
        else ""
    )
    return [
        f"{_methods(rows)} on {plural(len(models), 'base model')} and {plural(len(tasks), 'task')} "
        f"({listed([*tasks])}) with {_number_of_seeds(seeds)} each. Of {plural(comparison.runs, 'run')}, {statuses}.{tuned} "
        f"{'Scores of the others' if trials else 'Scores'} are {listed([*metrics])}{_under(comparison, [*protocols])}.",
        _caution(comparison, rows, judged),
    ]


def facts(comparison: Comparison) -> list[Block]:
    """Return each base model's highest mean with its interval, and whose intervals reach it; or the highest median."""
    found = [
        _fact(table, setting, comparison)
        for setting in comparison.settings
        if not setting.search
        for table in setting.tables
    ]
    return [TextList(found)] if found else []


def _methods(rows: Sequence[Row]) -> str:
    held, free = (
        [code(label) for label in sorted({row.label for row in rows if row.exempt is exempt}, key=natural)]
        for exempt in (False, True)
    )
    number = plural(len(held) + len(free), "method")
    if not free:
        return f"{number} ({listed(held)})"
    if not held:
        return f"{number} (all exempt from the parameter target: {listed(free)})"
    return f"{number} ({listed(held)}, with {listed(free)} exempt from the parameter target)"


def _metric(setting: Setting) -> str:
    better = " (lower is better)" if setting.spec.task.higher_is_better is False else ""
    return f"{metric_name(setting)}{better} {on_split(setting)}"


def _under(comparison: Comparison, protocols: Sequence[str]) -> str:
    """Return the protocols of the scores, in words; some scores may have none on record."""
    without = any(setting.spec.protocol is None for setting in comparison.settings)
    named = [f"under the protocol {listed(protocols)}"] if protocols else []
    return "".join(
        f", {one}"
        for one in (
            *named,
            *(
                ["some under an unrecorded protocol" if protocols else "under an unrecorded protocol"]
                if without
                else []
            ),
        )
    )


def _number_of_seeds(numbers: Sequence[int]) -> str:
    """Return a number of seeds from the sorted numbers that occur."""
    if len(numbers) == 1:
        return plural(numbers[0], "seed")
    return f"{numbers[0]} {'or' if numbers[-1] - numbers[0] == 1 else 'to'} {numbers[-1]} seeds"


def _caution(comparison: Comparison, rows: Sequence[Row], judged: bool) -> str:
    scored = sorted({row.score.n for row in rows if row.score is not None})
    if not scored:
        return "No run has a score, so there is nothing to compare."
    said = []
    tasks = dict.fromkeys(setting.spec.task.name for setting in comparison.settings)
    with_results = {setting.spec.task.name for setting in comparison.settings if not setting.search}
    searches = [code(task) for task in tasks if task not in with_results]
    if searches:
        said.append(f"On {listed([*searches])} this is a search: its scores choose learning rates and are not results.")
    if not judged:
        said.append(f"No verdicts are drawn from {_number_of_seeds(scored)} a mean.")
    if scored[0] == 1:
        said.append("A mean of one seed has no interval: another seed may be far from it.")
    if scored[-1] > 1 and not judged:
        said.append("Where intervals overlap, the order of two means may be chance.")
    return " ".join(said)


def _fact(table: ModelTable, setting: Setting, comparison: Comparison) -> str:
    several = len(comparison.settings) > 1
    where = model_name(table) + (f", {setting_name(setting, comparison)}" if several else "")
    values = {
        id(row): row.score.median if setting.by_median else row.score.mean
        for row in table.rows
        if row.score is not None
    }
    if not values:
        return f"{where}: no run has a score."
    if setting.spec.task.higher_is_better is None:
        return f"{where}: no record says whether a higher or a lower {metric_name(setting)} is better."
    extreme = (max if setting.spec.task.higher_is_better else min)(values.values())
    first = [row for row in table.rows if values.get(id(row)) == extreme]
    others = [row for row in table.rows if id(row) in values and row not in first]
    names = listed([code(row.label) for row in first])
    word = (
        f"{'highest' if setting.spec.task.higher_is_better else 'lowest'} {'median' if setting.by_median else 'mean'}"
    )
    if len(first) > 1:
        return f"{where}: {names} share the {word}, {score(extreme)}."
    what = f"the {word} is that of {names}" if others else f"only {names} has a score"
    if setting.by_median:
        assert first[0].score is not None
        return f"{where}: {what}, {score(extreme)} ({plural(first[0].score.n, 'seed')})."
    return f"{where}: {what}, {_with_interval(first[0])}.{_overlap(first[0], others)}"


def _with_interval(row: Row) -> str:
    assert row.score is not None
    seeds = plural(row.score.n, "seed")
    if row.score.sd is None or row.score.n < FEWEST_PAIRS:
        return f"{score(row.score.mean)} ({seeds}, so no interval)"
    if row.score.interval is None:
        return f"{score(row.score.mean)} ({seeds}, all the same, so no interval)"
    return f"{score(row.score.mean)} (95 % interval {interval(row)}, {seeds})"


def _overlap(first: Row, others: Sequence[Row]) -> str:
    """Return the methods whose intervals overlap that of *first*, those whose do not, and those without one."""
    mine = _known(first)
    if mine is None:
        return ""
    overlapping, apart, without = [], [], []
    for row in others:
        theirs = _known(row)
        if theirs is None:
            without.append(code(row.label))
        elif theirs.high >= mine.low and theirs.low <= mine.high:
            overlapping.append(code(row.label))
        else:
            apart.append(code(row.label))
    said = [
        f" {_interval_of(overlapping)} {'overlaps' if len(overlapping) == 1 else 'overlap'} it." if overlapping else "",
        f" {_interval_of(apart)} {'does' if len(apart) == 1 else 'do'} not reach it." if apart else "",
        f" There is no interval for {listed(without)}." if without else "",
    ]
    return "".join(said)


def _known(row: Row) -> Interval | None:
    """Return the interval of a mean that is shown: with fewer seeds it is wider than any scale."""
    return row.score.interval if row.score is not None and row.score.n >= FEWEST_PAIRS else None


def _interval_of(names: Sequence[str]) -> str:
    return f"The {'interval' if len(names) == 1 else 'intervals'} of {listed(names)}"
