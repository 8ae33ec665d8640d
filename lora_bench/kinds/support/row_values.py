"""Rows of a source, their examples, and readers of several kinds. Labels are compared as text: 1 and "1" are the same."""

import ast
import contextlib
import json
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from lora_bench.documents import Strict
from lora_bench.errors import Fault
from lora_bench.kinds.support.linearise import Linearise

SHOWN_ROWS, SHOWN_VALUES, SHOWN_CHARACTERS = 3, 3, 40
LEAVE_OUT = "; `unlabelled_rows: leave_out` leaves such rows out, and counts them"

Texts = list[tuple[str, ...]]


def one_or_more(given: Any) -> Any:
    """Return a string as a tuple of one."""
    return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else given


Columns = Annotated[tuple[str, ...], BeforeValidator(one_or_more)]


class Label(Strict):
    """The label of a row.

    Args:
        column: Column of the label, of one text to write or several, of the labels of the words, or of answers.
        rule: "sign" gives the classes negative and positive of a number, and drops zeros.
        start: Column of the first character of an answer in its text, counted from 0; by default the first place where it
            stands.
        where: Keep texts at whose index the lists in these columns have these values.
        separator: What stands between the labels of a row, for several labels in one text.
        columns: Columns of 0 and 1, one for each label, in place of `column`.
    """

    column: str = ""
    rule: Literal["sign"] | None = None
    start: str | None = None
    where: dict[str, str] = Field(default_factory=dict)
    separator: str | None = Field(default=None, min_length=1)
    columns: Columns = ()

    @model_serializer(mode="wrap")
    def _without_later_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out keys that came after the first records while they say nothing, so that no run gets another id."""
        said: dict[str, Any] = dump(self)
        return {key: value for key, value in said.items() if value or key not in ("separator", "columns")}


class Declared(Protocol):
    """The keys of a task that a kind reads; `lora_bench.tasks.declaration.Task` explains them."""

    @property
    def kind(self) -> str: ...
    @property
    def text(self) -> tuple[str, ...]: ...
    @property
    def label(self) -> Label: ...
    @property
    def labels(self) -> tuple[str, ...] | None: ...
    @property
    def label_names(self) -> Mapping[str, str]: ...
    @property
    def linearise(self) -> Linearise | None: ...
    @property
    def spelling(self) -> str | None: ...
    @property
    def unanswerable(self) -> bool: ...
    @property
    def chat_template(self) -> str | None: ...
    @property
    def prompt(self) -> str | None: ...
    @property
    def chosen(self) -> str | None: ...
    @property
    def rejected(self) -> str | None: ...
    @property
    def empty_texts(self) -> str: ...
    @property
    def all_metrics(self) -> tuple[str, ...]: ...


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

    def note(self, faults: list[Fault], message: str, rows: Sequence[int], hint: str = "") -> None:
        """Add the fault of some rows to *faults*, if there are any; see `rows_fault`."""
        if rows:
            faults.append(self.rows_fault(message, rows, hint))

    def where(self, rows: Sequence[int]) -> Self:
        """Return the table with only these rows, given by index."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return replace(self, columns=columns, places=[self.places[row] for row in rows])


@dataclass(frozen=True)
class Examples:
    """Rows that make an example: index, id, text, label as written, value that decides the split, and subset."""

    rows: list[int]
    ids: list[str]
    texts: Texts
    labels: list[Any]
    groups: list[str]
    subsets: list[str | None]

    def where(self, keep: Sequence[bool]) -> Self:
        """Return the examples that are kept, in their order."""
        return self.at([index for index, kept in enumerate(keep) if kept])

    def renamed(self, split: str) -> Self:
        """Return the examples with the name of the split that they come from before their ids."""
        return replace(self, ids=[f"{split} {own}" for own in self.ids])

    def __add__(self, others: Self) -> Self:
        return replace(self, **{own.name: getattr(self, own.name) + getattr(others, own.name) for own in fields(self)})

    def at(self, places: Sequence[int]) -> Self:
        """Return the examples at these indexes, in this order."""
        lists = {own.name: getattr(self, own.name) for own in fields(self)}
        return replace(self, **{name: [items[place] for place in places] for name, items in lists.items()})


