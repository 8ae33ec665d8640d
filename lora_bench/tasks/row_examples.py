"""Rows of a table as examples: texts, ids and labels as written, and every fault in them.

Labels are compared as text, so that 1, "1" and a column of integers mean the same. For generation a label is the texts that may
be written for an input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from lora_bench.errors import Fault, did_you_mean
from lora_bench.tasks.answer_spans import answers_of
from lora_bench.tasks.conversations import NoAnswer, conversation
from lora_bench.tasks.declaration import Task
from lora_bench.tasks.label_sets import label_lists
from lora_bench.tasks.linearise import linearise
from lora_bench.tasks.source_tables import Table
from lora_bench.tasks.token_spelling import as_tokens
from lora_bench.tasks.word_lists import listed, words_of

SHOWN_VALUES, SHOWN_CHARACTERS = 3, 40
# The squared error of a larger one is infinite in float32, summed over a batch.
LARGEST_LABEL = 1e18
LEAVE_OUT = "; `unlabelled_rows: leave_out` leaves such rows out, and counts them"


@dataclass(frozen=True)
class Examples:
    """Rows that make an example: index, id, text, label as written, value that decides the split, and subset."""

    rows: list[int]
    ids: list[str]
    texts: list[tuple[str, ...]]
    labels: list[Any]
    groups: list[str]
    subsets: list[str | None]

    def where(self, keep: Sequence[bool]) -> Examples:
        """Return the examples that are kept, in their order."""
        return self.at([index for index, kept in enumerate(keep) if kept])

    def at(self, places: Sequence[int]) -> Examples:
        """Return the examples at these indexes, in this order."""
        lists = {own.name: getattr(self, own.name) for own in fields(self)}
        return Examples(**{name: [items[place] for place in places] for name, items in lists.items()})


def wanted_of(task: Task, part: str) -> frozenset[str]:
    """Return the columns to read of a part; those of the test split may name its subsets."""
    if task.subsets is not None and part in ("test", "all"):
        return task.wanted | {task.subsets.column}
    return task.wanted


def with_labels(task: Task, table: Table) -> Table:
    """Return a table without the rows that have no label, if the task leaves them out."""
    columns = [name for name in task.label.columns or (task.label.column,) if name in table.columns]
    if task.unlabelled_rows == "refuse" or not columns:
        return table
    rows = list(range(len(table.places)))
    for name in columns:
        given, names = table.columns[name], table.class_names.get(name)
        rows = [row for row in rows if has_label(given[row], names)]
    if task.kind == "chat" and task.wanted <= table.columns.keys():
        rows = [row for row, found in enumerate(_conversations(task, table)) if not isinstance(found, NoAnswer)]
    return replace(table.where(rows), unlabelled=len(table.places) - len(rows))


def has_label(value: Any, class_names: list[str] | None = None) -> bool:
    """Return False for a gap: nothing, blanks, or a list of nothing else."""
    if isinstance(value, list | tuple):
        return any(has_label(one, class_names) for one in value)
    return isinstance(value, dict) or _label_text(value, class_names) is not None


def missing_columns(table: Table, wanted: frozenset[str]) -> Iterator[Fault]:
    """Return a fault for each missing column, with the nearest one."""
    for name in sorted(wanted - set(table.names)):
        known = ", ".join(table.names)
        yield table.fault(f"has no column {name!r}{did_you_mean(name, table.names)} (columns: {known})")


def examples_of(task: Task, table: Table, faults: list[Fault], part: str) -> Examples:
    """Return the examples of a table; note every fault of its columns and rows."""
    missing = list(missing_columns(table, wanted_of(task, part)))
    if missing:
        faults += missing
        return Examples([], [], [], [], [], [])
    count = len(table.places)
    written: list[tuple[str, ...]] | None = None
    if task.kind == "chat":
        texts, written = _chats(task, table, faults)
    else:
        texts = texts_of(task, table, faults)
    ids = ids_of(task, table, faults)
    by, before = (task.shares.by, task.shares.before) if task.shares is not None else (None, None)
    groups = [normal(text) for text in texts] if by is None else _group_values(table, by, before, faults)
    subsets = _subset_values(task, table) if part in ("test", "all") else list[str | None]([None] * count)
    if task.kind == "multilabel":
        return Examples(list(range(count)), ids, texts, _label_sets(task, table, faults), groups, subsets)
    given = table.columns[task.label.column]
    if task.kind == "tokens":
        tags = tags_of(task, table, texts, faults)
        return Examples(list(range(count)), ids, texts, tags, groups, subsets)
    if task.kind == "spans":
        columns = task.label.column, task.label.start
        spans = answers_of(table, columns, texts, task.unanswerable, faults)
        return Examples(list(range(count)), ids, texts, spans, groups, subsets)
    if task.kind == "generation":
        written = _references(task, table, faults)
    if written is not None:
        examples = Examples(list(range(count)), ids, texts, written, groups, subsets)
        return examples.where([bool(some) for some in written])
    nested = [row for row, value in enumerate(given) if isinstance(value, list | dict)]
    if nested:
        kind = type(given[nested[0]]).__name__
        message = f"has labels in column {task.label.column!r} that are neither text nor numbers but {kind}"
        several = "; for several labels a row say `kind: multilabel`" if kind == "list" else ""
        faults.append(table.rows_fault(message, nested, several))
    values = [_label_text(value, table.class_names.get(task.label.column)) for value in given]
    if task.label_names:
        values = [task.label_names.get(value, value) if value is not None else None for value in values]
    unlabelled = [row for row, value in enumerate(values) if value is None]
    if unlabelled:
        faults.append(table.rows_fault(f"has no label in column {task.label.column!r}", unlabelled, LEAVE_OUT))
    examples = Examples(list(range(count)), ids, texts, values, groups, subsets)
    if task.kind == "classification" and task.label.rule is None:
        return examples
    numbers = [number_of(value) for value in values]
    wrong = [row for row, number in enumerate(numbers) if number is None and values[row] is not None]
    if wrong:
        shown = ", ".join(_shown(str(values[row])) for row in wrong[:SHOWN_VALUES])
        faults.append(
            table.rows_fault(f"has labels in column {task.label.column!r} that are no number ({shown})", wrong)
        )
        return examples
    large = [row for row, number in enumerate(numbers) if abs(number or 0) > LARGEST_LABEL]
    if large and task.kind == "regression":
        such = f"{LARGEST_LABEL:g}, such as {numbers[large[0]]:g}: scale them"
        message = f"has labels in column {task.label.column!r} beyond {such}"
        faults.append(table.rows_fault(message, large))
    if task.label.rule is None:
        return replace(examples, labels=numbers)
    negative, positive = task.labels or ("negative", "positive")
    signs = replace(examples, labels=[positive if (number or 0) > 0 else negative for number in numbers])
    return signs.where([number != 0 for number in numbers])


def _shown(value: str) -> str:
    return repr(value if len(value) <= SHOWN_CHARACTERS else f"{value[:SHOWN_CHARACTERS]}…")


def texts_of(task: Task, table: Table, faults: list[Fault]) -> list[tuple[str, ...]]:
    """Return the texts of each row, or for tokens its words; note every fault of their columns."""
    if task.kind == "tokens":
        return words_of(table, task.text[0], faults)
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


def _conversations(task: Task, table: Table) -> Iterator[tuple[str, str] | ValueError]:
    """Return the input and the answer of each row of a chat, or what is wrong with it."""
    columns = [table.columns[name] for name in dict.fromkeys((*task.text, task.label.column))]
    for values in zip(*columns, strict=True):
        try:
            yield conversation(*values)
        except ValueError as error:
            yield error


def _chats(task: Task, table: Table, faults: list[Fault]) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Return the input and the text to write of each row of a chat; note every fault of its messages."""
    found = list(_conversations(task, table))
    wrong: dict[str, list[int]] = {}
    for row, one in enumerate(found):
        if isinstance(one, ValueError):
            wrong.setdefault(str(one), []).append(row)
    named = " and ".join(dict.fromkeys((*task.text, task.label.column)))
    for said, rows in wrong.items():
        faults.append(table.rows_fault(f"has {said} in {named}", rows))
    whole = [("", "") if isinstance(one, ValueError) else one for one in found]
    return [(text,) for text, _ in whole], [(answer,) for _, answer in whole]


