"""Tables: rows of a source, before a task makes examples of them. This module reads those of the hub.

`datasets` reads the hub and knows the names behind integer labels; `files` reads local files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from lora_bench.errors import Fault, LoraBenchError, unknown

Progress = Callable[[str], None]
Format = Literal["csv", "tsv", "json", "jsonl", "parquet", "webnlg", "dart", "wikisql", "conll", "squad"]

FORMATS: tuple[Format, ...] = get_args(Format)
SEPARATED: tuple[Format, ...] = ("csv", "tsv")

SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".conll": "conll",
}

SHOWN_ROWS = 3


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    Args:
        shown: Source of the rows, for users.
        names: Names of all columns.
        columns: Values of the columns that were asked for and found.
        places: Line or row number of each row, counted from 1.
        place: Which of the two *places* are.
        class_names: Names behind the integers of a column, if the source has them.
        own: True if the user can change the source, as with a local file.
        left_out: Number of rows left out because they had too few or too many values.
        unlabelled: Number of rows left out because they had no label.
    """

    shown: str
    names: tuple[str, ...]
    columns: Mapping[str, Sequence[Any]]
    places: Sequence[int]
    place: Literal["line", "row"] = "line"
    class_names: dict[str, list[str]] = field(default_factory=dict)
    own: bool = True
    left_out: int = 0
    unlabelled: int = 0

    def fault(self, message: str) -> Fault:
        """Return a fault of this table."""
        return Fault(message, file=self.shown)

    def rows_fault(self, message: str, rows: Sequence[int], hint: str = "") -> Fault:
        """Return a fault of some rows, given by index: their number and the first three, and then the hint."""
        shown = ", ".join(str(self.places[row]) for row in rows[:SHOWN_ROWS])
        plural = "s" if len(rows) > 1 else ""
        more = ", …" if len(rows) > SHOWN_ROWS else ""
        return self.fault(f"{message} in {len(rows):,} row{plural} ({self.place}{plural} {shown}{more}){hint}")

    def where(self, rows: Sequence[int]) -> Table:
        """Return the table with only these rows, given by index."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return replace(self, columns=columns, places=[self.places[row] for row in rows])


@dataclass(frozen=True)
class Layout:
    """Settings for reading a file.

    Args:
        format: Format; None to go by the suffix of the name.
        columns: Column names of a csv or tsv file without a header, or of a conll file.
        quoting: True if quotation marks enclose values in csv and tsv.
        wanted: Columns to read; `a.b` is the value b inside column a.
        uneven_rows: Csv and tsv rows with too few or too many values: "refuse" or "leave_out".
        delimiter: Character between values of csv and tsv; None for the format's own.
        encoding: Text encoding of csv and tsv; None for UTF-8.
    """

    format: Format | None = None
    columns: tuple[str, ...] | None = None
    quoting: bool = True
    wanted: frozenset[str] = frozenset()
    uneven_rows: Literal["refuse", "leave_out"] = "refuse"
    delimiter: str | None = None
    encoding: str | None = None


def format_of(name: str) -> Format | None:
    """Return the format of a file name's suffix, if any; `.gz` at its end does not count."""
    path = Path(name)
    return SUFFIXES.get((Path(path.stem) if path.suffix.lower() == ".gz" else path).suffix.lower())


def read_hub(name: str, config: str | None, split: str, commit: str, wanted: Collection[str]) -> Table:
    """Return one split of a hub data set at a commit.

    Raises:
        LoraBenchError: If the hub does not have it, or cannot be reached and the cache does not have it.
    """
    from lora_bench.util.hub import data_set

    builder = data_set(name, config, commit)
    try:
        loaded = builder.as_dataset(split=split)
    except ValueError:
        raise LoraBenchError(f"data set {name!r}: {unknown('split', split, builder.info.splits)}") from None
    return from_datasets(loaded, f"{name}{f' ({config})' if config else ''}, split {split}", wanted, own=False)


def hub_commit(name: str, revision: str) -> str:
    """Return the commit of a revision of a hub data set; a full commit is its own.

    Raises:
        LoraBenchError: If the hub does not have it, or cannot be reached and the cache does not know it.
    """
    if len(revision) == 40 and set(revision) <= set("0123456789abcdef"):
        return revision
    from lora_bench.util.hub import snapshot

    return snapshot("data set", name, revision, ["README.md"]).commit


def inside(value: Any, name: str) -> Any:
    """Return the value of a column; `a.b` is b inside a, or the list of them inside a list."""
    if isinstance(value, Mapping) and name in value:
        return value[name]
    for key in name.split("."):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = [item.get(key) if isinstance(item, Mapping) else None for item in value]
        else:
            return None
    return value


def from_datasets(loaded: Any, shown: str, wanted: Collection[str], own: bool) -> Table:
    """Return the wanted columns of data loaded by `datasets`."""
    import datasets

    columns = {name: list(loaded[name]) for name in loaded.column_names if name in wanted}
    for name in set(wanted) - set(columns):
        outer, _, inner = name.partition(".")
        if inner and outer in loaded.column_names:
            columns[name] = [inside(value, inner) for value in loaded[outer]]
    class_names = {
        name: list(feature.names)
        for name, each in loaded.features.items()
        # A list of labels, one for each word, has the names too.
        if isinstance(feature := getattr(each, "feature", each), datasets.ClassLabel) and feature.names
    }
    return Table(
        shown,
        tuple(dict.fromkeys([*loaded.column_names, *columns])),
        columns,
        range(1, len(loaded) + 1),
        place="row",
        class_names=class_names,
        own=own,
    )
