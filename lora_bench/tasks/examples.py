"""The examples of a task, made of the rows of its tables.

`load_data` makes examples in three splits (`train` to learn from, `selection` to choose by, `test` to report) and
lists everything that is wrong with the data at once. Where the data has fewer splits, rows are dealt out by a hash of
their text, or of a column such as the document they come from: the same row is always dealt to the same split,
whatever the order of the file, and rows that belong together stay together.

Labels are compared as text, so that 1, "1" and a column of integers mean the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_bench.assets import find_asset, members
from lora_bench.errors import BadInput, Fault, did_you_mean
from lora_bench.spec import content_hash
from lora_bench.tasks.declaration import Task
from lora_bench.tasks.tables import Layout, Table, format_of, hub_commit, read_bytes, read_file, read_hub

Progress = Callable[[str], None]

SPLITS = ("train", "selection", "test")
SHOWN_VALUES = 3
# More classes than this, and more than half as many as rows: the column is no label.
MAX_CLASSES_WITHOUT_DOUBT = 50


@dataclass(frozen=True)
class Split:
    """The examples of one split, each at the same place of every list.

    Args:
        ids: By which runs are paired; unique within the split.
        texts: One text, or two for a pair.
        labels: Class indexes, or numbers for regression.
    """

    ids: list[str]
    texts: list[tuple[str, ...]]
    labels: list[int] | list[float]


@dataclass(frozen=True)
class TaskData:
    """The examples of a task.

    Args:
        splits: By name: train, selection, test.
        labels: Class names in the order of their indexes; empty for regression.
        sha256: Hash of the content they were made of.
        warnings: What a reader of the scores should know.
    """

    splits: dict[str, Split]
    labels: tuple[str, ...]
    sha256: str
    warnings: tuple[str, ...]


def load_data(task: Task, base: Path, progress: Progress | None = None) -> TaskData:
    """The examples of a task.

    Args:
        task: The declaration.
        base: The folder that its paths are seen from.
        progress: Called with a sentence whenever there is something to tell.

    Raises:
        BadInput: With everything that is wrong with the data.
        AssetUnavailable: If the data is an asset that is neither cached nor to be had.
        LoraBenchError: If the hub does not have the data or cannot be reached.
    """
    tables, sha256 = _tables(task, base, progress)
    faults: list[Fault] = []
    parts = {part: _examples(task, table, faults) for part, table in tables.items()}
    if faults:
        raise BadInput(faults)
    labels = () if task.kind == "regression" else _labels(task, parts, tables, faults)
    if task.kind == "classification":
        for part, examples in parts.items():
            faults += _unknown_labels(task, tables[part], examples, labels)
    if faults:
        raise BadInput(faults)
    dealt = _dealt(task, parts)
    faults += _empty_splits(dealt, tables, parts)
    if faults:
        raise BadInput(faults)
    splits = {name: _split(examples, labels) for name, examples in dealt.items()}
    return TaskData(splits, labels, sha256, tuple(_warnings(task, splits, labels, tables)))


@dataclass(frozen=True)
class _Examples:
    """The rows of a table that make an example: index, id, text, label as written, and what they are dealt by."""

    rows: list[int]
    ids: list[str]
    texts: list[tuple[str, ...]]
    labels: list[Any]
    groups: list[str]

    def where(self, keep: Sequence[bool]) -> _Examples:
        lists = (self.rows, self.ids, self.texts, self.labels, self.groups)
        rows, ids, texts, labels, groups = (
            [item for item, kept in zip(items, keep, strict=True) if kept] for items in lists
        )
        return _Examples(rows, ids, texts, labels, groups)


def _tables(task: Task, base: Path, progress: Progress | None) -> tuple[dict[str, Table], str]:
    """The tables by the split they hold ("all" for one that is to be split), and the hash of their content."""
    data = task.data
    layout = Layout(task.format, task.columns, task.quoting, task.wanted)
    if data.asset is not None and data.file is not None:
        asset = find_asset(data.asset)
        raw = members(asset.name, [data.file], progress)[data.file]
        layout = replace(layout, format=task.format or format_of(data.file))
        table = read_bytes(raw, f"{asset.name}: {data.file.rpartition('/')[2]}", layout, own=False)
        return {"all": table}, content_hash({"asset": asset.sha256, "file": data.file})
    if data.hub is not None and data.splits is not None and data.revision is not None:
        if progress is not None:
            progress(f"looking for {data.hub} on the Hugging Face hub")
        commit = hub_commit(data.hub, data.revision)
        names = {split: name for split, name in data.splits.model_dump().items() if name is not None}
        tables = {
            split: read_hub(data.hub, data.name, name, commit, task.wanted) for split, name in names.items()
        }  # fmt: skip
        return tables, content_hash({"hub": data.hub, "name": data.name, "commit": commit, "splits": names})
    tables, hashes, faults = {}, {}, []
    for part, file in data.files.items():
        try:
            tables[part], hashes[part] = read_file(base / Path(file).expanduser(), layout)
        except BadInput as error:
            faults += error.faults
    if faults:
        raise BadInput(faults)
    return tables, content_hash(hashes)


def _examples(task: Task, table: Table, faults: list[Fault]) -> _Examples:
    """The examples of a table; notes every fault of its columns and rows."""
    missing = sorted(task.wanted - set(table.names))
    for name in missing:
        known = ", ".join(table.names)
        faults.append(table.fault(f"has no column {name!r}{did_you_mean(name, table.names)} (columns: {known})"))
    if missing:
        return _Examples([], [], [], [], [])
    count = len(table.places)
    for name in task.text:
        faults += _faults_of_text(table, name)
    texts = list(zip(*(map(str, table.columns[name]) for name in task.text), strict=True))
    ids = _ids(task, table, faults)
    by = task.shares.by if task.shares is not None else None
    groups = [_normal(text) for text in texts] if by is None else _group_values(table, by, faults)
    values = [
        _label_text(value, table.class_names.get(task.label.column)) for value in table.columns[task.label.column]
    ]
    unlabelled = [row for row, value in enumerate(values) if value is None]
    if unlabelled:
        faults.append(table.rows_fault(f"has no label in column {task.label.column!r}", unlabelled))
    examples = _Examples(list(range(count)), ids, texts, values, groups)
    if task.kind == "classification" and task.label.rule is None:
        return examples
    numbers = [_number(value) for value in values]
    wrong = [row for row, number in enumerate(numbers) if number is None and values[row] is not None]
    if wrong:
        shown = ", ".join(repr(values[row]) for row in wrong[:SHOWN_VALUES])
        faults.append(
            table.rows_fault(f"has labels in column {task.label.column!r} that are no number ({shown})", wrong)
        )
        return examples
    if task.label.rule is None:
        return replace(examples, labels=numbers)
    negative, positive = task.labels or ("negative", "positive")
    signs = replace(examples, labels=[positive if (number or 0) > 0 else negative for number in numbers])
    return signs.where([number != 0 for number in numbers])


def _faults_of_text(table: Table, name: str) -> Iterator[Fault]:
    column = table.columns[name]
    wrong = [row for row, value in enumerate(column) if value is not None and not isinstance(value, str)]
    if wrong:
        kind = type(column[wrong[0]]).__name__
        yield table.rows_fault(f"has values in column {name!r} that are no text but {kind}", wrong)
    # Rows of a published data set without a text are part of it, and a user could not mend them.
    without = [row for row, value in enumerate(column) if value is None or (table.own and not str(value).strip())]
    if without:
        yield table.rows_fault(f"has no text in column {name!r}", without)


def _ids(task: Task, table: Table, faults: list[Fault]) -> list[str]:
    if task.id is None:
        return [str(number) for number in range(1, len(table.places) + 1)]
    values = table.columns[task.id]
    without = [row for row, value in enumerate(values) if value is None or value == ""]
    if without:
        faults.append(table.rows_fault(f"has no id in column {task.id!r}", without))
    ids = [str(value) for value in values]
    first: dict[str, int] = {}
    repeated = [row for row, value in enumerate(ids) if first.setdefault(value, row) != row]
    if repeated and not without:
        shown = ", ".join(repr(ids[row]) for row in repeated[:SHOWN_VALUES])
        faults.append(table.rows_fault(f"repeats an id of column {task.id!r} ({shown})", repeated))
    return ids


def _group_values(table: Table, by: str, faults: list[Fault]) -> list[str]:
    values = table.columns[by]
    without = [row for row, value in enumerate(values) if value is None or value == ""]
    if without:
        faults.append(table.rows_fault(f"has no value in column {by!r}, by which rows are split", without))
    return [str(value) for value in values]


def _label_text(value: Any, class_names: list[str] | None) -> str | None:
    """A label as text, or None where there is none."""
    if value is None:
        return None
    if class_names is not None and isinstance(value, int):
        # The hub marks rows whose label is kept secret by -1.
        return class_names[value] if 0 <= value < len(class_names) else None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of integers that has a gap somewhere is read as one of floats
    return str(value).strip() or None


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _labels(
    task: Task, parts: Mapping[str, _Examples], tables: Mapping[str, Table], faults: list[Fault]
) -> tuple[str, ...]:
    """The class names in the order of their indexes."""
    if task.labels is not None:
        return task.labels
    if task.label.rule == "sign":
        return ("negative", "positive")
    part = "all" if "all" in parts else "train"
    table, column = tables[part], task.label.column
    if column in table.class_names:
        return tuple(table.class_names[column])
    found = set(parts[part].labels)
    labels = tuple(sorted(found, key=_as_sorted))
    if len(labels) < 2:
        faults.append(
            table.fault(f"has {len(labels)} class in column {column!r} {list(labels)}; at least 2 are needed")
        )
    if len(labels) > MAX_CLASSES_WITHOUT_DOUBT and len(labels) > len(parts[part].labels) / 2:
        faults.append(
            table.fault(
                f"has {len(labels):,} different values in column {column!r} in {len(parts[part].labels):,} rows; "
                "name the column of the label, or say `kind: regression` for numbers"
            )
        )
    return labels


def _as_sorted(label: str) -> tuple[bool, float, str]:
    """Numbers in their order before words in theirs."""
    number = _number(label)
    return number is None, number or 0.0, label


def _unknown_labels(task: Task, table: Table, examples: _Examples, labels: tuple[str, ...]) -> Iterator[Fault]:
    rows = [index for index, label in enumerate(examples.labels) if label not in labels]
    if rows:
        values = list(dict.fromkeys(examples.labels[index] for index in rows))
        shown = ", ".join(map(repr, values[:SHOWN_VALUES])) + (", …" if len(values) > SHOWN_VALUES else "")
        hint = did_you_mean(str(values[0]), labels)
        yield table.rows_fault(
            f"has labels in column {task.label.column!r} that are not among {', '.join(labels)}: {shown}{hint}",
            [examples.rows[index] for index in rows],
        )


def _dealt(task: Task, parts: Mapping[str, _Examples]) -> dict[str, _Examples]:
    """The examples in three splits."""
    shares = task.shares
    if shares is None:
        return {split: parts[split] for split in SPLITS}
    if "all" in parts:
        examples = parts["all"]
        drawn = [_draw(group) for group in examples.groups]
        low, high = shares.test, shares.test + shares.selection
        return {
            "train": examples.where([draw >= high for draw in drawn]),
            "selection": examples.where([low <= draw < high for draw in drawn]),
            "test": examples.where([draw < low for draw in drawn]),
        }
    examples = parts["train"]
    chosen = [_draw(group) < shares.selection for group in examples.groups]
    return {
        "train": examples.where([not taken for taken in chosen]),
        "selection": examples.where(chosen),
        "test": parts["test"],
    }


def _draw(group: str) -> float:
    """A number in [0, 1) that depends on nothing but the text: 52 bits of its sha256."""
    return int(hashlib.sha256(group.encode("utf-8", "surrogatepass")).hexdigest()[:13], 16) / 16**13


def _normal(text: tuple[str, ...]) -> str:
    """What makes two texts the same for a reader: capitals and spaces do not count."""
    return "\x1f".join(" ".join(part.split()).casefold() for part in text)


def _empty_splits(
    dealt: Mapping[str, _Examples], tables: Mapping[str, Table], parts: Mapping[str, _Examples]
) -> Iterator[Fault]:
    for split, examples in dealt.items():
        if not examples.ids:
            part = split if split in parts else "all" if "all" in parts else "train"
            count = len(parts[part].ids)
            yield tables[part].fault(f"leaves the split {split} without any example ({count:,} rows with a label)")


def _split(examples: _Examples, labels: tuple[str, ...]) -> Split:
    index = {label: number for number, label in enumerate(labels)}
    numbers = [index[label] for label in examples.labels] if labels else examples.labels
    return Split(examples.ids, examples.texts, numbers)


def _warnings(
    task: Task, splits: Mapping[str, Split], labels: tuple[str, ...], tables: Mapping[str, Table]
) -> Iterator[str]:
    seen = {name: {_normal(text) for text in split.texts} for name, split in splits.items()}
    for scored, known in (("test", "train"), ("selection", "train"), ("test", "selection")):
        shared = sum(_normal(text) in seen[known] for text in splits[scored].texts)
        if shared:
            count = len(splits[scored].texts)
            verb = "shares its text" if shared == 1 else "share their text"
            yield f"{shared:,} of the {count:,} examples of {scored} {verb} with an example of {known}"
    unseen = [label for index, label in enumerate(labels) if index not in set(splits["train"].labels)]
    if unseen:
        yield f"no training example has the label {', '.join(map(repr, unseen))}"
    for table in tables.values():
        empty = sum(not str(value).strip() for name in task.text for value in table.columns[name])
        if empty:
            yield f"{table.shown} has empty texts ({empty:,}), which are kept"