def _subset_values(task: Task, table: Table) -> list[str | None]:
    """Return the subset of the test split that each row is in, or None."""
    if task.subsets is None:
        return [None] * len(table.places)
    known = {value: name for name, values in task.subsets.parts.items() for value in values}
    return [known.get(str(value), task.subsets.rest) for value in table.columns[task.subsets.column]]


def _faults_of_text(table: Table, name: str, *, keep_empty: bool = False) -> Iterator[Fault]:
    column = table.columns[name]
    wrong = [row for row, value in enumerate(column) if value is not None and not isinstance(value, str)]
    if wrong:
        value = column[wrong[0]]
        message = f"has values in column {name!r} that are no text but {type(value).__name__}"
        yield table.rows_fault(message, wrong, _as_text(name, value))
    strict = table.own and not keep_empty
    # Rows of a published data set without a text are part of it, and a user could not mend them.
    without = [row for row, value in enumerate(column) if value is None or (strict and not str(value).strip())]
    if without:
        yield table.rows_fault(f"has no text in column {name!r}", without)


def _as_text(name: str, value: Any) -> str:
    """Return a hint how a value that is no text can be read."""
    if isinstance(value, dict):
        inner = next((key for key, one in value.items() if isinstance(one, str)), None)
        return "" if inner is None else f"; `text: {name}.{inner}` reads the text inside"
    if isinstance(value, list):
        return "; join each list to one text in the file, such as 'first second' for ['first', 'second']"
    return ""


