"""A look at a table before a task is declared: its separator and encoding, its columns, and which hold text and label.

What was guessed is returned, so that a user reads it before anything is trained.
"""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError, unknown
from lora_bench.kinds.support.label_sets import as_json_list
from lora_bench.kinds.support.row_table import Table
from lora_bench.kinds.support.row_values import has_label, normal
from lora_bench.tasks.files import read_file
from lora_bench.tasks.source_tables import SEPARATED, Format, Layout, format_of
from lora_bench.tasks.text_facts import contradicting, repeated, spread
from lora_bench.util.regular_files import read_regular

SEPARATORS = (",", ";", "\t", "|")
# Number of lines that the separator is guessed from.
SAMPLE_LINES = 200
MOST_CLASSES = 100
# More different numbers than this are a quantity and no names of classes.
MOST_NUMBERED_CLASSES = 20
_LABEL_NAMES = re.compile(
    r"(?i)((label|class|category|queue|target|sentiment|intent|topic|tag|genre|priority|rating|score|y)s?|classes|categories)"
)
# What may stand between several labels; longer parts are no names of labels.
_LABEL_SEPARATORS, _LONGEST_LABEL = ("|", ";", ","), 40


@dataclass(frozen=True)
class TableFacts:
    """Facts about a table, for the task to be made of it.

    Args:
        file: The table.
        delimiter: Character between values, if it is not the format's own.
        encoding: Text encoding, if it is not UTF-8.
        uneven: Rows with too few or too many values.
        unlabelled: Rows without a label.
        rows: Number of the other rows: those that are used.
        text: Columns of the text.
        label: Column of the label.
        kind: "classification", "regression" or "multilabel".
        classes: Rows of each class or label, the largest first; empty for regression.
        words: Words of a text: median, 95th percentile and maximum.
        repeated: Rows whose text stands in an earlier row.
        contradicting: Texts that stand in several rows with different labels.
        guessed: Sentences on settings that were guessed.
        separator: What stands between several labels of a row, if they are no lists.
    """

    file: Path
    delimiter: str | None
    encoding: str | None
    uneven: int
    unlabelled: int
    rows: int
    text: tuple[str, ...]
    label: str
    kind: str
    classes: dict[str, int]
    words: tuple[int, int, int]
    repeated: int
    contradicting: int
    guessed: tuple[str, ...]
    separator: str | None = None

    @property
    def sentences(self) -> list[str]:
        """Describe the table to a user."""
        said = [f"{self.file}: {self.rows:,} rows; text: {' and '.join(self.text)}; label: {self.label}"]
        if self.classes:
            shown = ", ".join(f"{name} {number:,}" for name, number in list(self.classes.items())[:6])
            more = ", …" if len(self.classes) > 6 else ""
            share = max(self.classes.values()) / self.rows
            if self.kind == "multilabel":
                each = sum(self.classes.values()) / self.rows
                said.append(f"{len(self.classes)} labels ({shown}{more}); a row has {each:.1f} on average")
            else:
                said.append(f"{len(self.classes)} classes ({shown}{more}); the largest has {share:.0%} of the rows")
        middle, most, longest = self.words
        said.append(f"a text has {middle} words in the middle, 95 % have at most {most}, the longest has {longest:,}")
        if self.repeated:
            said.append(f"{self.repeated:,} rows repeat the text of another; equal texts always go to the same split")
        if self.contradicting:
            said.append(
                f"{self.contradicting:,} texts stand there with different labels, which no model can tell apart"
            )
        if self.uneven:
            said.append(f"{self.uneven:,} rows have too few or too many values and are left out")
        if self.unlabelled:
            said.append(f"{self.unlabelled:,} rows have no label and are left out")
        return [*said, *self.guessed]


def look(file: Path, text: str | None = None, text_pair: str | None = None, label: str | None = None) -> TableFacts:
    """Look at a table; a column that is not named is guessed.

    Raises:
        BadInput: If the file cannot be read.
        LoraBenchError: If it has no such column, or none that could be the text or the label.
    """
    guessed: list[str] = []
    format = format_of(file.name)
    layout = Layout(format=format)
    if format in SEPARATED:
        delimiter, encoding = _how_separated(file, format, guessed)
        layout = Layout(format=format, uneven_rows="leave_out", delimiter=delimiter, encoding=encoding)
    names = read_file(file, layout)[0].names
    for column in (text, text_pair, label):
        if column is not None and column not in names:
            raise unknown(f"column of {file}", column, names)
    table, _ = read_file(file, replace(layout, wanted=frozenset(names)))
    label = label or _label(table, {text, text_pair}, guessed)
    first = text or _text(table, {label, text_pair}, guessed)
    texts = (first, text_pair) if text_pair is not None else (first,)
    given = table.columns[label]
    labelled = table.where([row for row, value in enumerate(given) if has_label(value)])
    several, separator = _several_labels(labelled.columns[label])
    if several and None not in given:  # an empty list or text is a row with none of the labels
        labelled, (several, separator) = table, _several_labels(given)
    values = [str(value) for value in several or labelled.columns[label]]
    rows = list(zip(*(map(str, labelled.columns[name]) for name in texts), strict=True))
    if not rows:
        raise LoraBenchError(f"{file} has no rows" + (f" with a label in column {label!r}" if table.places else ""))
    texts_read = [normal(row) for row in rows]
    kind = "multilabel" if several else "regression" if _is_quantity(values) else "classification"
    if several:
        between = "" if separator is None else f", separated by {separator!r}"
        guessed.append(f"guessed: {label} has several labels a row{between}")
    if kind == "regression":
        guessed.append(f"guessed: {label} is a number to predict, as it has {len(set(values)):,} different values")
    return TableFacts(
        file=file,
        delimiter=layout.delimiter,
        encoding=layout.encoding,
        uneven=table.left_out,
        unlabelled=len(table.places) - len(rows),
        rows=len(rows),
        text=texts,
        label=label,
        kind=kind,
        classes={}
        if kind == "regression"
        else dict(Counter(chain.from_iterable(several) if several else values).most_common()),
        words=spread(sum(len(text.split()) for text in row) for row in rows),
        repeated=repeated(texts_read),
        contradicting=contradicting(texts_read, values),
        guessed=tuple(guessed),
        separator=separator,
    )


