"""Tables of rows, before a task makes examples of them. Those of the hub are read here, by `datasets`; files in `files`."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lora_bench.errors import LoraBenchError, unknown
from lora_bench.kinds.support.row_values import Table

Progress = Callable[[str], None]
Format = Literal["csv", "tsv", "json", "jsonl", "parquet", "webnlg", "dart", "wikisql", "conll", "squad", "orange"]

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


@dataclass(frozen=True)
class Layout:
    """Settings for reading a file.

    Args:
        columns: Column names of a csv or tsv file without a header, or of a conll file.
        quoting: True if quotation marks enclose values in csv and tsv.
        wanted: Columns to read; `a.b` is the value b inside column a.
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
    """Return one split of a hub data set at a commit. Raise LoraBenchError if it cannot be had."""
    from lora_bench.util.hub import data_set

    builder = data_set(name, config, commit)
    try:
        loaded = builder.as_dataset(split=split)
    except ValueError:
        raise LoraBenchError(f"data set {name!r}: {unknown('split', split, builder.info.splits)}") from None
    return from_datasets(loaded, f"{name}{f' ({config})' if config else ''}, split {split}", wanted, own=False)


def hub_commit(name: str, revision: str) -> str:
    """Return the commit of a hub data set's revision, a full one as it is. Raise LoraBenchError if it cannot be had."""
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
