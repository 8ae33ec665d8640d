"""Tables over several tasks or targets: each method over all of them, and the score of each method on each."""

from collections.abc import Sequence

from lora_bench.report import text
from lora_bench.report.blocks import Block, Heading, TextList, TextTable, known_columns, wide_table
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting
from lora_bench.report.model.judged import Judged
from lora_bench.report.model.over_tasks import Across, OverTasks
from lora_bench.report.model.rows import Row, grouped, total_of, unique
from lora_bench.report.model.searches import Beside
from lora_bench.report.sections import method_tables as tables
from lora_bench.report.sections.verdicts import numbers, rank_words, reaches_none
from lora_bench.report.text import MISSING, code, inert, listed

_COSTS = "*peak memory*: the largest of the tasks. Times are of all runs; *tuning* is of the trials."
_CELLS = "The mean (or the median, where the protocol takes it) with its 95 % interval over seeds"
_MATRIX_NOTE = (
    f"{_CELLS}. In bold: the methods that are not shown to be worse than another on the task, if any two differ. Bold methods "
    "are not shown to be equal."
)


def over_tasks_blocks(judged: Judged, beside: Beside) -> list[Block]:
    """Return each method over the tasks of a base model; empty where no base model has several."""
    if not judged.over_tasks:
        return []
    reference = code(judged.analysis.reference)
    metrics = {setting.spec.task.metric for group in judged.over_tasks for setting in group.settings.values()}
    mixed = f" The tasks have {len(metrics)} metrics, whose points are not worth the same." if len(metrics) > 1 else ""
    verdicts = [one.verdict for group in judged.over_tasks for one in group.methods if one.verdict is not None]
    blocks: list[Block] = [
        Heading(3, "Over tasks"),
        f"Each task counts alike, in points of its score.{mixed} The results hold for these tasks only. Differences to "
        f"{reference} are a family of their own, with an error level of {judged.analysis.alpha:g} (Holm).",
        TextList(
            [
                "*mean*: over tasks and seeds, with the t-interval over the seeds that all tasks have.",
                f"*difference*: the method less {reference}, on the tasks that both have.",
                f"*tasks*: number of tasks on which the method is shown to be better or worse than {reference}, and of the "
                "others.",
                *reaches_none(verdicts),
                *([] if judged.comparison.scores_alone else [_COSTS]),
            ]
        ),
    ]
    for group in judged.over_tasks:
        blocks += [Heading(4, _group_name(group, judged.comparison)), *_over_tasks(group, judged, beside)]
    return blocks


def _group_name(group: OverTasks, comparison: Comparison) -> str:
    setting = next(iter(group.settings.values()))
    targets = {other.parameter_target for other in comparison.results}
    target = f", {tables.target_name(setting)}" if len(targets) > 1 else ""
    model = f"{tables.model_name(group.table)}{target}, " if group.table.model.shown else ""
    return f"{model}{text.plural(len(group.settings), 'task')}"


def _over_tasks(group: OverTasks, judged: Judged, beside: Beside) -> list[Block]:
    tuning = "tuning, s"
    header = [
        "method", "mean", "95 % interval", "seeds", "ranks", f"against {code(judged.analysis.reference)}", "difference",
        "interval", "covers", "p", "would decide", "tasks: better / worse / neither", "failed", "adapter parameters",
        "peak memory, MiB", "training, s", tuning,
    ]  # fmt: skip
    lines = []
    for one in group.methods:
        trials = total_of(beside.tuning(row, group.table, group.settings[task]) for task, row in one.rows.items())
        lines.append([*_mean(one), rank_words(one.rank), *_against(one, group), *_costs(one), text.rate(trials)])
    alone = {"adapter parameters", "peak memory, MiB", "training, s"} if judged.comparison.scores_alone else set()
    return wide_table(*known_columns(header, lines, {tuning, "ranks", *alone}), names=1)


def _mean(one: Across) -> list[str]:
    name = tables.method_name(next(iter(one.rows.values())))
    if one.mean is None:
        return [name, MISSING, MISSING, MISSING]
    return [name, text.score(one.mean.mean), text.ends(one.mean.interval), str(one.mean.n)]


