"""Records and probes as data frames: one row a record, failures included, one flat column a fact, units in the names.

The columns are read off the record's own fields, so a new field is a new column. The learning curve has a frame of its own,
`to_curves`. Values are the records' own and not rounded; what was not measured is missing. Strings are as the records have
them: `lora_bench.exchange` makes cells that start with "=" harmless where it writes for a spreadsheet.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel

from lora_bench.records.probe_record import Latency, ProbeRecord
from lora_bench.records.record import Record

if TYPE_CHECKING:
    import pandas

Role = Literal["tag", "condition", "result"]

_DTYPES: dict[Any, str] = {bool: "boolean", int: "Int64", float: "Float64", str: "string"}


class Column(NamedTuple):
    """A column of a frame.

    Args:
        dtype: pandas' type that can hold its values and a missing one; "json" for plain data that is written as JSON text.
        of: How to read it off a record; None where the record lacks it.
        role: Whether it says which record this is and how it ended ("tag"), what was run ("condition") or what came of it
            ("result"): a tracker takes these as tags, parameters and metrics.
    """

    dtype: str
    of: Callable[[Any], Any]
    role: Role = "condition"


def fields_of(model: type[BaseModel], leave_out: Collection[str] = (), above: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted path and the column type of each field of a model and of its parts, below the path *above*."""
    for name, field in model.model_fields.items():
        path = f"{above}{name}"
        if path in leave_out:
            continue
        kind = _without_none(field.annotation)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields_of(kind, leave_out, f"{path}.")
        else:
            yield path, "string" if typing.get_origin(kind) is Literal else _DTYPES.get(kind, "json")


def at(record: object, path: str) -> Any:
    """The part of a record at a dotted path such as `spec.decoding.beams`; None where it or a part above it is missing."""
    value: Any = record
    for name in path.split("."):
        value = None if value is None else getattr(value, name)
    return value


def array(values: list[Any], dtype: str) -> pandas.api.extensions.ExtensionArray:
    """Return the values of a column of a dtype of `Column`, as pandas holds them.

    `None` is missing, plain data is JSON text, and whole numbers are floats if 64 bits do not hold them all.
    """
    import pandas

    if dtype == "Int64" and any(value is not None and not -(2**63) <= value < 2**63 for value in values):
        # FLOPs of a long run are such numbers.
        return pandas.array([None if value is None else float(value) for value in values], dtype="Float64")
    if dtype != "json":
        return pandas.array(values, dtype=dtype)
    texts = [None if value is None else json.dumps(value, sort_keys=True, ensure_ascii=False) for value in values]
    return pandas.array(texts, dtype="string")


def frame(things: Sequence[object], columns: Mapping[str, Column]) -> pandas.DataFrame:
    """Return a frame with a row for each thing."""
    import pandas

    arrays = {name: array([column.of(thing) for thing in things], column.dtype) for name, column in columns.items()}
    return pandas.DataFrame(arrays)


def _without_none(annotation: Any) -> Any:
    """Return the type of a field without `None` and validators."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        others = [part for part in typing.get_args(annotation) if part is not type(None)]
        annotation = others[0] if len(others) == 1 else annotation
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation


# Fields that are no column, or have one of another form below.
_LEFT_OUT = {
    "analysis.margin", "curve", "data.examples", "data.truncated_share", "packed_with", "predictions.file",
    "predictions.ids_sha256", "predictions.sha256", "scores", "spec.method.chosen", "spec.training.caps", "warnings",
    "weights.folder",
}  # fmt: skip

# How the columns of a part are named; those of other parts have the names of their fields.
_NAMES_IN = {
    "analysis": "analysis_{}", "budget": "budget_{}", "budget.caps": "budget_caps_{}", "parameters": "{}_parameters",
    "predictions": "predictions_{}", "spec.decoding": "decoding_{}", "spec.rules": "rules_{}", "spec.start": "start_{}",
    "retention": "retention_{}", "spec.retention": "retention_{}", "weights": "weights_{}",
    "budget.plateau": "budget_plateau_{}", "plateau": "plateau_{}", "spec.training.plateau": "plateau_{}",
    "went_on": "went_on_{}",
}  # fmt: skip
_NAMES = {
    "environment.memory_bytes": "machine_memory_bytes",
    "memory.exclusive": "memory_exclusive",
    "memory.kind": "memory_kind",
    "schema_version": "schema",
    "spec.method.name": "method",
    "spec.model.family": "model_family",  # a frame of verdicts has the number of comparisons as `family`
    "spec.model.name": "model",
    "spec.model.revision": "model_revision",
    "spec.model.sha256": "model_sha256",
    "spec.model.shown": "model_shown",
    "spec.task.definition": "task_definition",
    "spec.task.labels": "task_labels",
    "spec.task.name": "task",
    "spec.training.train_seconds": "train_seconds_wanted",
    "speed.exclusive": "speed_exclusive",
    "speed.train_examples": "train_examples_seen",
    "speed.train_flops": "train_flops_counted",
    "speed.warmup_steps": "untimed_steps",
}

_FIRST = ("run_id", "suite", "spec.source", "spec.series", "status", "reason", "capped_by")
_LAST = ("attempts", "resumed", "command", "started_at", "schema_version")
_RESULTS = {"data", "memory", "parameters", "plateau", "predictions", "retention", "speed", "weights", "went_on"}


def to_frame(records: Sequence[Record]) -> pandas.DataFrame:
    """Return one row a record, in the order given; a frame of no records has the same columns.

    `score` is the task's metric; every metric of a record is a column `score_<metric>`, and every split of its data the
    columns `examples_<split>` and `truncated_share_<split>`.
    """
    return frame(records, columns_of(records))


def to_curves(records: Sequence[Record]) -> pandas.DataFrame:
    """The learning curves: one row a point, with the record's run id, the step, the training loss and `score_<metric>`."""
    points = [(record.run_id, point) for record in records for point in record.curve]
    metrics = sorted({metric for _, point in points for metric in point.scores or {}})
    lines = [SimpleNamespace(run_id=run_id, **dict(point)) for run_id, point in points]
    types = {"run_id": "string", "step": "Int64", "loss": "Float64"}
    columns = {name: Column(dtype, attrgetter(name)) for name, dtype in types.items()}
    of_metrics = {f"score_{name}": Column("Float64", partial(_keyed, path="scores", key=name)) for name in metrics}
    return frame(lines, columns | of_metrics)