Encoded = tuple[list[dict[str, Any]], float]
"""The encoded examples of a split, not padded, and the share of them that was truncated."""


@dataclass(frozen=True)
class Split:
    """The examples of one split, each at the same index of every list.

    Args:
        ids: Ids by which runs are paired, unique within the split.
        texts: Texts of an example, as its kind of task makes them: one, two for a pair, or its words.
        labels: Labels as the kind numbers them, such as class indexes, numbers, or the texts to write.
        subsets: Indexes of the examples of each subset that is scored apart too, by its name.
        groups: Number of each example's group, of equal texts or as declared; empty in `train`, and where all stand alone.
    """

    ids: list[str]
    texts: Texts
    labels: list[int] | list[float] | list[tuple[Any, ...]]
    subsets: dict[str, tuple[int, ...]] = field(default_factory=dict)
    groups: list[int] = field(default_factory=list)

    @property
    def independent(self) -> int:
        """Number of independent examples: of groups, where examples belong together."""
        return len(set(self.groups)) or len(self.ids)

    @property
    def each_label(self) -> Iterator[Any]:
        """Every label of every example: several of an example that has several."""
        for label in self.labels:
            yield from label if isinstance(label, tuple) else (label,)


def has_label(value: Any, class_names: list[str] | None = None) -> bool:
    """Return False for a gap: nothing, blanks, or a list of nothing else."""
    if isinstance(value, list | tuple):
        return any(has_label(one, class_names) for one in value)
    return isinstance(value, dict) or label_text(value, class_names) is not None


def label_text(value: Any, class_names: list[str] | None) -> str | None:
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


def numbers_of(table: Table, column: str, values: Sequence[str | None], faults: list[Fault]) -> list[float | None]:
    """Return labels as numbers; note every row whose label is none."""
    numbers = [number_of(value) for value in values]
    wrong = [row for row, number in enumerate(numbers) if number is None and values[row] is not None]
    if wrong:
        shown = ", ".join(in_a_message(str(values[row])) for row in wrong[:SHOWN_VALUES])
        faults.append(table.rows_fault(f"has labels in column {column!r} that are no number ({shown})", wrong))
    return numbers


def as_data(text: str) -> Any:
    """Return the data that a text is in JSON, or as Python prints it, which pandas writes into tables; None if it is none."""
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return read(text.strip())
    return None


def in_a_message(value: str) -> str:
    """Return a value of a row for a message, cut if it is long."""
    return repr(value if len(value) <= SHOWN_CHARACTERS else f"{value[:SHOWN_CHARACTERS]}…")


def faults_of_text(table: Table, name: str, *, keep_empty: bool = False) -> Iterator[Fault]:
    """Return a fault for the rows of a column whose value is no text, and for those without one."""
    column = table.columns[name]
    wrong = [row for row, value in enumerate(column) if value is not None and not isinstance(value, str)]
    if wrong:
        value = column[wrong[0]]
        message = f"has values in column {name!r} that are no text but {type(value).__name__}"
        yield table.rows_fault(message, wrong, _as_text(name, value))
    strict = table.own and not keep_empty
    # Rows of a published data set without a text are part of it, and a user could not mend them.
    kept = table.own and keep_empty
    without = [
        row for row, value in enumerate(column) if (value is None and not kept) or (strict and not str(value).strip())
    ]
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


def normal(text: tuple[str, ...]) -> str:
    """Return a text without case, extra spaces and forms of Unicode: two texts are the same to a reader if these are equal."""
    return "\x1f".join(unicodedata.normalize("NFC", " ".join(part.split())).casefold() for part in text)
