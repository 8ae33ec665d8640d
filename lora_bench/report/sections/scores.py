"""The sections with the scores: the comparison of methods, task by task where there are several, and the trials.

A report of one task has its tables in the first. One of several has there what is over tasks, if verdicts are drawn, and the
tables of each task in a section of their own, after the figures.
"""

import statistics
from collections.abc import Sequence

from lora_bench.metrics import find
from lora_bench.records.budget import PARAMETER_AXES
from lora_bench.report.blocks import Block, Fold, Heading, TextList, TextTable
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting
from lora_bench.report.model.judged import Judged
from lora_bench.report.model.report import Report
from lora_bench.report.model.rows import Row, in_order
from lora_bench.report.model.searches import Beside
from lora_bench.report.sections import method_tables as tables
from lora_bench.report.sections.by_task import over_tasks_blocks, scores_by_task
from lora_bench.report.sections.chosen_rates import rungs_of_search
from lora_bench.report.sections.class_tables import class_blocks
from lora_bench.report.sections.method_tables import TableColumn
from lora_bench.report.sections.tuning import edge_items, failing_items, trial_blocks
from lora_bench.report.sections.verdicts import rank_note, rank_words, verdict_words
from lora_bench.report.text import MISSING, code, cost, inert, json_value, listed, mebibytes, plural, rate, score, seed


def scores_section(report: Report) -> list[Block]:
    """Return the section on scores and their costs."""
    comparison, judged = report.comparison, report.judged
    blocks: list[Block] = [Heading(2, "Scores")]
    if not all(setting.search for setting in comparison.results):
        blocks += _legend(comparison, judged, report.costs)
    if judged is not None and judged.over_tasks:
        blocks += over_tasks_blocks(judged, report.costs)
    if judged is None or not judged.over_tasks:
        if len({setting.spec.task.name for setting in comparison.results if not setting.search}) > 1:
            blocks += scores_by_task(comparison, judged)
        blocks += _of_settings(comparison.results, report)
    return [*blocks, *_notes(comparison.results)]


def task_section(report: Report) -> list[Block]:
    """Return the tables of each task, where means over several stand before them; else nothing."""
    if report.judged is None or not report.judged.over_tasks:
        return []
    results = report.comparison.results
    return [
        Heading(2, "Task by task"),
        *scores_by_task(report.comparison, report.judged),
        *_of_settings(results, report, fold=True),
        *_notes(results),
    ]


def tuning_section(report: Report) -> list[Block]:
    """Return the trials of a report that has results too; else nothing."""
    trials = [setting for setting in report.comparison.settings if setting not in report.comparison.results]
    if not trials:
        return []
    head: list[Block] = [Heading(2, "Tuning"), "Trials choose learning rates; their scores are no results."]
    return [*head, *_of_settings(trials, report, fold=True), *_notes(trials)]


def _legend(comparison: Comparison, judged: Judged | None, beside: Beside) -> list[Block]:
    lines = [*_LEGEND]
    if any(tables.word_model_score(setting.rows) is not None for setting in comparison.results):
        lines.append(
            f"{tables.WORDS}: tf-idf with logistic regression for classes, ridge regression for numbers, on the same training "
            "rows, with the penalty that is best on the selection split; no base model."
        )
    if judged is not None and judged.analysis.seeds is not None:
        lines.append(
            "Verdicts decided how many seeds a row has. Its interval does not allow for that; those of verdicts do."
        )
    if judged is not None and judged.ranks:
        lines.append(rank_note(judged))
    if comparison.scores_alone:
        return ["Rows are in alphabetical order.", TextList([*_LEGEND[:2], *lines[len(_LEGEND) :]])]
    lines.append("*peak memory*: of training, above the start. It, *step* and *examples/s* are medians over seeds.")
    cells = [(row, table, setting) for setting in comparison.results for table in setting.tables for row in table.rows]
    if any(beside.tuning(*cell) is not None for cell in cells):
        lines.append("*tuning*: seconds of training in all trials that chose the learning rate.")
    if any(beside.checkpoint_bytes(*cell) is not None for cell in cells):
        lines.append("*checkpoint*: the files that restore the result on the public base model.")
    if any(setting.by_median for setting in comparison.settings):
        lines.append("*median*: over the same n runs; the protocol takes it in place of the mean.")
    return ["Rows are in alphabetical order, below methods that are exempt from the parameter target.", TextList(lines)]


