"""Records as CSV, Parquet or JSON: one file with a row a run, and one with the points of the learning curves.

A record may come from an untrusted source, and a spreadsheet runs a cell that starts like a formula. So every text of a CSV
file that could start one gets an apostrophe before it, which spreadsheets hide or show as text. A CSV file may be printed, so
control characters, marks of text direction and commands to a CI runner are removed. Numbers stay numbers. Parquet and JSON have
types, and keep every text except for secrets.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_bench.records.record import Record
from lora_bench.records.store import write_atomic
from lora_bench.report.frames.record_frame import COLUMNS, probe_columns, to_curves, to_frame
from lora_bench.util.redaction import visible, without_secrets, without_secrets_in

if TYPE_CHECKING:
    import pandas

# Signs that spreadsheets take for the start of a formula, full-width ones included, also after blanks that they may drop. With
# another separator than the comma a cell can also begin within a text: after ";", a tab or a line's end.
_FORMULA = re.compile(r"(?:\A|(?<=[;\t\r\n]))(?=[\s\x00-\x1f\u200b\ufeff]{0,20}[=+\-@＝＋－＠])|\A(?=[\t\r])")


def write_tables(records: Sequence[Record], path: Path, to: str) -> str:
    """Write the runs to *path* and their learning curves beside it (`x.csv` and `x.curves.csv`), replacing older files.

    The format *to* is one of `ENCODERS`. Raise OSError if a file cannot be written.
    """
    runs, curves = to_frame(records), to_curves(records)
    beside = path.with_name(f"{path.stem}.curves{path.suffix}")
    write_atomic(path, ENCODERS[to](runs))
    write_atomic(beside, ENCODERS[to](curves))
    return f"{len(runs):,} runs in {path}, {len(curves):,} points of their learning curves in {beside}"


def to_csv(frame: pandas.DataFrame) -> bytes:
    """Return a frame as UTF-8 CSV: harmless texts, numbers with all their digits, an empty cell for a missing value."""
    shown = _changed(_without_secrets(frame), _cell, lambda name: _cell)
    return bytes(shown.to_csv(index=False, lineterminator="\n").encode("utf-8"))


def to_parquet(frame: pandas.DataFrame) -> bytes:
    """Return a frame as Parquet, with its types and every text as in the records, except for secrets."""
    content = io.BytesIO()
    _without_secrets(frame).to_parquet(content, index=False)
    return content.getvalue()


def to_json(frame: pandas.DataFrame) -> bytes:
    """Return a frame as a JSON list with an object a row, each on its line: null for a missing value, nested data as JSON."""
    import pandas

    def value(name: str, cell: Any) -> Any:
        return None if cell is pandas.NA else json.loads(cell) if name in nested else cell

    frame = _without_secrets(frame)
    nested = _nested()
    rows = frame.astype(object).itertuples(index=False)
    objects = ({name: value(name, cell) for name, cell in zip(frame.columns, row, strict=True)} for row in rows)
    lines = (json.dumps(one, ensure_ascii=False, allow_nan=False) for one in objects)
    return ("[" + ",".join(f"\n{line}" for line in lines) + "\n]\n").encode("utf-8")


ENCODERS: dict[str, Callable[[pandas.DataFrame], bytes]] = {"csv": to_csv, "parquet": to_parquet, "json": to_json}


def _nested() -> set[str]:
    return {name for name, column in {**COLUMNS, **probe_columns()}.items() if column.dtype == "json"}


def _without_secrets(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Return a frame without secrets: a record from elsewhere may hold some, though ours do not."""

    def in_json(cell: str) -> str:
        # In the text of JSON a secret may end at a mark of JSON's own.
        data = json.loads(cell)
        redacted = without_secrets_in(data)
        return cell if redacted == data else json.dumps(redacted, sort_keys=True, ensure_ascii=False)

    nested = _nested()
    return _changed(frame, without_secrets, lambda name: in_json if name in nested else without_secrets)


def _changed(
    frame: pandas.DataFrame, rename: Callable[[str], str], change: Callable[[str], Callable[[str], str]]
) -> pandas.DataFrame:
    """Return a frame with its names changed, and the texts of each column by what *change* gives for its name."""
    import pandas

    columns: dict[str, pandas.Series] = {}
    for name in frame.columns:
        column = frame[name]
        if isinstance(column.dtype, pandas.StringDtype):
            column = column.map(change(name), na_action="ignore").astype(column.dtype)
        new = rename(name)
        # Two hostile names may become the same one.
        while new in columns:
            new += "_"
        columns[new] = column
    return pandas.DataFrame(columns)


def _cell(text: str) -> str:
    """Return a text as a cell of a CSV file that controls neither a spreadsheet nor a terminal."""
    return harmless(visible(text, lines=True))


def harmless(text: str) -> str:
    """Return *text* as a cell that no spreadsheet takes for a formula: an apostrophe goes before a possible start."""
    return _FORMULA.sub("'", text)