def columns_of(records: Sequence[Record]) -> dict[str, Column]:
    """Return the columns that a frame of *records* has: `COLUMNS`, and those of their metrics and splits."""
    mappings: list[tuple[str, str, str, Role]] = [
        ("spec.training.caps", "Float64", "caps_{}", "condition"),
        ("scores", "Float64", "score_{}", "result"),
        ("data.examples", "Int64", "examples_{}", "result"),
        ("data.truncated_share", "Float64", "truncated_share_{}", "result"),
    ]
    columns = {**COLUMNS}
    for path, dtype, called, role in mappings:
        for key in sorted({key for record in records for key in at(record, path) or ()}):
            columns[called.format(key)] = Column(dtype, partial(_keyed, path=path, key=key), role)
    return columns


def _keyed(record: object, path: str, key: str) -> Any:
    return (at(record, path) or {}).get(key)


def _margin(record: Record, kind: type) -> Any:
    """Return the margin of a record's declaration where it is of a kind: one number, or one for each task."""
    margin = at(record, "analysis.margin")
    return margin if isinstance(margin, kind) else None


def _role(path: str) -> Role:
    if path in (*_FIRST, *_LAST):
        return "tag"
    return "result" if path.partition(".")[0] in _RESULTS else "condition"


def _name(path: str) -> str:
    part, _, field = path.rpartition(".")
    return _NAMES.get(path) or _NAMES_IN.get(part, "{}").format(field)


def _columns() -> dict[str, Column]:
    """Return the columns of every record: identity, spec, result and provenance."""
    types = dict(fields_of(Record, _LEFT_OUT))

    def size_value(record: Record) -> int | None:
        value = record.spec.method.options.get(record.spec.method.size or "")
        return value if isinstance(value, int) else None

    def named(paths: Sequence[str]) -> dict[str, Column]:
        return {_name(path): Column(types[path], partial(at, path=path), _role(path)) for path in paths}

    return {
        **named(_FIRST),
        **named([path for path in types if _role(path) == "condition"]),
        "size_value": Column("Int64", size_value),
        "analysis_margin": Column("Float64", partial(_margin, kind=float)),
        "analysis_margins": Column("json", partial(_margin, kind=dict)),  # by task
        "score": Column("Float64", attrgetter("score"), "result"),
        **named([path for path in types if _role(path) == "result"]),
        "train_peak_bytes": Column("Int64", partial(at, path="memory.train_peak_bytes"), "result"),
        **named(_LAST),
        "warnings": Column("string", lambda record: "\n".join(record.warnings), "tag"),
    }


COLUMNS = _columns()


# Of probes, what is known of a cell has the names that it has in `to_frame`, for joining the two.
_PROBE_NAMES = {
    "model_name": "model", "method_name": "method", "method_label": "label", "method_size": "size", "schema_version": "schema",
}  # fmt: skip
_RUN_ID = {"run_id": Column("string", attrgetter("run_id"))}


def to_probe_frame(records: Sequence[ProbeRecord]) -> pandas.DataFrame:
    """Return one row a process, in the order given, failures included; missing measurements are missing values."""
    return frame(records, {**_RUN_ID, **probe_columns()})


def to_latency_frame(records: Sequence[ProbeRecord]) -> pandas.DataFrame:
    """Return the timed forward passes: one row a shape and state of the model, with the run id of its process."""
    passes = [
        SimpleNamespace(run_id=record.run_id, **dict(latency))
        for record in records
        if record.inference is not None
        for latency in record.inference.latencies
    ]
    return frame(passes, {**_RUN_ID, **probe_columns(Latency)})


def probe_columns(model: type[BaseModel] = ProbeRecord) -> dict[str, Column]:
    """Return every column of `to_probe_frame`, or of the frame of a part of its records, but the run id."""
    fields = fields_of(model, leave_out={"inference.latencies"})  # a frame of their own
    named = {
        path.removeprefix("spec.").replace(".", "_"): Column(dtype, partial(at, path=path)) for path, dtype in fields
    }
    return {_PROBE_NAMES.get(name, name): column for name, column in named.items()}
