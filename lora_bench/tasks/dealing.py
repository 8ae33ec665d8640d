"""Rows dealt out to splits: by a hash of their text or group, also evenly in each class, by time, or as a column says.

Of F folds a row with the draw d in [0, 1) is in fold ⌊F d⌋, at the place F d − ⌊F d⌋. The run of fold k tests that one. Of the
others, selection has the places from k s on, where s is its share of them: other ones for each fold.
"""

import hashlib
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from lora_bench.errors import BadInput
from lora_bench.kinds.support.row_values import SHOWN_VALUES, Examples, Table, number_of
from lora_bench.kinds.support.table_view import SPLIT_VALUES
from lora_bench.tasks.declaration import Task

SPLITS = ("train", "selection", "test")

# Multiples of this lie evenly in [0, 1) modulo 1, any stretch of them too: eight leave no gap of a quarter.
_GOLDEN = (5**0.5 - 1) / 2
_DAYS_FIRST = ("%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S")


def as_column_says(task: Task, tables: Mapping[str, Table]) -> dict[str, Table]:
    """Return a table for each split that the task's column names. Raise BadInput if a row names none, or no row train."""
    column = task.split.column if task.split is not None else None
    if column is None or "all" not in tables or column not in tables["all"].columns:
        return dict(tables)
    table = tables["all"]
    values = [str(value).strip().casefold() for value in table.columns[column]]
    rows = {split: [row for row, value in enumerate(values) if SPLIT_VALUES.get(value) == split] for split in SPLITS}
    wrong = [row for row, value in enumerate(values) if value not in SPLIT_VALUES]
    if wrong:
        shown = ", ".join(repr(value) for value in list(dict.fromkeys(values[row] for row in wrong))[:SHOWN_VALUES])
        way = f"`by: {column}`, or --group {column}, keeps rows with equal values together"
        hint = f"; known are train, dev, valid, test and the like; {way}"
        raise BadInput([table.rows_fault(f"has values in column {column!r} that name no split: {shown},", wrong, hint)])
    if not rows["train"]:
        raise BadInput([table.fault(f"has no row of train in column {column!r}")])
    # Rows that were left out are counted once.
    found = {split: replace(table.where(of), left_out=0, unlabelled=0) for split, of in rows.items() if of}
    return found | {"train": replace(found["train"], left_out=table.left_out, unlabelled=table.unlabelled)}


def deal(
    task: Task,
    parts: Mapping[str, Examples],
    tables: Mapping[str, Table],
    *,
    whole_train: bool,
    fold: int | None = None,
) -> dict[str, Examples]:
    """Return the examples in three splits (two, if train is whole), and the further ones.

    A split that the data does not have is taken from the training rows. With folds, *fold* is the one to test. Raise BadInput
    if rows cannot be put into the order of the task.
    """
    shares = task.shares
    if shares is None:
        return dict(parts)
    part = "all" if "all" in parts else "train"
    examples = parts[part]
    if shares.stratify:
        drawn = _even_draws(examples, by_class=task.kind_of.has_classes)
    else:
        drawn = _draws(shares.in_order, examples, tables[part])
    if shares.folds is not None and fold is not None:
        share = 0.0 if whole_train else shares.selection / (1 - 1 / shares.folds)
        return _folded(examples, drawn, shares.folds, fold, share)
    set_aside = 0.0 if whole_train or "selection" in parts else shares.selection
    low = shares.more_test if "test" in parts else shares.test
    dealt = {"train": examples.where([draw >= low + set_aside for draw in drawn])}
    if "selection" in parts:
        dealt["selection"] = parts["selection"]
    elif not whole_train:
        dealt["selection"] = examples.where([low <= draw < low + set_aside for draw in drawn])
    held = examples.where([draw < low for draw in drawn])
    if "test" not in parts:
        dealt["test"] = held
    else:
        dealt["test"] = parts["test"] + held.renamed("train") if low else parts["test"]
    return dealt | {name: parts[name] for name in task.data.further}


def _folded(examples: Examples, drawn: Sequence[float], folds: int, fold: int, share: float) -> dict[str, Examples]:
    """Return the examples in splits that test a fold; selection, if any, has a *share* of the others."""
    places = [folds * draw for draw in drawn]
    chosen = [
        "test" if int(place) == fold else "selection" if (place - fold * share) % 1 < share else "train"
        for place in places
    ]
    names = SPLITS if share else ("train", "test")
    return {name: examples.where([one == name for one in chosen]) for name in names}


def _draws(in_order: str | None, examples: Examples, table: Table) -> list[float]:
    """Return a draw in [0, 1) for each example: by its group, or the share of rows later than the first of its group."""
    if in_order is None:
        return [_draw(group) for group in examples.groups]
    moments = list(moments_of([table.columns[in_order][row] for row in examples.rows]))
    wrong = [row for row, moment in zip(examples.rows, moments, strict=True) if moment is None]
    if wrong:
        value = table.columns[in_order][wrong[0]]
        message = f"has values in column {in_order!r} that are neither numbers nor dates such as 2026-01-31: {value!r},"
        raise BadInput([table.rows_fault(message, wrong)])
    first: dict[str, float] = {}
    for group, moment in zip(examples.groups, moments, strict=True):
        first[group] = min(moment or 0.0, first.get(group, moment or 0.0))
    order = sorted(first[group] for group in examples.groups)
    ends = {moment: (bisect_left(order, moment), bisect_right(order, moment)) for moment in set(order)}
    return [1 - sum(ends[first[group]]) / 2 / len(order) for group in examples.groups]


def _even_draws(examples: Examples, *, by_class: bool) -> list[float]:
    """Return a number in [0, 1) for each example, even among those of each class; a group is of its most frequent one."""
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for group, label in zip(examples.groups, examples.labels, strict=True):
        labels[group][label if by_class and isinstance(label, str) else ""] += 1
    usual = {group: min(counts, key=lambda label: (-counts[label], label)) for group, counts in labels.items()}
    order = sorted(usual, key=lambda group: (usual[group], _draw(group)))
    draws = {group: number * _GOLDEN % 1 for number, group in enumerate(order, 1)}
    return [draws[group] for group in examples.groups]


def moments_of(values: Sequence[Any]) -> Iterator[float | None]:
    """Yield each value as a number, if all are numbers, or as the seconds of a date; None for one that is neither."""
    texts = ["" if value is None else str(value).strip() for value in values]
    numbers = [number_of(text) for text in texts]
    if None not in numbers:
        yield from numbers
        return
    for text in texts:
        yield _seconds(text)


def _seconds(text: str) -> float | None:
    """Return the seconds of a date as ISO 8601 writes it, of a month, or of a date with dots."""
    for written in (text, f"{text}-01"):
        try:
            return _as_utc(datetime.fromisoformat(written))
        except ValueError:
            continue
    for layout in _DAYS_FIRST:
        try:
            return _as_utc(datetime.strptime(text, layout))
        except ValueError:
            continue
    return None


def _as_utc(moment: datetime) -> float:
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _draw(group: str) -> float:
    """Return a number in [0, 1) that depends only on the text: 52 bits of its sha256."""
    return int(hashlib.sha256(group.encode("utf-8", "surrogatepass")).hexdigest()[:13], 16) / 16**13
