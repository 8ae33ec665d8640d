"""The examples of a task, made of the rows of its tables.

`load_data` makes examples in three splits (`train` to learn from, `selection` to choose by, `test` to report) and
lists everything that is wrong with the data at once. Where the data has fewer splits, rows are dealt out by a hash of
their text, or of a column such as the document they come from: the same row is always dealt to the same split,
whatever the order of the file, and rows that belong together stay together.

Labels are compared as text, so that 1, "1" and a column of integers mean the same. For generation a label is the texts
that may be written for an input: one of them in `train`, all of them where outputs are scored, where an input that
stands in several rows is one example.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lora_bench.assets import find_asset, members
from lora_bench.errors import BadInput, Fault, did_you_mean
from lora_bench.spec import content_hash
from lora_bench.tasks.declaration import Task, with_part
from lora_bench.tasks.folders import as_laid_out, unlabelled_file
from lora_bench.tasks.linearise import linearise
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
        labels: Class indexes; numbers for regression; for generation the texts to write, one in `train`.
        subsets: The places of the examples of each part that is scored apart too, by its name.
    """

    ids: list[str]
    texts: list[tuple[str, ...]]
    labels: list[int] | list[float] | list[tuple[str, ...]]
    subsets: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskData:
    """The examples of a task.

    Args:
        splits: By name: train, selection (but for a whole train), test, and the further ones that the task names.
        labels: Class names in the order of their indexes; empty for regression and generation.
        sha256: Hash of the content they were made of.
        warnings: What a reader of the scores should know.
    """

    splits: dict[str, Split]
    labels: tuple[str, ...]
    sha256: str
    warnings: tuple[str, ...]


def load_data(task: Task, base: Path, progress: Progress | None = None, *, whole_train: bool = False) -> TaskData:
    """The examples of a task.

    Args:
        task: The declaration.
        base: The folder that its paths are seen from.
        progress: Called with a sentence whenever there is something to tell.
        whole_train: Where the data has no selection split, set nothing aside for it, and give none.

    Raises:
        BadInput: With everything that is wrong with the data.
        AssetUnavailable: If the data is an asset that is neither cached nor to be had.
        LoraBenchError: If the hub does not have the data or cannot be reached.
    """
    tables, sha256 = _tables(task, base, progress)
    faults: list[Fault] = []
    parts = {part: _examples(task.of_part(part), table, faults, part) for part, table in tables.items()}
    if faults:
        raise BadInput(faults)
    labels = _labels(task, parts, tables, faults) if task.kind == "classification" else ()
    if task.kind == "classification":
        for part, examples in parts.items():
            faults += _unknown_labels(task.of_part(part), tables[part], examples, labels)
    if faults:
        raise BadInput(faults)
    dealt = _dealt(task, parts, whole_train)
    faults += _empty_splits(dealt, tables, parts)
    if faults:
        raise BadInput(faults)
    splits = {
        name: _split(task, examples if task.kind != "generation" else _told(examples, name), labels)
        for name, examples in dealt.items()
    }
    return TaskData(splits, labels, sha256, tuple(_warnings(task, splits, labels, tables)))


def load_unlabelled(task: Task, folder: Path, name: str) -> Split:
    """The inputs of a split whose labels are kept secret, such as GLUE's test files: a split without labels.

    Args:
        task: A task that says how its files lie in a folder.
        folder: That folder.
        name: One of the layout's `unlabelled`.

    Raises:
        BadInput: With everything that is wrong with the file.
        LoraBenchError: If there is no such split or file.
    """
    part = unlabelled_file(task, folder, name)
    mine = with_part(as_laid_out(task), part)
    wanted = frozenset({*mine.text, *([mine.id] if mine.id is not None else [])})
    table, _ = read_file(folder / part.file, replace(_layout(mine), wanted=wanted))
    faults: list[Fault] = list(_missing_columns(table, wanted))
    if faults:
        raise BadInput(faults)
    texts, ids = _texts(mine, table, faults), _ids(mine, table, faults)
    if faults:
        raise BadInput(faults)
    return Split(ids, texts, [])


