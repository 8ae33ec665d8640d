"""Probe records as data frames: one row a process, one flat column a fact, units in the names.

The columns are read off the record's own fields, so a new field is a new column. What is known of a cell has the names that it
has in `frame`, for joining the two; what was measured is named by its part, such as `speed_forward_seconds`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from operator import attrgetter
from types import SimpleNamespace
from typing import TYPE_CHECKING

from pydantic import BaseModel

from lora_bench.records.probe_record import Latency, ProbeRecord
from lora_bench.report.frames.columns import Column, at, fields_of, frame

if TYPE_CHECKING:
    import pandas

_NAMES = {
    "model_name": "model", "method_name": "method", "method_label": "label", "method_size": "size", "schema_version": "schema",
}  # fmt: skip
_LISTS = {"inference.latencies"}  # a frame of their own


def to_probe_frame(records: Sequence[ProbeRecord]) -> pandas.DataFrame:
    """Return one row a process, in the order given, failures included; missing measurements are missing values."""
    return frame(records, {"run_id": Column("string", attrgetter("run_id")), **probe_columns()})


def to_latency_frame(records: Sequence[ProbeRecord]) -> pandas.DataFrame:
    """Return the timed forward passes: one row a shape and state of the model, with the run id of its process."""
    passes = [
        SimpleNamespace(run_id=record.run_id, **dict(latency))
        for record in records
        if record.inference is not None
        for latency in record.inference.latencies
    ]
    return frame(passes, {"run_id": Column("string", attrgetter("run_id")), **dict(_columns(Latency))})


def probe_columns() -> dict[str, Column]:
    """Return every column of `to_probe_frame` but the run id."""
    return dict(_columns(ProbeRecord))


def _columns(model: type[BaseModel]) -> Iterator[tuple[str, Column]]:
    for path, dtype in fields_of(model, _LISTS):
        name = path.removeprefix("spec.").replace(".", "_")
        yield _NAMES.get(name, name), Column(dtype, partial(at, path=path))
