"""Results of a report as data frames: a row per method, task and base model, per method over tasks, and per class.

Values are not rounded, and differences keep the metric's sign. A value that does not exist is missing: a report without
verdicts has means alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_bench.report.frames.columns import array
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting
from lora_bench.report.model.given_answers import GivenByRow, class_scores, rows_with_answers
from lora_bench.report.model.judged import Judged
from lora_bench.report.model.over_tasks import Across, OverTasks
from lora_bench.report.model.ranking import Rank
from lora_bench.report.model.rows import Row
from lora_bench.report.model.side_costs import Beside
from lora_bench.stats import Interval, Summary, Verdict

if TYPE_CHECKING:
    import pandas


def to_comparison_frame(comparison: Comparison, judged: Judged | None, beside: Beside) -> pandas.DataFrame:
    """Return one row a method with one learning rate on a task and base model, trials left out where there are results."""
    rows: list[dict[str, Any]] = []
    for setting in comparison.results:
        for table in setting.tables:
            for row in table.rows:
                held = judged.of(row) if judged is not None else None
                flips = held.difference.sign_flip if held is not None else None
                rows.append(
                    {
                        **_place(table, setting),
                        "task": setting.spec.task.name,
                        "metric": setting.spec.task.metric,
                        "higher_is_better": setting.spec.task.higher_is_better,
                        "score_on": setting.spec.score_on,
                        **_row(row),
                        **_summary(row.score),
                        **_rank(judged.rank_of(row) if judged is not None else None),
                        "against": held.reference.label if held is not None else None,
                        **_verdict(held.verdict if held is not None else None),
                        "sign_flip_p": flips.p_value if flips is not None else None,
                        "share_above": held.difference.superiority.share if held is not None else None,
                        "difference_at_floor": held.at_floor if held is not None else None,
                        "tuning_seconds": beside.tuning(row, table, setting),
                        "checkpoint_bytes": beside.checkpoint_bytes(row, table, setting),
                    }
                )
    return _frame(rows, {**_PLACE, **_OF_TASK, **_ROW, **_SUMMARY, **_RANK, "against": "string", **_VERDICT, **_BESIDE})


def to_over_tasks_frame(judged: Judged | None) -> pandas.DataFrame:
    """Return one row a method on a base model, over its tasks; no rows unless there are several tasks."""
    rows = [
        {**_place(group.table, next(iter(group.settings.values()))), **_across(one, group), "against": against}
        for group in (judged.over_tasks if judged is not None else ())
        for one in group.methods
        for against in [judged.analysis.reference if one.verdict is not None and judged is not None else None]
    ]
    return _frame(rows, {**_PLACE, **_ACROSS, **_SUMMARY, **_RANK, "against": "string", **_VERDICT, **_MIDDLE})


def to_class_frame(comparison: Comparison, given: GivenByRow) -> pandas.DataFrame:
    """Return one row a class of a method on a task and base model, with means over runs; only where predictions are stored."""
    rows = [
        {
            **_place(table, setting),
            "task": setting.spec.task.name,
            "label": row.label,
            "runs": found.macro_f1.n,
            "class": of_row.classes[place],
            "items": items,
            "precision": found.precision[place].mean,
            "recall": found.recall[place].mean,
            "f1": found.f1[place].mean,
        }
        for setting in comparison.results
        for table in setting.tables
        for row, of_row in rows_with_answers(table, given)
        if of_row.classes
        for found in [class_scores(of_row)]
        for place, items in enumerate(found.items)
    ]
    return _frame(rows, {**_PLACE, **_CLASS})


_CLASS = {
    "task": "string", "label": "string", "runs": "Int64", "class": "string", "items": "Int64", "precision": "Float64",
    "recall": "Float64", "f1": "Float64",
}  # fmt: skip


def _frame(rows: list[dict[str, Any]], dtypes: dict[str, str]) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame({name: array([row[name] for row in rows], dtype) for name, dtype in dtypes.items()})


_PLACE = {
    "model": "string",
    "model_sha256": "string",
    "target": "string",
    "target_parameters": "Int64",
    "distinct_examples": "Int64",
}


def _place(table: ModelTable, setting: Setting) -> dict[str, Any]:
    axis, amount = setting.parameter_target or (None, None)
    return {
        "model": table.model.shown,
        "model_sha256": table.model.sha256,
        "target": axis,
        "target_parameters": amount,
        "distinct_examples": setting.distinct_examples,
    }


_OF_TASK = {"task": "string", "metric": "string", "higher_is_better": "boolean", "score_on": "string"}

_ROW = {"label": "string", "learning_rate": "Float64", "runs": "Int64", "failed": "Int64"}


def _row(row: Row) -> dict[str, Any]:
    return {
        "label": row.label,
        "learning_rate": row.learning_rate,
        "runs": len(row.run_ids),
        "failed": len(row.failures),
    }


_SUMMARY = {"n": "Int64", "mean": "Float64", "median": "Float64", "sd": "Float64", "low": "Float64", "high": "Float64"}


def _summary(score: Summary | None) -> dict[str, Any]:
    if score is None:
        return {**dict.fromkeys(_SUMMARY), "n": 0}
    ends = _ends("", score.interval)
    return {"n": score.n, "mean": score.mean, "median": score.median, "sd": score.sd, **ends}


_RANK = {"rank_best": "Int64", "rank_worst": "Int64", "rank_letters": "string", "ranked": "Int64"}


def _rank(rank: Rank | None) -> dict[str, Any]:
    if rank is None:
        return dict.fromkeys(_RANK)
    return {"rank_best": rank.best, "rank_worst": rank.worst, "rank_letters": rank.letters, "ranked": rank.of}


_INTERVALS = ("difference", "adjusted", "simultaneous")

_VERDICT = {
    **dict.fromkeys(("verdict", "small_but_real", "grade", "interval_source", "needed_by"), "string"),
    "beyond_margin": "boolean",
    **dict.fromkeys(("pairs", "family", "needed_seeds"), "Int64"),
    **dict.fromkeys(
        ("difference", "p_value", "adjusted_p", "equivalence_p", "noninferiority_p", "margin", "alpha"), "Float64"
    ),
    **{f"{name}_{end}": "Float64" for name in _INTERVALS for end in ("low", "high")},
    "why_no_error": "string",
}


def _verdict(verdict: Verdict | None) -> dict[str, Any]:
    if verdict is None:
        return dict.fromkeys(_VERDICT)
    needed, interval = verdict.needed, verdict.interval
    given = {name: getattr(verdict, name) for name in _VERDICT if hasattr(verdict, name)}
    return {
        **given,
        "interval_source": interval.source if interval is not None else None,
        "needed_by": needed.by if needed is not None else None,
        "needed_seeds": needed.seeds if needed is not None else None,
        **_ends("difference_", interval),
        **_ends("adjusted_", verdict.adjusted),
        **_ends("simultaneous_", verdict.simultaneous),
        "why_no_error": verdict.reason,
    }


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return {f"{name}low": low, f"{name}high": high}


_BESIDE = dict.fromkeys(
    ("sign_flip_p", "share_above", "difference_at_floor", "tuning_seconds", "checkpoint_bytes"), "Float64"
)

_ACROSS = {"label": "string", **dict.fromkeys(("tasks", "better", "worse", "neither", "runs", "failed"), "Int64")}

_MIDDLE = dict.fromkeys(("interquartile_mean", "interquartile_mean_low", "interquartile_mean_high"), "Float64")


def _across(one: Across, group: OverTasks) -> dict[str, Any]:
    better, worse = one.shown.get("better", 0), one.shown.get("worse", 0)
    middle = one.difference.interquartile_mean if one.difference is not None else None
    return {
        "label": one.label,
        "tasks": len(one.difference.tasks) if one.difference is not None else len(group.settings),
        "better": better,
        "worse": worse,
        "neither": sum(one.shown.values()) - better - worse,
        "runs": one.runs,
        "failed": one.failed,
        **_summary(one.mean),
        **_rank(one.rank),
        **_verdict(one.verdict),
        "interquartile_mean": middle.value if middle is not None else None,
        **_ends("interquartile_mean_", middle.interval if middle is not None else None),
    }