@dataclass(frozen=True)
class _Examples:
    """The rows of a table that make an example: index, id, text, label as written, what they are dealt by, subset."""

    rows: list[int]
    ids: list[str]
    texts: list[tuple[str, ...]]
    labels: list[Any]
    groups: list[str]
    subsets: list[str | None]

    def where(self, keep: Sequence[bool]) -> _Examples:
        return self.at([index for index, kept in enumerate(keep) if kept])

    def at(self, places: Sequence[int]) -> _Examples:
        lists = {own.name: getattr(self, own.name) for own in fields(self)}
        return _Examples(**{name: [items[place] for place in places] for name, items in lists.items()})


def _layout(task: Task) -> Layout:
    return Layout(task.format, task.columns, task.quoting, task.wanted, task.uneven_rows)


def _tables(task: Task, base: Path, progress: Progress | None) -> tuple[dict[str, Table], str]:
    """The tables by the split they hold ("all" for one that is to be split), and the hash of their content."""
    data = task.data
    layout = _layout(task)
    if data.asset is not None and data.file is not None:
        asset = find_asset(data.asset)
        raw = members(asset.name, [data.file], progress)[data.file]
        layout = replace(layout, format=task.format or format_of(data.file), wanted=_wanted(task, "all"))
        table = read_bytes(raw, f"{asset.name}: {data.file.rpartition('/')[2]}", layout, own=False)
        return {"all": table}, content_hash({"asset": asset.sha256, "file": data.file})
    if data.hub is not None and data.splits is not None and data.revision is not None:
        if progress is not None:
            progress(f"looking for {data.hub} on the Hugging Face hub")
        commit = hub_commit(data.hub, data.revision)
        given = {"train": data.splits.train, "selection": data.splits.selection, "test": data.splits.test}
        names = {split: name for split, name in given.items() if name is not None} | data.splits.also
        tables = {
            split: read_hub(data.hub, data.name, name, commit, _wanted(task, split)) for split, name in names.items()
        }
        return tables, content_hash({"hub": data.hub, "name": data.name, "commit": commit, "splits": names})
    tables, hashes, faults = {}, {}, []
    for part, file in data.files.items():
        layout = replace(_layout(task.of_part(part)), wanted=_wanted(task.of_part(part), part))
        try:
            tables[part], hashes[part] = read_file(base / Path(file).expanduser(), layout)
        except BadInput as error:
            faults += error.faults
    if faults:
        raise BadInput(faults)
    return tables, content_hash(hashes)


def _wanted(task: Task, part: str) -> frozenset[str]:
    """The columns that are read of a part: the test split's may tell its subsets."""
    if task.subsets is not None and part in ("test", "all"):
        return task.wanted | {task.subsets.column}
    return task.wanted


def _missing_columns(table: Table, wanted: frozenset[str]) -> Iterator[Fault]:
    for name in sorted(wanted - set(table.names)):
        known = ", ".join(table.names)
        yield table.fault(f"has no column {name!r}{did_you_mean(name, table.names)} (columns: {known})")


def _examples(task: Task, table: Table, faults: list[Fault], part: str) -> _Examples:
    """The examples of a table; notes every fault of its columns and rows."""
    missing = list(_missing_columns(table, _wanted(task, part)))
    if missing:
        faults += missing
        return _Examples([], [], [], [], [], [])
    count = len(table.places)
    texts = _texts(task, table, faults)
    ids = _ids(task, table, faults)
    by, before = (task.shares.by, task.shares.before) if task.shares is not None else (None, None)
    groups = [_normal(text) for text in texts] if by is None else _group_values(table, by, before, faults)
    subsets = _subset_values(task, table) if part in ("test", "all") else list[str | None]([None] * count)
    given = table.columns[task.label.column]
    if task.kind == "generation":
        written = _references(task, table, faults)
        examples = _Examples(list(range(count)), ids, texts, written, groups, subsets)
        return examples.where([bool(some) for some in written])
    values = [_label_text(value, table.class_names.get(task.label.column)) for value in given]
    if task.label_names:
        values = [task.label_names.get(value, value) if value is not None else None for value in values]
    unlabelled = [row for row, value in enumerate(values) if value is None]
    if unlabelled:
        faults.append(table.rows_fault(f"has no label in column {task.label.column!r}", unlabelled))
    examples = _Examples(list(range(count)), ids, texts, values, groups, subsets)
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


