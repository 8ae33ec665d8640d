"""Several labels a row, as a table has them: a list, JSON or text with a separator in one column, or columns of 0 and 1."""

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from lora_bench.errors import Fault
from lora_bench.kinds.support.row_values import Declared, Table

Labels = list[Any]

SEPARATORS = ("|", ";", ",", "\t", "/")
FLAGS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


def label_lists(task: Declared, table: Table, faults: list[Fault]) -> list[Labels | None]:
    """Return each row's labels as written, [] for an empty text, None without a value; note every fault of their columns."""
    if task.label.columns:
        return _of_flags(task.label.columns, table, faults)
    column = task.label.column
    given = table.columns[column]
    found = [_as_list(value, task.label.separator) for value in given]
    wrong = [row for row, one in enumerate(found) if one is None and not _is_gap(given[row])]
    if wrong:
        faults.append(_no_list(table, column, given, wrong, task.label.separator))
    nested = [
        row for row, one in enumerate(found) if any(isinstance(value, list | tuple | dict) for value in one or ())
    ]
    table.note(faults, f"has lists inside the lists of labels in column {column!r}", nested)
    if wrong or nested:
        return [[] for _ in given]  # one fault says enough of a column
    width = _width_of_vectors(found, task.labels or ()) if column not in table.class_names else None
    return found if width is None else list(_of_vectors(task, table, found, width, faults))


def guessed_separator(values: Sequence[str]) -> str | None:
    """Return the sign that is likely to stand between the labels of these texts, or None."""
    counts = {sign: sum(sign in value for value in values) for sign in SEPARATORS}
    best = max(counts, key=lambda sign: counts[sign])
    return best if counts[best] else None


def several_in(label: str, labels: Collection[str]) -> str | None:
    """Return the keys by which a label is read as several of the others, or None if it is one."""
    if as_json_list(label) is not None:
        return "`kind: multilabel`"
    for sign in SEPARATORS:
        parts = [part.strip() for part in label.split(sign)]
        if len(parts) > 1 and all(part in labels for part in parts):
            return f"`kind: multilabel` and the `separator` {json.dumps(sign)} in `label`"
    return None


def as_json_list(text: str) -> Labels | None:
    """Return the list that a text is in JSON, or None."""
    if not text.lstrip().startswith("["):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _is_gap(value: Any) -> bool:
    return value is None or value != value  # JSON as Python writes it has NaN for a gap


def _as_list(value: Any, separator: str | None) -> Labels | None:
    """Return a value as a list of labels, or None if it is none."""
    if isinstance(value, list | tuple):
        return list(value)
    if not isinstance(value, str):
        return None
    if separator is not None:
        return [part for part in value.split(separator) if part.strip()]
    return as_json_list(value) if value.strip() else []


def _no_list(table: Table, column: str, given: Sequence[Any], wrong: list[int], separator: str | None) -> Fault:
    """Return the fault of values that are no list, with the nearest form that works."""
    value = given[wrong[0]]
    if not isinstance(value, str):
        message = f"has labels in column {column!r} that are no list but {type(value).__name__}"
        return table.rows_fault(message, wrong, "; with one label a row leave `kind: multilabel` out")
    texts = [str(given[row]) for row in wrong]
    message = f"has labels in column {column!r} that are no list ({texts[0][:40]!r})"
    if texts[0].lstrip().startswith("["):
        return table.rows_fault(message, wrong, '; write lists as JSON, such as ["a", "b"], or name a `separator`')
    sign = guessed_separator(texts)
    way = "with one label a row leave `kind: multilabel` out"
    if sign is not None:
        way = f"say `label: {{column: {column}, separator: {json.dumps(sign)}}}`"
    return table.rows_fault(message, wrong, f"; {way}")


def _of_flags(columns: Sequence[str], table: Table, faults: list[Fault]) -> list[Labels | None]:
    """Return the names of the columns that have a 1, for each row."""
    found: list[Labels | None] = [[] for _ in table.places]
    for name in columns:
        wrong = []
        for row, value in enumerate(table.columns[name]):
            flag = FLAGS.get(str(value).strip().lower())
            labels = found[row]
            if _is_gap(value) or not str(value).strip():
                found[row] = None
            elif flag is None:
                wrong.append(row)
            elif flag and labels is not None:
                labels.append(name)
        if wrong:
            value = table.columns[name][wrong[0]]
            faults.append(
                table.rows_fault(f"has values in column {name!r} that are neither 0 nor 1 ({value!r})", wrong)
            )
    return found


def _width_of_vectors(found: Sequence[Labels | None], names: Sequence[str]) -> int | None:
    """Return the length of lists of 0 and 1, one for each label; None for lists of labels, which repeat none."""
    lists = [one for one in found if one is not None]
    widths = {len(one) for one in lists}
    if len(widths) != 1 or not all(
        isinstance(value, int | float) and value in (0, 1) for one in lists for value in one
    ):
        return None
    (width,) = widths
    named = len(names) == width and not {"0", "1"}.intersection(names)
    return width if named or any(len(set(one)) < width for one in lists) else None


def _of_vectors(
    task: Declared, table: Table, found: Sequence[Labels | None], width: int, faults: list[Fault]
) -> Iterator[Labels | None]:
    """Yield the labels whose place in a list has a 1, for each row."""
    names = task.labels or ()
    if len(names) != width:
        has = f"; `labels` names {len(names)}" if names else ""
        lists = f"has lists of {width} numbers 0 and 1 in column {task.label.column!r}{has}"
        way = f"name their {width} labels in order, as in `labels: [first, second]`"
        faults.append(table.fault(f"{lists}: {way}"))
    for one in found:
        yield None if one is None else [name for name, flag in zip(names, one, strict=False) if flag]
