"""A table with what a user says of it: columns that may be text or label, for kinds of task to be seen in it."""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from lora_bench.errors import LoraBenchError
from lora_bench.kinds.support.label_sets import as_json_list
from lora_bench.kinds.support.row_values import Table, as_data, has_label, number_of

Stage = Literal["form", "endings", "names", "labels", "classes", "texts"]
"""How a kind is seen in a table, as kinds are asked in turn: beyond doubt, by several endings of a text, by columns' names, by
a column's labels, by its few values, or by texts that nearly all differ."""
LABELLED: tuple[Stage, ...] = ("labels", "classes")
"""Stages at which a column may be the label."""

MOST_CLASSES = 100
# More different whole numbers than this are a quantity and no names of classes.
MOST_NUMBERED_CLASSES = 20
# Rows whose values tell what a column has.
SAMPLE_ROWS = 1000

SPLIT_VALUES = {
    "train": "train", "training": "train",
    "selection": "selection", "validation": "selection", "valid": "selection", "val": "selection", "dev": "selection",
    "development": "selection", "validierung": "selection",
    "test": "test", "testing": "test", "held_out": "test", "holdout": "test",
}  # fmt: skip
"""Split that a value of a column names, by the value in lower case."""

LABEL_NAMES = re.compile(
    r"(?i)((label|class|category|queue|target|sentiment|intent|topic|tag|genre|priority|rating|score|stars|y)s?"
    r"|classes|categories)"
)
_FIRST_LABELS = re.compile(r"(?i)(label|class|target|score|rating|y)s?")
_SPLIT_NAMES = re.compile(r"(?i)(data_?)?(split|set|subset|fold|teil)s?|(is_?)?(train|test|valid|dev)(_?test|_?split)?")
_MOST_FOLDS = 20
# A pair has the same name twice with 1 and 2 in it or _a and _b at its end, or two of these names.
_PAIR_NAMES = [
    ("premise", "hypothesis"), ("question", "passage"), ("question", "sentence"), ("question", "context"),
    ("question", "answer"), ("query", "passage"), ("query", "document"), ("claim", "evidence"),
]  # fmt: skip
# What may stand between several labels; longer parts are no names of labels.
_LABEL_SEPARATORS, _LONGEST_LABEL = ("|", ";", ","), 40


@dataclass(frozen=True, kw_only=True)
class LookOptions:
    """What a user says of a table; None for what is to be guessed.

    Args:
        label: Column of the label, or several columns of 0 and 1 with commas between.
        split: Column that names the split of each row.
        group: Column whose equal values stay in one split.
        time: Column by which the last rows are test.
        by: Column of the groups of a fleet.
    """

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    kind: str | None = None
    metric: str | None = None
    split: str | None = None
    group: str | None = None
    time: str | None = None
    by: str | None = None
    valid: Path | None = None
    test: Path | None = None


@dataclass(frozen=True, kw_only=True)
class GuessedTask:
    """A kind of task with its columns.

    Args:
        label: Column of the label; empty if *columns* has it.
        why: What shows the kind; empty for one class a row.
        separator: What stands between several labels of a row, if they are no lists.
        columns: Columns of 0 and 1, one for each label.
        start: Column of the first character of an answer.
        unanswerable: True if a question may have no answer.
        labels: Names of the places of endings, if they are not 0, 1 and so on.
        kind: Its name; empty for the kind that is asked.
    """

    text: tuple[str, ...]
    label: str
    why: str = ""
    separator: str | None = None
    columns: tuple[str, ...] = ()
    start: str | None = None
    unanswerable: bool = False
    labels: tuple[str, ...] = ()
    kind: str = ""


