"""Scores against the number of parameters: the settings of a task that differ in nothing but their target, side by side."""

from __future__ import annotations

from lora_bench.report import text
from lora_bench.report.blocks import Block, Heading, TextTable
from lora_bench.report.model.comparison import TARGETS, Comparison, Setting, rows_of
from lora_bench.report.model.rows import Row, canonical, grouped, in_order
from lora_bench.report.sections import method_tables as tables
from lora_bench.report.text import MISSING, code


def score_curves(comparison: Comparison) -> list[Block]:
    """Return a table for each task with several targets: a line a method and base model, a column a target."""
    blocks: list[Block] = []
    for settings in over_targets(comparison):
        first = settings[0]
        if len(settings) < 2 or first.search:
            continue
        what = f"{'Median' if first.by_median else 'Mean'} {tables.metric_name(first)} {tables.on_split(first)}"
        blocks += [f"{what} of {code(first.spec.task.name)} at each target, over n seeds:", _table(settings)]
    return [Heading(3, "Scores at each target"), *blocks] if blocks else []


def over_targets(comparison: Comparison) -> list[list[Setting]]:
    """Every setting, beside those of its kind that differ from it in nothing but their target; the smallest target first."""

    def kind(setting: Setting) -> tuple[str, bool, str]:
        rest = {name: value for name, value in setting.differs.items() if name not in TARGETS}
        return setting.spec.task.name, setting.search, canonical(rest)

    return [sorted(group, key=_in_order) for group in grouped(comparison.settings, kind).values()]


def _in_order(setting: Setting) -> tuple[object, ...]:
    axis, amount = setting.parameter_target or ("", None)
    return axis, in_order(amount)


def _table(settings: list[Setting]) -> TextTable:
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for column, setting in enumerate(settings):
        for _, table, row in rows_of([setting]):
            cells.setdefault((tables.model_name(table), tables.method_name(row)), {})[column] = _cell(row, setting)
    header = ["base model", "method", *map(tables.target_name, settings)]
    lines = [[*name, *(found.get(column, MISSING) for column in range(len(settings)))] for name, found in cells.items()]
    return TextTable(header, lines, numbers_from=2)


def _cell(row: Row, setting: Setting) -> str:
    if row.score is None:
        return ", ".join(code(status) for status in row.statuses) or MISSING
    if setting.by_median:
        return f"{text.score(row.score.median)} (n {row.score.n})"
    return f"{tables.mean_and_sd(row.score)} (n {row.score.n})"