def _against(one: Across, group: OverTasks) -> list[str]:
    if one.difference is None or one.verdict is None:
        return [MISSING] * 7
    some = len(one.difference.tasks) < len(group.settings)
    on = f" ({len(one.difference.tasks)} of {len(group.settings)} tasks)" if some else ""
    covers = "seeds, items" if one.difference.crossed is not None else "seeds"
    rates = not next(iter(group.settings.values())).scores_alone
    difference, interval, covers, verdict, p_value, needed = numbers(one.verdict, covers, rates=rates)
    better, worse = one.shown.get("better", 0), one.shown.get("worse", 0)
    tasks = f"{better} / {worse} / {sum(one.shown.values()) - better - worse}"
    return [verdict + on, difference, interval, covers, p_value, needed, tasks]


def _costs(one: Across) -> list[str]:
    rows = [*one.rows.values()]
    peaks = [row.train_peak_bytes for row in rows if row.train_peak_bytes is not None]
    alike = len({row.memory_kind for row in rows if row.memory_kind is not None}) == 1
    mark = tables.SHARED if any(row.exclusive is False for row in rows) else ""
    peak = text.mebibytes(max(peaks)) + mark if peaks and alike else MISSING
    adapter = unique(row.parameters.adapter for row in rows if row.parameters is not None)
    seconds = total_of(row.train_seconds_total for row in rows)
    training = text.rate(seconds) + mark if seconds is not None else MISSING
    return [f"{one.failed} of {one.runs}", text.count(adapter), peak, training]


def scores_by_task(comparison: Comparison, judged: Judged | None) -> list[Block]:
    """Return a table of each base model and target: a line a method, a column a task."""
    groups = grouped(
        ((setting, table) for setting in comparison.results for table in setting.tables),
        lambda one: (tables.model_name(one[1]), one[1].weights, one[0].parameter_target),
    )
    blocks: list[Block] = [Heading(3, "Scores by task"), _MATRIX_NOTE if judged is not None else f"{_CELLS}."]
    for (name, *_), found in groups.items():
        targets = {setting.parameter_target for setting in comparison.results}
        target = f", {tables.target_name(found[0][0])}" if len(targets) > 1 else ""
        blocks += [*([] if name == MISSING else [Heading(4, f"{name}{target}")]), _matrix(found, comparison, judged)]
    return blocks


def _matrix(found: Sequence[tuple[Setting, ModelTable]], comparison: Comparison, judged: Judged | None) -> TextTable:
    rows: dict[str, dict[int, Row]] = {}
    for column, (_, table) in enumerate(found):
        for row in table.rows:
            rows.setdefault(tables.method_name(row), {})[column] = row
    header = ["method", *(f"{_task(setting, comparison)}, {tables.metric_name(setting)}" for setting, _ in found)]
    lines = [
        [name, *(_cell(of.get(column), setting, judged) for column, (setting, _) in enumerate(found))]
        for name, of in rows.items()
    ]
    alone = [tables.word_model_score(table.rows) for _, table in found]
    if any(score is not None for score in alone):
        lines.append([tables.WORDS, *map(text.score, alone)])
    return TextTable(header, lines)


def _task(setting: Setting, comparison: Comparison) -> str:
    alone = sum(other.parameter_target == setting.parameter_target for other in comparison.kin_of(setting)) == 1
    return code(setting.spec.task.name) if alone else tables.setting_name(setting, comparison)


def _cell(row: Row | None, setting: Setting, judged: Judged | None) -> str:
    if row is None:
        return MISSING
    if row.score is None:
        return listed([code(status) for status in row.statuses]) or MISSING
    value = text.score(setting.score_of(row))
    rank = judged.rank_of(row) if judged is not None else None
    shown = f"**{value}**" if rank is not None and rank.apart and rank.best == 1 else value
    interval = tables.interval(row)
    failed = f", {inert(str(len(row.failures)))} failed" if row.failures else ""
    return shown + (f" ({interval}{failed})" if interval != MISSING or failed else "")
