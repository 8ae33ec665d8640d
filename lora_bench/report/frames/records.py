"""Records as data frames: one row a record, failures included, one flat column a fact, units in the names.

Every number of a record is in its row, or, for its learning curve, in a row of `to_curves`. Values are the records' own and
not rounded; what was not measured is missing. Strings are as the records have them: whoever writes the frame to a file for
a spreadsheet decides what becomes of a cell that starts with "=" (`lora_bench.exchange` does).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lora_bench.records.record import Record

if TYPE_CHECKING:
    import pandas

Role = Literal["tag", "condition", "result"]


class Column(NamedTuple):
    """A column of the frame.

    Args:
        dtype: pandas' type that can hold its values and a missing one; "json" for plain data that is written as JSON text.
        of: How to read it off a record; None where the record lacks it.
        role: Whether it says which record this is and how it ended ("tag"), what was run ("condition") or what came of it
            ("result"): a tracker takes these as tags, parameters and metrics.
    """

    dtype: str
    of: Callable[[Any], Any]
    role: Role = "condition"


def to_frame(records: Sequence[Record]) -> pandas.DataFrame:
    """One row a record, in the order given; a frame of no records has the same columns.

    `score` is the task's metric; every metric of a record is a column `score_<metric>`, and every split of its data the
    columns `examples_<split>` and `truncated_share_<split>`.
    """
    import pandas

    return pandas.DataFrame(
        {name: array([column.of(record) for record in records], column) for name, column in columns_of(records).items()}
    )


def to_curves(records: Sequence[Record]) -> pandas.DataFrame:
    """The learning curves: one row a point, with the record's run id, the step, the training loss and `score_<metric>`."""
    import pandas

    points = [(record.run_id, point) for record in records for point in record.curve]
    metrics = sorted({metric for _, point in points for metric in point.scores or {}})
    columns = {
        "run_id": pandas.array([run_id for run_id, _ in points], dtype="string"),
        "step": pandas.array([point.step for _, point in points], dtype="Int64"),
        "loss": pandas.array([point.loss for _, point in points], dtype="Float64"),
    }
    for metric in metrics:
        values = [(point.scores or {}).get(metric) for _, point in points]
        columns[f"score_{metric}"] = pandas.array(values, dtype="Float64")
    return pandas.DataFrame(columns)


def columns_of(records: Sequence[Record]) -> dict[str, Column]:
    """The columns that a frame of *records* has: `COLUMNS`, and those of their metrics and splits."""
    return {
        **COLUMNS,
        **_keyed(records, "spec.training.caps", "Float64", "caps_{}", "condition"),
        **_keyed(records, "scores", "Float64", "score_{}"),
        **_keyed(records, "data.examples", "Int64", "examples_{}"),
        **_keyed(records, "data.truncated_share", "Float64", "truncated_share_{}"),
    }


def array(values: list[Any], column: Column) -> Any:
    """The values of a column as pandas holds them: `None` is missing, and plain data is JSON text."""
    import pandas

    if column.dtype != "json":
        return pandas.array(values, dtype=column.dtype)
    texts = [None if value is None else json.dumps(value, sort_keys=True, ensure_ascii=False) for value in values]
    return pandas.array(texts, dtype="string")


def at(record: object, path: str) -> Any:
    """The part of a record at a dotted path such as `spec.decoding.beams`; None where it or a part above it is missing."""
    value: Any = record
    for name in path.split("."):
        value = None if value is None else getattr(value, name)
    return value


def _field(path: str, dtype: str, role: Role = "condition") -> Column:
    return Column(dtype, lambda record: at(record, path), role)


def _parts(part: str, dtype: str, *names: str, called: str = "{}", role: Role = "condition") -> dict[str, Column]:
    """Columns for fields of a part of the record that may be missing, such as `memory`."""
    return {called.format(name): _field(f"{part}.{name}", dtype, role) for name in names}


def _keyed(records: Sequence[Record], path: str, dtype: str, called: str, role: Role = "result") -> dict[str, Column]:
    """A column for every key that the mapping at *path* has in any of *records*."""

    def of(key: str) -> Callable[[Record], Any]:
        return lambda record: _mapping(record, path).get(key)

    keys = sorted({key for record in records for key in _mapping(record, path)})
    return {called.format(key): Column(dtype, of(key), role) for key in keys}


def _mapping(record: Record, path: str) -> Mapping[str, Any]:
    return at(record, path) or {}


def _size_value(record: Record) -> int | None:
    method = record.spec.method
    value = method.options.get(method.size) if method.size is not None else None
    return value if isinstance(value, int) else None


def _margin(kind: type) -> Callable[[Record], Any]:
    """The margin of a record's declaration where it is of a kind: one number, or one for each task."""

    def of(record: Record) -> Any:
        margin = at(record, "analysis.margin")
        return margin if isinstance(margin, kind) else None

    return of


_LABELS: dict[str, Column] = {
    **{name: Column("string", attrgetter(name), "tag") for name in ("run_id", "suite")},
    **_parts("spec", "string", "source", "series", role="tag"),
    **{name: Column("string", attrgetter(name), "tag") for name in ("status", "reason", "capped_by")},
}