def _texts(task: Task, table: Table, faults: list[Fault]) -> list[tuple[str, ...]]:
    """The texts of each row; notes every fault of their columns."""
    columns = [table.columns[name] for name in task.text]
    if task.linearise is None:
        for name in task.text:
            faults += _faults_of_text(table, name, keep_empty=task.empty_texts == "keep")
        return list(zip(*(map(str, column) for column in columns), strict=True))
    texts: list[tuple[str, ...]] = []
    wrong: dict[int, str] = {}
    for row, values in enumerate(zip(*columns, strict=True)):
        try:
            texts.append((linearise(task.linearise, values),))
        except ValueError as error:
            wrong[row] = str(error)
            texts.append(("",))
    if wrong:
        first = next(iter(wrong.values()))
        faults.append(
            table.rows_fault(f"has no {task.linearise} input in {', '.join(task.text)}: {first}", list(wrong))
        )
    return texts


def _subset_values(task: Task, table: Table) -> list[str | None]:
    """The part of the test split that each row is in, or None."""
    if task.subsets is None:
        return [None] * len(table.places)
    known = {value: name for name, values in task.subsets.parts.items() for value in values}
    return [known.get(str(value), task.subsets.rest) for value in table.columns[task.subsets.column]]


def _faults_of_text(table: Table, name: str, *, keep_empty: bool = False) -> Iterator[Fault]:
    column = table.columns[name]
    wrong = [row for row, value in enumerate(column) if value is not None and not isinstance(value, str)]
    if wrong:
        kind = type(column[wrong[0]]).__name__
        yield table.rows_fault(f"has values in column {name!r} that are no text but {kind}", wrong)
    strict = table.own and not keep_empty
    # Rows of a published data set without a text are part of it, and a user could not mend them.
    without = [row for row, value in enumerate(column) if value is None or (strict and not str(value).strip())]
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


def _references(task: Task, table: Table, faults: list[Fault]) -> list[tuple[str, ...]]:
    """For generation the texts that may be written for each row: none where `where` leaves none.

    Empty texts are left out beside others. A row of a published set that has no other keeps one.
    """
    found: list[tuple[str, ...]] = []
    wrong: list[int] = []
    without: list[int] = []
    given = table.columns[task.label.column]
    for row, value in enumerate(given):
        several = isinstance(value, Sequence) and not isinstance(value, str)
        texts = list(value) if several else [value]
        if several and task.label.where:
            kept = [_fits(table, row, place, task.label.where) for place in range(len(texts))]
            texts = [text for text, fits in zip(texts, kept, strict=True) if fits]
        if not all(text is None or isinstance(text, str) for text in texts):
            wrong.append(row)
            texts = []
        written = tuple(text for text in texts if text and text.strip())
        if not written and texts and table.own and task.empty_texts == "refuse":
            without.append(row)
        found.append(written or (("",) if texts else ()))
    if without:
        faults.append(table.rows_fault(f"has no text in column {task.label.column!r}", without))
    if wrong:
        kind = type(given[wrong[0]]).__name__
        faults.append(
            table.rows_fault(f"has values in column {task.label.column!r} that are no text but {kind}", wrong)
        )
    return found


def _fits(table: Table, row: int, place: int, where: Mapping[str, str]) -> bool:
    """Whether the lists beside a list of texts have these values at its place."""
    for column, value in where.items():
        beside = table.columns[column][row]
        if not isinstance(beside, Sequence) or len(beside) <= place or beside[place] != value:
            return False
    return True


