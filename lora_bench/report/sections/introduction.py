"""The first words of a report's protocol: what was compared, how its runs ended, and the worth of the numbers."""

from __future__ import annotations

from collections.abc import Sequence

from lora_bench.report.blocks import Block
from lora_bench.report.model.comparison import Comparison
from lora_bench.report.model.rows import Row
from lora_bench.report.sections.method_tables import metric_name, model_name, on_split
from lora_bench.report.text import code, listed, natural, plural


def introduction(comparison: Comparison, judged: bool = False) -> list[Block]:
    """Return the compared methods, how the runs ended, and, where no verdict says it, the worth of the numbers."""
    # Trials are no results, unless there is nothing else.
    results = [setting for setting in comparison.settings if not setting.search] or comparison.settings
    rows = [row for setting in results for row in setting.rows]
    models = {model_name(table) for setting in comparison.settings for table in setting.tables}
    tasks = dict.fromkeys(code(setting.spec.task.name) for setting in comparison.settings)
    seeds = sorted({len(row.seeds) for row in rows})
    metrics = dict.fromkeys(
        f"{metric_name(one)}{' (lower is better)' if one.spec.task.higher_is_better is False else ''} {on_split(one)}"
        for one in results
    )
    protocols = dict.fromkeys(code(setting.spec.protocol) for setting in comparison.settings if setting.spec.protocol)
    ended = sorted(comparison.statuses.items(), key=lambda item: (item[0] != "ok", item[0]))
    statuses = listed(
        [f"{number} {'' if index else 'ended '}{code(status)}" for index, (status, number) in enumerate(ended)]
    )
    trying = [setting for setting in comparison.settings if setting not in results]
    trials = len({run_id for setting in trying for row in setting.rows for run_id in row.run_ids})
    word = "was a trial" if trials == 1 else "were trials"
    tuned = f" {trials:,} of them {word}, which chose learning rates." if trials else ""
    return [
        f"{_methods(rows)} on {plural(len(models), 'base model')} and {plural(len(tasks), 'task')} "
        f"({listed([*tasks])}) with {_number_of_seeds(seeds)} each. Of {plural(comparison.runs, 'run')}, {statuses}.{tuned} "
        f"{'Scores of the others' if trials else 'Scores'} are {listed([*metrics])}{_under(comparison, [*protocols])}.",
        _caution(comparison, rows, judged),
    ]


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


def _under(comparison: Comparison, protocols: Sequence[str]) -> str:
    without = any(setting.spec.protocol is None for setting in comparison.settings)
    said = f", under the protocol {listed(protocols)}" if protocols else ""
    return f"{said}, {'some ' if protocols else ''}under an unrecorded protocol" if without else said


def _number_of_seeds(numbers: Sequence[int]) -> str:
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