def ids_of(task: Task, table: Table, faults: list[Fault]) -> list[str]:
    """Return the id of each row: from the id column, whose faults are noted, or its number."""
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


def _label_sets(task: Task, table: Table, faults: list[Fault]) -> list[tuple[str, ...]]:
    """Return the labels of each row, sorted and each once; note every fault of their columns."""
    names = table.class_names.get(task.label.column)
    found: list[tuple[str, ...]] = []
    without: list[int] = []
    for row, labels in enumerate(label_lists(task, table, faults)):
        said = [None] if labels is None else [_label_text(label, names) for label in labels]
        if None in said:
            without.append(row)
        found.append(tuple(sorted({task.label_names.get(label, label) for label in said if label is not None})))
    if without:
        shown = ", ".join(task.label.columns) or task.label.column
        faults.append(table.rows_fault(f"has no label in column {shown!r}", without, LEAVE_OUT))
    return found


def _references(task: Task, table: Table, faults: list[Fault]) -> list[tuple[str, ...]]:
    """Return the texts to write for each row of generation; none if `where` leaves none.

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
        if task.spelling == "tokens":
            written = tuple(map(as_tokens, written))
        if not written and texts and table.own and task.empty_texts == "refuse":
            without.append(row)
        found.append(written or (("",) if texts else ()))
    if without:
        faults.append(table.rows_fault(f"has no text in column {task.label.column!r}", without, LEAVE_OUT))
    if wrong:
        kind = type(given[wrong[0]]).__name__
        faults.append(
            table.rows_fault(f"has values in column {task.label.column!r} that are no text but {kind}", wrong)
        )
    return found


def tags_of(
    task: Task, table: Table, words: Sequence[tuple[str, ...]], faults: list[Fault]
) -> list[tuple[str | None, ...]]:
    """Return the labels of the words of each row; note every row without one label for each word."""
    column = task.label.column
    names = table.class_names.get(column)
    found: list[tuple[str | None, ...]] = []
    no_list, uneven, without = [], [], []
    for row, value in enumerate(table.columns[column]):
        given = listed(value)
        tags = tuple(_label_text(one, names) if not isinstance(one, list | dict) else None for one in given or ())
        tags = tuple(task.label_names.get(tag, tag) if tag is not None else None for tag in tags)
        if given is None:
            no_list.append(row)
        elif words[row] and len(tags) != len(words[row]):
            uneven.append(row)
        elif None in tags:
            without.append(row)
        found.append(tags)
    if no_list:
        faults.append(table.rows_fault(f"has no list of labels in column {column!r}", no_list, LEAVE_OUT))
    if uneven:
        first = uneven[0]
        pair = f"{len(found[first])} in column {column!r} for {len(words[first])} in column {task.text[0]!r}"
        hint = "; give one label for each word: two lists, or two texts separated by spaces"
        faults.append(table.rows_fault(f"has other numbers of labels than of words, such as {pair},", uneven, hint))
    if without:
        faults.append(table.rows_fault(f"has words without a label in column {column!r}", without))
    return found


def _fits(table: Table, row: int, place: int, where: Mapping[str, str]) -> bool:
    """Return True if the lists beside a list of texts have these values at its index."""
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
    """Return a label as text, or None if there is none; JSON as Python writes it has NaN for a gap."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if class_names is not None and isinstance(value, int):
        # The hub marks rows whose label is kept secret by -1.
        return class_names[value] if 0 <= value < len(class_names) else None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of integers that has a gap somewhere is read as one of floats
    return str(value).strip() or None


def number_of(value: str | None) -> float | None:
    """Return the finite number that a text stands for, or None."""
    try:
        number = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def normal(text: tuple[str, ...]) -> str:
    """Return a text without case and extra spaces: two texts are the same to a reader if these are equal."""
    return "\x1f".join(" ".join(part.split()).casefold() for part in text)