@dataclass(frozen=True)
class View:
    """A table with what is said of it; *said* receives a sentence on each guess."""

    table: Table
    asked: LookOptions
    said: list[str]

    def values(self, column: str) -> Sequence[Any]:
        """Return the values of a column that tell what it has: the first ones that are no gap."""
        return [value for value in self.table.columns[column][: 2 * SAMPLE_ROWS] if has_label(value)][:SAMPLE_ROWS]

    @property
    def free(self) -> list[str]:
        """The columns that may be text or label."""
        asked = self.asked
        taken = {asked.text, asked.text_pair, asked.label, asked.split, asked.group, asked.time, asked.by}
        return [name for name in self.table.names if name not in taken and not self.splits(name)]

    @property
    def labels(self) -> list[str]:
        """The columns that may be the label: the one that the user names, none if it names several, or the free ones."""
        label = self.asked.label
        return self.free if label is None else [label] if label in self.table.columns else []

    @cached_property
    def possible(self) -> dict[str, int]:
        """The free columns that may be a label, with the number of their different values."""
        rows = len(self.table.places)
        possible = {}
        for name in self.free:
            named = LABEL_NAMES.fullmatch(name) is not None
            sample = self.values(name)
            if not named and sample and statistics.fmean(len(str(value)) for value in sample) > _LONGEST_LABEL:
                continue  # texts, of which each stands in several rows
            values = [value for value in self.table.columns[name] if has_label(value)]
            if self._no_number(values) is not None:
                continue
            different = len(self._different(name))
            most = max(2, rows // 3) if named else min(MOST_CLASSES, max(2, rows // 3))
            are_numbers = named and (self.asked.kind == "regression" or is_quantity(values))
            if 2 <= different <= most or (different > 1 and are_numbers):
                possible[name] = different
        return possible

    def _no_number(self, values: Iterable[Any]) -> Any:
        """Return the first value that is no number, where numbers are asked for; else None."""
        asked = self.asked.kind == "regression"
        return next((value for value in values if asked and number_of(str(value)) is None), None)

    def _different(self, column: str) -> set[str]:
        """Return the different values of a column, or its labels if it is named like one and has several a row."""
        values = [value for value in self.table.columns[column] if has_label(value)]
        several = several_labels(values)[0] if LABEL_NAMES.fullmatch(column) is not None else []
        return set(chain.from_iterable(several) if several else map(str, values))

    def texts(self, *others: str | None) -> list[str]:
        """Return the free columns with texts, but for *others*; those with words first, and of these the longest."""
        found = {}
        for name in self.free:
            values = self.values(name)
            if name in others or not values or not all(isinstance(value, str) for value in values):
                continue
            if any(number_of(value) is None and as_data(value) is None for value in values[:50]):
                words = any(" " in value or not value.isascii() for value in values)
                found[name] = (words, statistics.fmean(map(len, values)))
        return sorted(found, key=lambda name: found[name], reverse=True)

    def splits(self, column: str) -> bool:
        """Return True if a column names splits or folds of the rows, and so is no label."""
        values = {str(value).strip().casefold() for value in self.values(column)}
        if 0 < len(values) <= len(SPLIT_VALUES) and all(value in SPLIT_VALUES for value in values):
            return True
        return _SPLIT_NAMES.fullmatch(column) is not None and len(values) <= _MOST_FOLDS

    @cached_property
    def label(self) -> str:
        """Return the column that is likely the label: named like one, else that of the fewest different values."""
        if self.asked.label is not None:
            return self.asked.label
        possible = self.possible
        if not possible:
            raise self.no_label()
        ranks = {
            name: (LABEL_NAMES.fullmatch(name) is None, _FIRST_LABELS.fullmatch(name) is None) for name in possible
        }
        name = min(possible, key=lambda name: (*ranks[name], possible[name]))
        self.said.append(f"guessed: the label is {name} ({possible[name]} different values); --label names another")
        return name

    @cached_property
    def given(self) -> list[Any]:
        """The labels of all rows that have one."""
        return [value for value in self.table.columns[self.label] if has_label(value)]

    def labelled(self, why: str = "", separator: str | None = None) -> GuessedTask:
        """Return the task of the label and the columns of the text."""
        return GuessedTask(text=self.text_columns(self.label), label=self.label, why=why, separator=separator)

    def text_columns(self, *labels: str | None) -> tuple[str, ...]:
        """Return the columns of the text: as named, a pair of like names with no other text beside, or the longest text."""
        asked = self.asked
        if asked.text is not None:
            return (asked.text,) if asked.text_pair is None else (asked.text, asked.text_pair)
        telling = {name for label in labels if label is not None for name in same_as(self.table, label)}
        texts = [name for name in self.texts(*labels) if name not in telling]
        if not texts:
            texts = [name for name in self.free if name not in {*labels, *telling}]
        if not texts:
            raise LoraBenchError(f"no column of {self.table.shown} is left for the text; name it with --text")
        for name in sorted(telling):
            self.said.append(f"{name} gives {' and '.join(filter(None, labels))} away and is not used")
        pair = _pair(texts) if asked.text_pair is None else None
        if pair is not None and all(name in pair or not self.all_differ(name) for name in texts):
            self.said.append(
                f"guessed: the text is a pair, {pair[0]} and {pair[1]}; --text and --text-pair name others"
            )
            return pair
        self.say_text(texts[0])
        return (texts[0],) if asked.text_pair is None else (texts[0], asked.text_pair)

    def say_text(self, name: str) -> None:
        if self.asked.text is None:
            length = statistics.fmean(len(str(value)) for value in self.values(name) or [""])
            self.said.append(f"guessed: the text is {name} ({length:.0f} characters on average); --text names another")

    def all_differ(self, column: str) -> bool:
        values = [str(value) for value in self.table.columns[column] if has_label(value)]
        return len(set(values)) >= 0.7 * len(values)

    def is_prose(self, column: str) -> bool:
        """Return True for texts of several words that nearly all differ, as no names of classes do."""
        values = self.values(column)
        words = all(isinstance(value, str) for value in values) and any(" " in value for value in values)
        return words and self.all_differ(column) and statistics.fmean(len(value.split()) for value in values) >= 3

    def no_label(self) -> LoraBenchError:
        """Return the error of a table without a label, with what is wrong with a column that is named like one."""
        columns, rows, hint = ", ".join(self.table.names), len(self.table.places), ""
        for name in (name for name in self.free if name not in self.possible):
            known = self._different(name)
            has = "no value" if not known else f"{len(known):,} different values in {rows:,} rows, too many for classes"
            if (word := self._no_number(filter(has_label, self.table.columns[name]))) is not None:
                has = f"{word!r}, which is no number"
            elif len(known) == 1:
                has = f"one class, {next(iter(known))!r}, and 2 are the least"
                hint = hint or f"; column {name!r} has {has}"
            if LABEL_NAMES.fullmatch(name) is not None:
                return LoraBenchError(
                    f"column {name!r} of {self.table.shown} has {has}; --label names a label ({columns})"
                )
        return LoraBenchError(
            f"no column of {self.table.shown} looks like a label; name it with --label ({columns}){hint}"
        )


def several_labels(values: Sequence[Any]) -> tuple[list[tuple[str, ...]], str | None]:
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


def is_quantity(values: Iterable[Any]) -> str:
    """Return what shows that values are a quantity: fractions, or many different numbers; nothing if they name classes."""
    different = {str(value).strip() for value in values}
    numbers = sorted(number for text in different if (number := number_of(text)) is not None)
    if len(numbers) < max(2, len(different)):
        return ""
    fraction = next((number for number in numbers if not number.is_integer()), None)
    if fraction is not None:
        return f"numbers such as {fraction:g}"
    return f"{len(different):,} different numbers" if len(different) > MOST_NUMBERED_CLASSES else ""


def _pair(texts: Sequence[str]) -> tuple[str, str] | None:
    """Return two columns whose names are those of a pair."""
    names = {name.casefold(): name for name in texts}
    for one in names:
        for other in (one.replace("1", "2", 1), f"{one[:-1]}b" if one.endswith("_a") else one):
            if other != one and other in names:
                return names[one], names[other]
    return next(((names[one], names[other]) for one, other in _PAIR_NAMES if {one, other} <= names.keys()), None)


def same_as(table: Table, label: str) -> list[str]:
    """Return the other columns that say the same as a label of few values: each value of one stands beside one of the other."""
    of_label = [str(value) for value in table.columns.get(label, [])]
    if not 2 <= len(set(of_label)) <= len(of_label) / 2:
        return []
    found = []
    for name, values in table.columns.items():
        pairs = set(zip(of_label, map(str, values), strict=True))
        if name != label and len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs}):
            found.append(name)
    return found