def _group_values(table: Table, by: str, before: str | None, faults: list[Fault]) -> list[str]:
    values = table.columns[by]
    without = [row for row, value in enumerate(values) if value is None or value == ""]
    if without:
        faults.append(table.rows_fault(f"has no value in column {by!r}, by which rows are split", without))
    return [str(value).partition(before)[0] if before is not None else str(value) for value in values]


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


def _dealt(task: Task, parts: Mapping[str, _Examples], whole_train: bool) -> dict[str, _Examples]:
    """The examples in three splits (or two, for a whole train), and the further ones."""
    shares = task.shares
    if shares is None:
        return dict(parts)
    set_aside = 0.0 if whole_train else shares.selection
    examples = parts["all"] if "all" in parts else parts["train"]
    low = shares.test if "all" in parts else 0.0
    drawn = [_draw(group) for group in examples.groups]
    dealt = {"train": examples.where([draw >= low + set_aside for draw in drawn])}
    if not whole_train:
        dealt["selection"] = examples.where([low <= draw < low + set_aside for draw in drawn])
    dealt["test"] = examples.where([draw < low for draw in drawn]) if "all" in parts else parts["test"]
    return dealt | {name: parts[name] for name in task.data.further}


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


def _told(examples: _Examples, split: str) -> _Examples:
    """Examples of generation: in `train` one for each text to write, elsewhere one for each distinct input."""
    if split == "train":
        rows = [(place, number) for place, texts in enumerate(examples.labels) for number in range(len(texts))]
        each = examples.at([place for place, _ in rows])
        ids = [
            name if number == 0 else f"{name}.{number + 1}" for name, (_, number) in zip(each.ids, rows, strict=True)
        ]
        return replace(each, ids=ids, labels=[(examples.labels[place][number],) for place, number in rows])
    texts_of: dict[tuple[str, ...], list[str]] = {}
    first: dict[tuple[str, ...], int] = {}
    for place, (text, texts) in enumerate(zip(examples.texts, examples.labels, strict=True)):
        first.setdefault(text, place)
        texts_of.setdefault(text, []).extend(texts)
    return replace(examples.at(list(first.values())), labels=list(texts_of.values()))


def _split(task: Task, examples: _Examples, labels: tuple[str, ...]) -> Split:
    index = {label: number for number, label in enumerate(labels)}
    values: list[Any] = [index[label] for label in examples.labels] if labels else examples.labels
    names = [*task.subsets.parts, task.subsets.rest] if task.subsets is not None else []
    places = {name: [place for place, subset in enumerate(examples.subsets) if subset == name] for name in names}
    subsets = {name: tuple(found) for name, found in places.items() if name is not None and found}
    if task.kind == "generation":
        values = [tuple(given) for given in values]
    return Split(examples.ids, examples.texts, values, subsets)


def _warnings(
    task: Task, splits: Mapping[str, Split], labels: tuple[str, ...], tables: Mapping[str, Table]
) -> Iterator[str]:
    seen = {name: {_normal(text) for text in split.texts} for name, split in splits.items()}
    further = [(name, "train") for name in task.data.further]
    for scored, known in (("test", "train"), ("selection", "train"), ("test", "selection"), *further):
        if scored not in splits or known not in splits:
            continue
        shared = sum(_normal(text) in seen[known] for text in splits[scored].texts)
        if shared:
            count = len(splits[scored].texts)
            verb = "shares its text" if shared == 1 else "share their text"
            yield f"{shared:,} of the {count:,} examples of {scored} {verb} with an example of {known}"
    unseen = [label for index, label in enumerate(labels) if index not in set(splits["train"].labels)]
    if unseen:
        yield f"no training example has the label {', '.join(map(repr, unseen))}"
    for part, table in tables.items():
        empty = sum(not str(value).strip() for name in task.of_part(part).text for value in table.columns[name])
        if empty:
            yield f"{table.shown} has empty texts ({empty:,}), which are kept"
        if table.left_out:
            rows = "row" if table.left_out == 1 else "rows"
            yield f"{table.shown} has {table.left_out:,} {rows} with too few or too many values, which are left out"