_LEGEND = """\
*mean ± SD*: over the n runs with a score, with the sample standard deviation; *failed* runs have none.
*95 % interval*: the t-interval of the mean over seeds; none below 3 seeds or if all scores are the same.
*less majority*: the mean less the score of always answering the majority class of the training data (or their mean).
""".splitlines()


def _notes(settings: Sequence[Setting]) -> list[Block]:
    rows = [row for setting in settings for row in setting.rows]
    notes: list[Block] = []
    if any(row.exempt for row in rows):
        notes.append(exempt_note(settings))
    # Tables of learning rates have no measurements.
    measured = [row for setting in settings if not setting.search for row in setting.rows]
    if any(row.measured.exclusive is False for row in measured):
        said = "Other work ran on the same device or machine, so the number says little about speed or memory."
        notes.append(f"{tables.SHARED} {said}")
    if any(len(row.environments) > 1 for row in measured):
        said = "The runs of this row ran in several environments: see [Environment](#environment)."
        notes.append(f"{tables.SEVERAL} {said}")
    if any(row.only_resumed for row in measured):
        notes.append(tables.OF_RESUMED)
    return notes


def exempt_note(settings: Sequence[Setting]) -> str:
    """Return the note that explains the mark of an exempt method."""
    axes = {setting.parameter_target[0] for setting in settings if setting.parameter_target is not None}
    axis = max(axes, key=PARAMETER_AXES.index, default=PARAMETER_AXES[0])
    exempt = f"{tables.EXEMPT} Exempt from the target for {axis.replace('_', ' ')}, since it has no size to fit"
    return f"{exempt}; all else but the learning rate is equal."


def _of_settings(settings: Sequence[Setting], report: Report, *, fold: bool = False) -> list[Block]:
    """Return the tables of some settings, each under its name, and folded away if *fold*."""
    comparison = report.comparison
    blocks: list[Block] = []
    for setting in settings:
        blocks += [Heading(3, tables.setting_name(setting, comparison)), *_apart_from_kin(setting, comparison)]
        blocks += _own_word(setting)
        shown = _search(setting, comparison) if setting.search else _model_tables(setting, report)
        models, methods = len(setting.tables), len({row.label for row in setting.rows})
        on = f" on {plural(models, 'base model')}" if setting.tables[0].model.shown else ""
        title = f"{plural(methods, 'method')}{on}"
        # One of many tasks is looked up, and not read on the way.
        blocks += [Fold(title, shown)] if fold else shown
    return blocks


def _apart_from_kin(setting: Setting, comparison: Comparison) -> list[Block]:
    """Return the differences between a setting and the others of its task, with which it must not be ranked."""
    differs = comparison.differs_from_kin(setting)
    if not differs:
        return []
    # Of runs that no suite planned, what is null is said below.
    said = {name: value for name, value in differs.items() if value is not None or not setting.unknown}
    fields = listed([f"{code(name)} is {json_value(value)}" for name, value in said.items()])
    here = f" Here {fields}." if said else " Here less is recorded."
    return [f"Not to be ranked against the other settings of this task.{here}"]


def _own_word(setting: Setting) -> list[Block]:
    """Return the note on runs that no suite planned: their source, and the conditions that readers must know themselves."""
    if setting.spec.source is None or setting.scores_alone:
        return []
    said = f"No suite planned these runs; their records come from: {inert(setting.spec.source)}."
    if setting.unknown:
        said += f" Their author vouches for what is not recorded: {listed([*map(code, setting.unknown)])}."
    return [said]


