"""Columns of a data frame, read off the fields of a record: a new field is a new column."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel

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

    return pandas.DataFrame(
        {name: array([column.of(thing) for thing in things], column.dtype) for name, column in columns.items()}
    )


def _without_none(annotation: Any) -> Any:
    """Return the type of a field without `None` and validators."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        others = [part for part in typing.get_args(annotation) if part is not type(None)]
        annotation = others[0] if len(others) == 1 else annotation
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation
