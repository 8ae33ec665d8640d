"""Probe records as data frames: one row a process, one flat column a fact, units in the names.

The columns are read off the record's own fields, so a new field is a new column. What is known of a cell has the names that it
has in `frame`, for joining the two; what was measured is named by its part, such as `speed_forward_seconds`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from pydantic import BaseModel

from lora_bench.records.probe_record import Latency, ProbeRecord
from lora_bench.report.frames.columns import Column, array, at, fields_of

if TYPE_CHECKING:
    import pandas

_NAMES = {
    "model_name": "model", "method_name": "method", "method_label": "label", "method_size": "size", "schema_version": "schema",
}  # fmt: skip
_LISTS = {"inference.latencies"}  # a frame of their own


def to_probe_frame(records: Sequence[ProbeRecord]) -> pandas.DataFrame:
    """Return one row a process, in the order given, failures included; missing measurements are missing values."""
    import pandas

    columns = {"run_id": Column("string", attrgetter("run_id")), **probe_columns()}
    found = {name: [column.of(record) for record in records] for name, column in columns.items()}
    return pandas.DataFrame({name: array(values, columns[name].dtype) for name, values in found.items()})


def to_latency_frame(records: Sequence[ProbeRecord]) -> pandas.DataFrame:
    """Return the timed forward passes: one row a shape and state of the model, with the run id of its process."""
    import pandas

    of = [
        (record.run_id, latency)
        for record in records
        if record.inference is not None
        for latency in record.inference.latencies
    ]
    columns = {"run_id": pandas.array([run_id for run_id, _ in of], dtype="string")}
    for name, column in _columns(Latency):
        columns[name] = array([column.of(latency) for _, latency in of], column.dtype)
    return pandas.DataFrame(columns)


def probe_columns() -> dict[str, Column]:
    """Return every column of `to_probe_frame` but the run id."""
    return dict(_columns(ProbeRecord))


def _columns(model: type[BaseModel]) -> Iterator[tuple[str, Column]]:
    for path, dtype in fields_of(model, _LISTS):
        name = path.removeprefix("spec.").replace(".", "_")
        yield _NAMES.get(name, name), Column(dtype, partial(at, path=path))