def _model_tables(setting: Setting, report: Report) -> list[Block]:
    blocks: list[Block] = []
    costs = report.given_costs
    given = [] if costs is None else [TableColumn(inert(costs.name), lambda row: cost(costs.mean(row)))]
    for table in setting.tables:
        shown = tables.score_table(table, setting, [*given, *_judged(setting, report.judged)])
        named = [Heading(4, tables.model_name(table))] if table.model.shown else []
        blocks += [*named, *shown, *_seeds_note(table)]
        if setting.scores_alone:
            continue
        blocks += _further_metrics(table, setting)
        measured = tables.cost_tables(table, setting, _beside(table, setting, report.costs))
        blocks += [Fold("Memory and time", measured), *class_blocks(table, report)]
    return blocks


def _further_metrics(table: ModelTable, setting: Setting) -> list[Block]:
    """Return the means of the metrics that no verdict is about, folded away; nothing without such."""
    scored = {
        row.run_ids: [record for record in row.records if record.run_id in {of.run_id for of in row.scores}]
        for row in table.rows
    }
    own = setting.spec.task.metric
    names = dict.fromkeys(
        name for records in scored.values() for one in records for name in one.scores or () if name != own
    )
    if not names:
        return []

    def mean(row: Row, name: str) -> str:
        found = [one.scores[name] for one in scored[row.run_ids] if one.scores is not None and name in one.scores]
        some = f" ({len(found)} of {len(row.scores)})" if 0 < len(found) < len(row.scores) else ""
        return score(statistics.fmean(found) if found else None) + some

    lower = {name for name in names if (known := find(name)) is not None and not known.higher_is_better}
    header = ["method", *(f"{inert(name)}{' (lower is better)' * (name in lower)}" for name in names)]
    lines = [[tables.method_name(row), *(mean(row, name) for name in names)] for row in table.rows if row.scores]
    return [Fold("Further metrics, means", [TextTable(header, lines)])]


def _judged(setting: Setting, judged: Judged | None) -> list[TableColumn]:
    if judged is None or not any(held.setting is setting for held in judged.held):
        return []
    rates = not setting.scores_alone
    ranks = [TableColumn("ranks", lambda row: rank_words(judged.rank_of(row)))] if judged.ranks else []
    return [
        *ranks,
        TableColumn(
            f"against {code(judged.analysis.reference)}",
            lambda row: verdict_words(held.verdict, rates=rates) if (held := judged.of(row)) is not None else MISSING,
        ),
    ]


def _beside(table: ModelTable, setting: Setting, beside: Beside) -> list[TableColumn]:
    """Return the columns of rows' costs beside their runs, where any is known."""
    columns = (
        TableColumn("tuning, s", lambda row: rate(beside.tuning(row, table, setting))),
        TableColumn("checkpoint, MiB", lambda row: mebibytes(beside.checkpoint_bytes(row, table, setting))),
    )
    return [column for column in columns if any(column.cell(row) != MISSING for row in table.rows)]


def _seeds_note(table: ModelTable) -> list[Block]:
    if len({tuple(sorted(row.seeds, key=in_order)) for row in table.rows}) == 1:
        return []
    seeds = [f"{tables.method_name(row)} {', '.join(map(seed, sorted(row.seeds, key=in_order)))}" for row in table.rows]
    return [f"The methods were not run with the same seeds: {'; '.join(seeds)}."]


def _rule(setting: Setting) -> str:
    """Return how a rate is chosen where it need not have the best mean."""
    if setting.budget is None or setting.budget.search != "halve_seeds":
        return ""
    return (
        ": of all seeds' means the best, or the smallest within a standard error of it where a larger rate learned nothing; "
        "scores no better than a constant answer's count alike"
    )


def _search(setting: Setting, comparison: Comparison) -> list[Block]:
    rungs = rungs_of_search(setting, comparison)
    return [
        Heading(4, "Learning rates"),
        f"Mean {tables.metric_name(setting)} {tables.on_split(setting)} over n seeds. That chosen "
        f"is in bold, not shown to be better{_rule(setting)}.",
        *tables.learning_rate_table(setting),
        *edge_items(setting, comparison),
        *failing_items(setting, rungs),
        *trial_blocks(setting, rungs),
    ]
