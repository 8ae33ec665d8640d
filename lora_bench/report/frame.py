"""Records as a data frame: one row a record, failures included, one flat column a fact, units in the names.

Values are the records' own and not rounded; what was not measured is missing. Strings are as the records have them:
whoever writes the frame to a file for a spreadsheet decides what becomes of a cell that starts with "=".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lora_bench.record import Record

if TYPE_CHECKING:
    import pandas


class Column(NamedTuple):
    """A column: pandas' type that can hold its values and a missing one, and how to read it off a record."""

    dtype: str
    of: Callable[[Record], Any]


def to_frame(records: Sequence[Record]) -> pandas.DataFrame:
    """One row a record, in the order given; a frame of no records has the same columns.

    `score` is the task's metric; every other metric of a record is a column `score_<metric>`.
    """
    import pandas

    columns = {
        name: pandas.array([column.of(record) for record in records], dtype=column.dtype)
        for name, column in COLUMNS.items()
    }
    for metric in sorted({metric for record in records for metric in record.scores or {}}):
        values = [(record.scores or {}).get(metric) for record in records]
        columns[f"score_{metric}"] = pandas.array(values, dtype="Float64")
    return pandas.DataFrame(columns)


def _parts(part: str, dtype: str, *names: str, called: str = "{}") -> dict[str, Column]:
    """Columns for fields of a part of the record that may be missing, such as `memory`."""

    def read(name: str) -> Callable[[Record], Any]:
        def of(record: Record) -> Any:
            whole = getattr(record, part)
            return None if whole is None else getattr(whole, name)

        return of

    return {called.format(name): Column(dtype, read(name)) for name in names}


def _recipe(dtype: str, *names: str) -> dict[str, Column]:
    def read(name: str) -> Callable[[Record], Any]:
        return lambda record: getattr(record.spec.training, name)

    return {name: Column(dtype, read(name)) for name in names}


def _size_value(record: Record) -> int | None:
    method = record.spec.method
    value = method.options.get(method.size) if method.size is not None else None
    return value if isinstance(value, int) else None


COLUMNS: dict[str, Column] = {
    "run_id": Column("string", lambda record: record.run_id),
    "suite": Column("string", lambda record: record.suite),
    "source": Column("string", lambda record: record.spec.source),
    "series": Column("string", lambda record: record.spec.series),
    "status": Column("string", lambda record: record.status),
    "reason": Column("string", lambda record: record.reason),
    "task": Column("string", lambda record: record.spec.task.name),
    "model": Column("string", lambda record: record.spec.model.name),
    "model_shown": Column("string", lambda record: record.spec.model.shown),
    "model_type": Column("string", lambda record: record.spec.model.model_type),
    "label": Column("string", lambda record: record.spec.method.label),
    "method": Column("string", lambda record: record.spec.method.name),
    "size": Column("string", lambda record: record.spec.method.size),
    "size_value": Column("Int64", _size_value),
    "options": Column("string", lambda record: json.dumps(record.spec.method.options, sort_keys=True)),
    "seed": Column("Int64", lambda record: record.spec.seed),
    "protocol": Column("string", lambda record: record.spec.protocol),
    "score_on": Column("string", lambda record: record.spec.score_on),
    "metric": Column("string", lambda record: record.spec.task.metric),
    "higher_is_better": Column("boolean", lambda record: record.spec.task.higher_is_better),
    "score": Column("Float64", lambda record: record.score),
    "majority_score": Column("Float64", lambda record: record.data.majority_score if record.data else None),
    "budget_adapter_parameters": Column(
        "Int64", lambda record: record.budget.adapter_parameters if record.budget else None
    ),
    "budget_tolerance": Column("Float64", lambda record: record.budget.tolerance if record.budget else None),
    **_parts("parameters", "Int64", "total", "adapter", "head", "trained", "stored", called="{}_parameters"),
    **_recipe("Int64", "train_examples", "batch_size", "steps", "max_length", "warmup_steps", "threads"),
    **_recipe("Float64", "learning_rate", "weight_decay", "max_grad_norm"),
    **_recipe("string", "schedule", "precision"),
    **_parts("memory", "string", "kind", called="memory_{}"),
    **_parts("memory", "boolean", "exclusive", called="memory_{}"),
    **_parts("memory", "Int64", "start_bytes", "load_bytes", "first_step_bytes", "steady_bytes", "evaluation_bytes"),
    **_parts("memory", "Int64", "save_bytes"),
    **_parts("memory", "Int64", "train_peak_bytes", "weight_bytes", "gradient_bytes", "optimizer_bytes"),
    **_parts("speed", "boolean", "exclusive", called="speed_{}"),
    **_parts("speed", "Int64", "timed_steps", "train_real_tokens", "train_steps"),
    **_parts("speed", "Float64", "step_seconds_median", "step_seconds_p90", "examples_per_second"),
    **_parts("speed", "Float64", "real_tokens_per_second", "train_seconds", "evaluation_seconds", "load_seconds"),
    "attempts": Column("Int64", lambda record: record.attempts),
    "resumed": Column("boolean", lambda record: record.resumed),
    "warnings": Column("string", lambda record: "\n".join(record.warnings)),
    **_parts("environment", "string", "device", "cpu", "system", "python"),
    **_parts("environment", "Int64", "device_count", "cores", called="{}"),
    "command": Column("string", lambda record: record.command),
    "started_at": Column("string", lambda record: record.started_at),
}
