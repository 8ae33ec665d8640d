"""Results of a report as data frames: a row per method, task and base model, per method over tasks, and per class.

Values are not rounded, and differences keep the metric's sign. A value that does not exist is missing: a report without
verdicts has means alone.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

from lora_bench.report.frames.record_frame import Column, at, frame
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting, rows_of
from lora_bench.report.model.given_answers import GivenByRow, class_scores, rows_with_answers
from lora_bench.report.model.judged import Judged
from lora_bench.report.model.rows import Row
from lora_bench.report.model.searches import Beside

if TYPE_CHECKING:
    import pandas


def to_comparison_frame(comparison: Comparison, judged: Judged | None, beside: Beside) -> "pandas.DataFrame":
    """Return one row a method with one learning rate on a task and base model, trials left out where there are results."""
    lines = [
        SimpleNamespace(
            **place._asdict(), held=judged and judged.of(place.row), rank=judged and judged.rank_of(place.row)
        )
        for place in rows_of(comparison.results)
    ]

    def beside_row(cost: Callable[[Row, ModelTable, Setting], float | None]) -> Column:
        return Column("Float64", lambda line: cost(line.row, line.table, line.setting))

    columns = {
        **_PLACE,
        **_read("string", task="setting.spec.task.name", metric="setting.spec.task.metric"),
        **_read("boolean", higher_is_better="setting.spec.task.higher_is_better"),
        **_read("string", score_on="setting.spec.score_on", label="row.label"),
        **_read("Float64", learning_rate="row.learning_rate"),
        "runs": Column("Int64", lambda line: len(line.row.run_ids)),
        "failed": Column("Int64", lambda line: len(line.row.failures)),
        **_summary("row.score"),
        **_rank("rank"),
        **_read("string", against="held.reference.label"),
        **_verdict("held.verdict"),
        **_read("Float64", sign_flip_p="held.difference.sign_flip.p_value"),
        **_read("Float64", difference_at_floor="held.at_floor"),
        "tuning_seconds": beside_row(beside.tuning),
        "checkpoint_bytes": beside_row(beside.checkpoint_bytes),
    }
    return frame(lines, columns)


def to_over_tasks_frame(judged: Judged | None) -> "pandas.DataFrame":
    """Return one row a method on a base model, over its tasks; no rows unless there are several tasks."""
    lines = [
        SimpleNamespace(
            setting=next(iter(group.settings.values())),
            table=group.table,
            method=one,
            tasks=len(one.difference.tasks if one.difference is not None else group.settings),
            neither=sum(number for verdict, number in one.shown.items() if verdict not in ("better", "worse")),
            against=judged.analysis.reference if judged is not None and one.verdict is not None else None,
        )
        for group in (judged.over_tasks if judged is not None else ())
        for one in group.methods
    ]
    columns = {
        **_PLACE,
        **_read("string", label="method.label"),
        **_read("Int64", tasks="tasks"),
        "better": Column("Int64", lambda line: line.method.shown.get("better", 0)),
        "worse": Column("Int64", lambda line: line.method.shown.get("worse", 0)),
        **_read("Int64", neither="neither", runs="method.runs", failed="method.failed"),
        **_summary("method.mean"),
        **_rank("method.rank"),
        **_read("string", against="against"),
        **_verdict("method.verdict"),
    }
    return frame(lines, columns)


def to_class_frame(comparison: Comparison, given: GivenByRow) -> "pandas.DataFrame":
    """Return one row a class of a method on a task and base model, with means over runs; only where predictions are stored."""
    lines = [
        SimpleNamespace(setting=setting, table=table, row=row, answers=answers, scores=scores, place=place)
        for setting in comparison.results
        for table in setting.tables
        for row, answers in rows_with_answers(table, given)
        if answers.classes
        for scores in [class_scores(answers)]
        for place in range(len(scores.items))
    ]
    columns = {
        **_PLACE,
        **_read("string", task="setting.spec.task.name", label="row.label"),
        **_read("Int64", runs="scores.macro_f1.n"),
        "class": Column("string", lambda line: line.answers.classes[line.place]),
        "items": Column("Int64", lambda line: line.scores.items[line.place]),
        "precision": Column("Float64", lambda line: line.scores.precision[line.place].mean),
        "recall": Column("Float64", lambda line: line.scores.recall[line.place].mean),
        "f1": Column("Float64", lambda line: line.scores.f1[line.place].mean),
    }
    return frame(lines, columns)


def _read(dtype: str, **paths: str) -> dict[str, Column]:
    """Return columns of one type, each with the dotted path of its values in a line."""
    return {name: Column(dtype, partial(at, path=path)) for name, path in paths.items()}


_PLACE = {
    **_read("string", model="table.model.shown", model_sha256="table.model.sha256"),
    "target": Column("string", lambda line: (line.setting.parameter_target or (None, None))[0]),
    "target_parameters": Column("Int64", lambda line: (line.setting.parameter_target or (None, None))[1]),
    **_read("Int64", distinct_examples="setting.distinct_examples"),
}


def _ends(name: str, of: str) -> dict[str, Column]:
    return _read("Float64", **{f"{name}low": f"{of}.low", f"{name}high": f"{of}.high"})


def _summary(of: str) -> dict[str, Column]:
    numbers = _read("Float64", mean=f"{of}.mean", median=f"{of}.median", sd=f"{of}.sd")
    return {"n": Column("Int64", lambda line: at(line, f"{of}.n") or 0), **numbers, **_ends("", f"{of}.interval")}


def _rank(of: str) -> dict[str, Column]:
    return {
        **_read("Int64", rank_best=f"{of}.best", rank_worst=f"{of}.worst"),
        **_read("string", rank_letters=f"{of}.letters"),
        **_read("Int64", ranked=f"{of}.of"),
    }


def _verdict(of: str) -> dict[str, Column]:
    p_values = ("p_value", "adjusted_p", "equivalence_p", "noninferiority_p")
    numbers = ("difference", *p_values, "margin", "alpha", "choice_sd")
    return {
        **_read("string", **{name: f"{of}.{name}" for name in ("verdict", "small_but_real", "grade")}),
        **_read("string", interval_source=f"{of}.interval.source", needed_by=f"{of}.needed.by"),
        **_read("boolean", beyond_margin=f"{of}.beyond_margin"),
        **_read("Int64", pairs=f"{of}.pairs", family=f"{of}.family", needed_seeds=f"{of}.needed.seeds"),
        **_read("Float64", **{name: f"{of}.{name}" for name in numbers}),
        **_ends("difference_", f"{of}.interval"),
        **_ends("adjusted_", f"{of}.adjusted"),
        **_ends("simultaneous_", f"{of}.simultaneous"),
        **_read("string", why_no_error=f"{of}.reason"),
    }