def _several_labels(values: Sequence[Any]) -> tuple[list[tuple[str, ...]], str | None]:
    """Return the labels of each row and what separates them in texts; nothing if a row has one label."""
    lists = [as_json_list(value) if isinstance(value, str) and value.strip() else value for value in values]
    if all(isinstance(value, list | tuple) or value == "" for value in lists) and any(lists):
        return [tuple(sorted({str(label) for label in value or ()})) for value in lists], None
    texts = [value for value in values if isinstance(value, str)]
    whole = set(texts) if len(texts) == len(values) else set()
    for sign in _LABEL_SEPARATORS:
        if not any(sign in value for value in whole):
            continue
        parts = {part.strip() for value in whole for part in value.split(sign)} - {""}
        few = 2 <= len(parts) <= min(len(whole), MOST_CLASSES)
        if few and all(len(part) <= _LONGEST_LABEL and not part.isdigit() for part in parts):
            return [tuple(sorted({part.strip() for part in text.split(sign)} - {""})) for text in texts], sign
    return [], None


def _how_separated(file: Path, format: Format | None, guessed: list[str]) -> tuple[str | None, Any]:
    """Return the separator and the encoding of a file; None for the usual ones."""
    raw = read_regular(file) if file.is_file() and file.suffix.lower() != ".gz" else b""
    encoding = _encoding(raw)
    if encoding is not None:
        guessed.append(f"guessed: the encoding is {encoding}, as it is not UTF-8")
    lines = raw.decode(encoding or "utf-8-sig", errors="replace").splitlines(keepends=True)[:SAMPLE_LINES]
    usual = "\t" if format == "tsv" else ","
    found = max(SEPARATORS, key=lambda one: (_evenness(lines, one), one == usual)) if lines else usual
    if found == usual:
        return None, encoding
    guessed.append(f"guessed: values are separated by {'tabs' if found == chr(9) else repr(found)}")
    return found, encoding


def _encoding(raw: bytes) -> str | None:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    for encoding in ("utf-8", "cp1252"):
        try:
            raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        return None if encoding == "utf-8" else encoding
    return "latin-1"


def _evenness(lines: Sequence[str], separator: str) -> float:
    """Return the share of rows with as many values as the first; 0 if that has one alone."""
    try:
        rows = [row for row in csv.reader(io.StringIO("".join(lines)), delimiter=separator) if row]
    except csv.Error:
        return 0.0
    if not rows or len(rows[0]) < 2:
        return 0.0
    return sum(len(row) == len(rows[0]) for row in rows) / len(rows)


def _label(table: Table, taken: set[str | None], guessed: list[str]) -> str:
    """Return the column that is likely the label: named like one, else that of the fewest different values."""
    rows = len(table.places)
    possible = {}
    for name, values in table.columns.items():
        several = _several_labels(values)[0] if _LABEL_NAMES.fullmatch(name) else []
        different = len(set(chain.from_iterable(several) if several else map(str, values)))
        if name not in taken and 2 <= different <= min(MOST_CLASSES, max(2, rows // 3)):
            possible[name] = different
    if not possible:
        raise LoraBenchError(
            f"no column of {table.shown} looks like a label; name it with --label ({', '.join(table.names)})"
        )
    name = min(possible, key=lambda name: (_LABEL_NAMES.fullmatch(name) is None, possible[name]))
    guessed.append(f"guessed: the label is {name} ({possible[name]} different values); --label names another")
    return name


def _text(table: Table, taken: set[str | None], guessed: list[str]) -> str:
    """Return the column with the longest texts."""
    lengths = {
        name: statistics.fmean(len(str(value)) for value in values[:1000])
        for name, values in table.columns.items()
        if name not in taken and len(values)
    }
    if not lengths:
        raise LoraBenchError(f"no column of {table.shown} is left for the text; name it with --text")
    name = max(lengths, key=lambda name: lengths[name])
    guessed.append(f"guessed: the text is {name} ({lengths[name]:.0f} characters on average); --text names another")
    return name


def _is_quantity(values: Sequence[str]) -> bool:
    different = set(values)
    if len(different) <= MOST_NUMBERED_CLASSES:
        return False
    try:
        return all(abs(float(value)) < float("inf") for value in different)
    except ValueError:
        return False