_CONDITIONS: dict[str, Column] = {
    "task": _field("spec.task.name", "string"),
    "model": _field("spec.model.name", "string"),
    "model_shown": _field("spec.model.shown", "string"),
    "model_type": _field("spec.model.model_type", "string"),
    "label": _field("spec.method.label", "string"),
    "method": _field("spec.method.name", "string"),
    "size": _field("spec.method.size", "string"),
    "size_value": Column("Int64", _size_value),
    "options": _field("spec.method.options", "json"),
    "seed": _field("spec.seed", "Int64"),
    **_parts("spec", "string", "protocol", "score_on"),
    **_parts("spec.task", "string", "metric"),
    **_parts("spec.task", "boolean", "higher_is_better"),
    **_parts("budget", "Int64", "adapter_parameters", "stored_parameters", "trials", called="budget_{}"),
    **_parts("budget", "Int64", "train_examples", "train_tokens", "peak_memory_bytes", called="budget_{}"),
    **_parts("budget", "Float64", "train_flops", "train_seconds", called="budget_{}"),
    **_parts("budget", "Float64", "tolerance", "epochs", called="budget_{}"),
    **_parts("budget", "Int64", "halving", "rungs", called="budget_{}"),
    "rung": Column("Int64", attrgetter("rung")),
    "analysis_reference": _field("analysis.reference", "string"),
    "analysis_margin": Column("Float64", _margin(float)),
    "analysis_margins": Column("json", _margin(dict)),  # by task
    "analysis_alpha": _field("analysis.alpha", "Float64"),
    **_parts("budget.caps", "Int64", "train_examples", "train_tokens", called="budget_caps_{}"),
    **_parts("budget.caps", "Float64", "epochs", "train_flops", "train_seconds", called="budget_caps_{}"),
    **_parts(
        "spec.training",
        "Int64",
        "train_examples",
        "batch_size",
        "steps",
        "max_length",
        "warmup_steps",
        "threads",
        "processes",
    ),
    **_parts("spec.training", "Float64", "learning_rate", "weight_decay", "max_grad_norm", "label_smoothing"),
    **_parts("spec.training", "Float64", "base_dropout", "head_dropout"),
    **_parts("spec.training", "string", "schedule", "precision", "parallelism"),
    **_parts("spec.training", "Int64", "train_tokens"),
    **_parts("spec.training", "Float64", "train_flops", "warmup"),
    "train_seconds_wanted": _field("spec.training.train_seconds", "Float64"),
    **_parts("spec.training", "json", "arguments"),
    **_parts("spec", "Int64", "selection_every"),
    **_parts("spec", "string", "keep_weights"),
    **_parts("spec.rules", "string", "checkpoint", "choose_on", "aggregation", called="rules_{}"),
    **_parts("spec.rules", "boolean", "selection_from_train", called="rules_{}"),
    **_parts("spec.decoding", "Int64", "beams", "no_repeat_ngram", "max_new_tokens", called="decoding_{}"),
    **_parts("spec.decoding", "Float64", "length_penalty", "temperature", "top_p", called="decoding_{}"),
    **_parts("spec.decoding", "boolean", "sample", called="decoding_{}"),
    **_parts("spec.decoding", "json", "end", called="decoding_{}"),
    **_parts("spec.start", "string", "task", "run_id", called="start_{}"),
    **_parts("environment", "string", "device", "cpu", "system", "python"),
    **_parts("environment", "Int64", "device_count", "cores"),
    **_parts("environment", "Int64", "memory_bytes", called="machine_{}"),
    **_parts("environment", "json", "packages"),
    "data_sha256": _field("spec.task.data_sha256", "string"),
    "model_sha256": _field("spec.model.sha256", "string"),
    "model_revision": _field("spec.model.revision", "string"),
    **_parts("spec", "string", "source_sha256"),
    **_parts("spec", "Int64", "spec_version"),
    "task_labels": _field("spec.task.labels", "json"),
    "task_definition": _field("spec.task.definition", "json"),
}

_RESULTS: dict[str, Column] = {
    "score": Column("Float64", attrgetter("score"), "result"),
    **_parts("data", "Float64", "majority_score", role="result"),
    **_parts(
        "parameters",
        "Int64",
        *("total", "adapter", "head", "trained", "stored"),
        called="{}_parameters",
        role="result",
    ),
    **_parts("memory", "string", "kind", called="memory_{}", role="result"),
    **_parts("memory", "boolean", "exclusive", called="memory_{}", role="result"),
    **_parts("memory", "Int64", "start_bytes", "load_bytes", "first_step_bytes", "steady_bytes", role="result"),
    **_parts("memory", "Int64", "evaluation_bytes", "save_bytes", "train_peak_bytes", role="result"),
    **_parts("memory", "Int64", "weight_bytes", "gradient_bytes", "optimizer_bytes", role="result"),
    **_parts("speed", "boolean", "exclusive", called="speed_{}", role="result"),
    "untimed_steps": _field("speed.warmup_steps", "Int64", "result"),
    **_parts("speed", "Int64", "timed_steps", "train_real_tokens", "train_steps", role="result"),
    "train_flops_counted": _field("speed.train_flops", "Int64", "result"),
    "train_examples_seen": _field("speed.train_examples", "Int64", "result"),
    **_parts("speed", "Float64", "step_seconds_median", "step_seconds_p90", "examples_per_second", role="result"),
    **_parts("speed", "Float64", "real_tokens_per_second", "train_seconds", role="result"),
    **_parts("speed", "Float64", "evaluation_seconds", "load_seconds", role="result"),
    **_parts("predictions", "Int64", "count", called="predictions_{}", role="result"),
    **_parts("weights", "Int64", "stored_bytes", "step", called="weights_{}", role="result"),
}

_ENDING: dict[str, Column] = {
    "attempts": Column("Int64", attrgetter("attempts"), "tag"),
    "resumed": Column("boolean", attrgetter("resumed"), "tag"),
    "warnings": Column("string", lambda record: "\n".join(record.warnings), "tag"),
    "command": Column("string", attrgetter("command"), "tag"),
    "started_at": Column("string", attrgetter("started_at"), "tag"),
    "schema": Column("Int64", attrgetter("schema_version"), "tag"),
}

COLUMNS: dict[str, Column] = {**_LABELS, **_CONDITIONS, **_RESULTS, **_ENDING}
