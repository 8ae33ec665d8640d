"""Guesses what a table is made for: the kind of task, and the columns of its text and label.

Each kind that shows in the values has a function here. The first that finds its columns names the kind: conversations, answers
in a text, tags of words and endings show beyond doubt; a class, a number or several labels need a column of few values; texts
to write are left where no column has them.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.kinds.support.answer_spans import NotInText, spans_of
from lora_bench.kinds.support.label_sets import FLAGS, as_json_list
from lora_bench.kinds.support.row_table import Table
from lora_bench.kinds.support.row_values import as_data, has_label, label_text, number_of
from lora_bench.kinds.support.word_lists import listed
from lora_bench.tasks.dealing import SPLIT_VALUES

MOST_CLASSES = 100
# More different whole numbers than this are a quantity and no names of classes.
MOST_NUMBERED_CLASSES = 20
# Rows whose values tell what a column has.
SAMPLE_ROWS = 1000

_LABEL_NAMES = re.compile(
    r"(?i)((label|class|category|queue|target|sentiment|intent|topic|tag|genre|priority|rating|score|stars|y)s?"
    r"|classes|categories)"
)
_FIRST_LABELS = re.compile(r"(?i)(label|class|target|score|rating|y)s?")
_SPLIT_NAMES = re.compile(r"(?i)(data_?)?(split|set|subset|fold|teil)s?|(is_?)?(train|test|valid|dev)(_?test|_?split)?")
_MOST_FOLDS = 20
_ANSWER_NAMES = re.compile(r"(?i)answers?(_text)?|spans?")
_QUESTION_NAMES = re.compile(r"(?i)(question|query|frage)s?")
_TAG_NAMES = re.compile(r"(?i)(ner[ _]?)?(tag|label)s?|ner")
_START_NAMES = re.compile(r"(?i)((answer|span)_?)?(start|begin)")
_ENDING_NAMES = re.compile(r"(?i)(ending|choice|option|answer)[ _]?([0-9a-f])")
_WRITTEN_NAMES = re.compile(
    r"(?i)outputs?|completions?|responses?|summar(y|ies)|highlights|ref(erence)?s?|translations?|headlines?|target_text"
)
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
        text: Column of the text.
        text_pair: Column of a second text.
        label: Column of the label, or several columns of 0 and 1 with commas between.
        kind: Kind of the task.
        metric: Metric.
        split: Column that names the split of each row.
        group: Column whose equal values stay in one split.
        time: Column by which the last rows are test.
        valid: File of the selection split.
        test: File of the test split.
    """

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    kind: str | None = None
    metric: str | None = None
    split: str | None = None
    group: str | None = None
    time: str | None = None
    valid: Path | None = None
    test: Path | None = None


@dataclass(frozen=True, kw_only=True)
class GuessedTask:
    """A kind of task with its columns.

    Args:
        kind: Its name.
        text: Columns of the text.
        label: Column of the label; empty if *columns* has it.
        why: What shows the kind; empty for one class a row.
        separator: What stands between several labels of a row, if they are no lists.
        columns: Columns of 0 and 1, one for each label.
        start: Column of the first character of an answer.
        unanswerable: True if a question may have no answer.
        labels: Names of the places of endings, if they are not 0, 1 and so on.
    """

    kind: str
    text: tuple[str, ...]
    label: str
    why: str = ""
    separator: str | None = None
    columns: tuple[str, ...] = ()
    start: str | None = None
    unanswerable: bool = False
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """A table with what is said of it.

    Args:
        table: All columns.
        asked: What the user says.
        said: Receives a sentence on each guess.
    """

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
        taken = {asked.text, asked.text_pair, asked.label, asked.split, asked.group, asked.time}
        return [name for name in self.table.names if name not in taken and not self.splits(name)]

    @property
    def labels(self) -> list[str]:
        """The columns that may be the label: the one that the user names, or the free ones."""
        label = self.asked.label
        return self.free if label is None or label not in self.table.columns else [label]

    @cached_property
    def possible(self) -> dict[str, int]:
        """The free columns that may be a label, with the number of their different values."""
        rows = len(self.table.places)
        possible = {}
        for name in self.free:
            named = _LABEL_NAMES.fullmatch(name) is not None
            sample = self.values(name)
            if not named and sample and statistics.fmean(len(str(value)) for value in sample) > _LONGEST_LABEL:
                continue  # texts, of which each stands in several rows
            values = [value for value in self.table.columns[name] if has_label(value)]
            if self.asked.kind == "regression" and any(number_of(str(value)) is None for value in values):
                continue
            several = several_labels(values)[0] if named else []
            different = len(set(chain.from_iterable(several) if several else map(str, values)))
            most = max(2, rows // 3) if named else min(MOST_CLASSES, max(2, rows // 3))
            if 2 <= different <= most or (named and different > 1 and is_quantity(values)):
                possible[name] = different
        return possible

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


def guess_task(view: View) -> GuessedTask:
    """Return the kind of a table and its columns; what the user names is kept.

    Raises:
        LoraBenchError: If no column can be the text or the label.
    """
    asked = view.asked
    for name in view.table.names:
        if name != asked.split and name not in (asked.label, asked.text, asked.group) and view.splits(name):
            named = any(str(value).strip().casefold() in SPLIT_VALUES for value in view.values(name))
            way = f"--split {name} keeps to them" if named else f"--group {name} keeps equal values together"
            view.said.append(f"guessed: {name} names splits and is no label; {way}")
    for kinds, find in _WAYS:
        if asked.kind in (None, *kinds) and (found := find(view)) is not None:
            return found
    if asked.kind is not None:
        return GuessedTask(kind=asked.kind, text=_texts(view, asked.label), label=asked.label or _label(view))
    raise _no_label(view)


def _no_label(view: View) -> LoraBenchError:
    """Return the error of a table without a label, with what is wrong with a column that is named like one."""
    columns, rows = ", ".join(view.table.names), len(view.table.places)
    for name in sorted(view.free, key=lambda name: _LABEL_NAMES.fullmatch(name) is None):
        known, named = (
            set(map(str, filter(has_label, view.table.columns[name]))),
            _LABEL_NAMES.fullmatch(name) is not None,
        )
        has = "no value" if not known else f"{len(known):,} different values in {rows:,} rows, too many for classes"
        if len(known) == 1:
            has = f"one class, {next(iter(known))!r}, and 2 are the least"
        if named or len(known) == 1:
            return LoraBenchError(f"column {name!r} of {view.table.shown} has {has}; --label names a label ({columns})")
    return LoraBenchError(f"no column of {view.table.shown} looks like a label; name it with --label ({columns})")


def _conversations(view: View) -> GuessedTask | None:
    if view.asked.label is not None:
        return None
    for name in [view.asked.text] if view.asked.text else view.free:
        lists = [as_json_list(value) if isinstance(value, str) else value for value in view.values(name)]
        if lists and all(_is_conversation(one) for one in lists):
            return GuessedTask(kind="chat", text=(name,), label=name, why=f"{name} has messages with roles")
    return None


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, Mapping) and "role" in one for one in value)


def _answers(view: View) -> GuessedTask | None:
    asked = view.asked
    for name in view.labels:
        values = view.values(name)
        given = [as_data(value) if isinstance(value, str) and value.lstrip()[:1] == "{" else value for value in values]
        whole = bool(given) and all(isinstance(one, Mapping) and "text" in one for one in given)
        if not whole and asked.kind != "spans" and _ANSWER_NAMES.fullmatch(name) is None:
            continue
        texts = [asked.text_pair] if asked.text_pair else view.texts(name, asked.text)
        holder = next((column for column in texts if _stand(view, name, column)), None)
        others = [asked.text] if asked.text else view.texts(name, holder)
        question = next((column for column in others if _QUESTION_NAMES.fullmatch(column)), None)
        if question is None and others and (whole or asked.text):
            question = others[0]
        if holder is not None and question is not None:
            start = next((one for one in view.free if _START_NAMES.fullmatch(one)), None) if not whole else None
            start = start if start is not None and _stand(view, name, holder, start) else None
            unanswerable = whole and any(not one["text"] for one in given)
            return GuessedTask(
                kind="spans", text=(question, holder), label=name, start=start, unanswerable=unanswerable,
                why=f"the answers in {name} stand in {holder}",
            )  # fmt: skip
    return None


def _stand(view: View, answers: str, column: str, start: str | None = None) -> bool:
    """Return True if nearly all answers stand in the texts of a column, and most texts are more than that."""
    columns = view.table.columns
    stand = count = 0
    for row, value in enumerate(columns[answers][:SAMPLE_ROWS]):
        text = columns[column][row]
        if not has_label(value) or not isinstance(text, str):
            continue
        count += 1
        try:
            spans = spans_of(value, columns[start][row] if start is not None else None, text)
        except NotInText:
            continue
        stand += all(behind - first < len(text) for first, behind in spans)
    return count > 0 and stand >= 0.9 * count


def _word_tags(view: View) -> GuessedTask | None:
    """Find words and tags: two columns of lists, or of texts with spaces, that are equally long in nearly all rows."""
    asked = view.asked
    words = _lists(view, [asked.text] if asked.text else view.free)
    tags = _lists(view, view.labels)
    vocabulary = {name: _different(lists) for name, lists in (words | tags).items()}
    for of_words in sorted(words, key=lambda name: -len(vocabulary[name])):
        for of_tags in sorted(tags, key=lambda name: _TAG_NAMES.fullmatch(name) is None):
            rows = [pair for pair in zip(words[of_words], tags[of_tags], strict=True) if pair[0] and pair[1]]
            even = sum(len(one) == len(other) for one, other in rows)
            several = sum(len(one) > 1 for one, _ in rows)
            few = len(vocabulary[of_tags]) <= min(MOST_CLASSES, len(vocabulary[of_words]) - 1)
            if of_words != of_tags and few and several > len(rows) / 2 and even >= 0.95 * len(rows):
                why = f"{of_tags} has a tag for each word of {of_words}"
                return GuessedTask(kind="tokens", text=(of_words,), label=of_tags, why=why)
    return None


def _lists(view: View, names: Iterable[str]) -> dict[str, list[list[Any]]]:
    """Return the lists of the first rows of each column that has lists, or texts of several words."""
    found = {}
    for name in names:
        lists = [listed(value) or [] for value in view.table.columns[name][:SAMPLE_ROWS]]
        if any(len(one) > 1 for one in lists) and not any(isinstance(word, Mapping) for one in lists for word in one):
            found[name] = lists
    return found


def _different(lists: Iterable[Iterable[Any]]) -> set[str]:
    return set(map(str, chain.from_iterable(lists)))


def _endings(view: View) -> GuessedTask | None:
    """Find endings: columns such as ending0 to ending3, and a label that is the place of one."""
    asked = view.asked
    named = [match for name in view.table.names if (match := _ENDING_NAMES.fullmatch(name)) is not None]
    stems = {match[1] for match in named}
    if len(named) < 2 or len(stems) != 1:
        return None
    endings = [match[0] for match in named]
    for name in view.labels:
        known = {label_text(value, None) for value in view.values(name)}
        for places in ([str(place) for place in range(len(named))], [match[2] for match in named]):
            if name not in endings and known and known <= {*places, *map(str.upper, places)}:
                cased = tuple(place if place in known else place.upper() for place in places)
                text = asked.text or next(iter(view.texts(name, *endings)), None)
                if text is not None:
                    why = f"{name} is the place of one of {len(named)} {next(iter(stems))}s"
                    labels = () if places[0] == "0" else cased
                    return GuessedTask(
                        kind="multiple_choice", text=(text, *endings), label=name, why=why, labels=labels
                    )
    return None


def _flags(view: View) -> GuessedTask | None:
    """Find columns of 0 and 1 that are several labels, where no column is named like a label."""
    asked = view.asked
    if asked.label is not None:
        columns = tuple(part.strip() for part in asked.label.split(","))
        if asked.label in view.table.columns or len(columns) < 2:
            return None
    else:
        flags = {name: {str(value).strip().lower() for value in view.values(name)} for name in view.free}
        columns = tuple(name for name, values in flags.items() if len(values) == 2 and values <= FLAGS.keys())
        others = [name for name in view.possible if name not in columns]
        named = any(_LABEL_NAMES.fullmatch(name) for name in [*columns, *others])
        if len(columns) < 2 or (asked.kind is None and (named or (len(columns) == 2 and others))):
            return None
    why = f"{len(columns)} columns ({', '.join(columns[:4])}{', …' if len(columns) > 4 else ''}) say 0 or 1"
    return GuessedTask(kind="multilabel", text=_texts(view, *columns), label="", columns=columns, why=why)


def _named_output(view: View) -> GuessedTask | None:
    """Find a text to write by its name, where no column is named like a label."""
    if view.asked.label is not None or any(map(_LABEL_NAMES.fullmatch, view.possible)):
        return None
    written = [name for name in view.texts() if _WRITTEN_NAMES.fullmatch(name) and _all_differ(view, name)]
    return _written(view, written[0]) if written else None


def _labelled(view: View) -> GuessedTask | None:
    """Find a column of classes, numbers or several labels."""
    asked = view.asked
    if asked.label is None and not view.possible:
        return None
    label = asked.label or _label(view)
    values = [value for value in view.table.columns[label] if has_label(value)]
    several, separator = several_labels(values)
    if asked.kind is None and not several and asked.label is not None and _is_prose(view, label):
        return None
    kind, why = "classification", ""
    if several:
        between = "" if separator is None else f", separated by {separator!r}"
        kind, why = "multilabel", f"{label} has several labels a row{between}"
    elif numbers := is_quantity(values):
        kind, why = "regression", f"{label} has {numbers}"
    kind = asked.kind or kind
    separator = separator if kind == "multilabel" else None
    return GuessedTask(kind=kind, text=_texts(view, label), label=label, why=why, separator=separator)


def _to_write(view: View) -> GuessedTask | None:
    """Find two columns of texts that are nearly all different: the input, and the text to write."""
    asked = view.asked
    if asked.label is not None:
        return _written(view, asked.label)
    texts = view.texts()
    # The input is the longest, unless it alone is different in nearly all rows: several texts may be written for an input.
    prose = [name for name in (texts if asked.text is not None else [*texts[1:], *texts[:1]]) if _is_prose(view, name)]
    named = [name for name in texts if _WRITTEN_NAMES.fullmatch(name) and _all_differ(view, name)]
    written = [*named, *(name for name in prose if _LABEL_NAMES.fullmatch(name)), *prose]
    if asked.kind is not None:
        written += texts[1:] or texts
    return _written(view, written[0]) if written and len(texts) + (asked.text is not None) > 1 else None


def _written(view: View, label: str) -> GuessedTask | None:
    texts = [view.asked.text] if view.asked.text is not None else view.texts(label)
    if not texts or (view.asked.kind is None and not any(" " in str(value) for value in view.values(texts[0]))):
        return None
    text = texts[0]
    _say_text(view, text)
    kind = view.asked.kind or "generation"
    return GuessedTask(kind=kind, text=(text,), label=label, why=f"{label} has texts that nearly all differ")


def _all_differ(view: View, column: str) -> bool:
    values = [str(value) for value in view.table.columns[column] if has_label(value)]
    return len(set(values)) >= 0.7 * len(values)


def _is_prose(view: View, column: str) -> bool:
    """Return True for texts of several words that nearly all differ, as no names of classes do."""
    values = view.values(column)
    words = all(isinstance(value, str) for value in values) and any(" " in value for value in values)
    return words and _all_differ(view, column) and statistics.fmean(len(value.split()) for value in values) >= 3


_Way = Callable[[View], GuessedTask | None]
_WAYS: list[tuple[tuple[str, ...], _Way]] = [
    (("chat",), _conversations),
    (("spans",), _answers),
    (("tokens",), _word_tags),
    (("multiple_choice",), _endings),
    (("generation", "chat"), _named_output),
    (("multilabel",), _flags),
    (("classification", "regression", "multilabel"), _labelled),
    (("generation", "chat"), _to_write),
]


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


def _label(view: View) -> str:
    """Return the column that is likely the label: named like one, else that of the fewest different values."""
    possible = view.possible
    if not possible:
        raise _no_label(view)
    ranks = {name: (_LABEL_NAMES.fullmatch(name) is None, _FIRST_LABELS.fullmatch(name) is None) for name in possible}
    name = min(possible, key=lambda name: (*ranks[name], possible[name]))
    view.said.append(f"guessed: the label is {name} ({possible[name]} different values); --label names another")
    return name


def _texts(view: View, *labels: str | None) -> tuple[str, ...]:
    """Return the columns of the text: as named, a pair of like names with no other text beside, or the longest text."""
    asked = view.asked
    if asked.text is not None:
        return (asked.text,) if asked.text_pair is None else (asked.text, asked.text_pair)
    telling = {name for label in labels if label is not None for name in same_as(view.table, label)}
    texts = [name for name in view.texts(*labels) if name not in telling]
    if not texts:
        texts = [name for name in view.free if name not in {*labels, *telling}]
    if not texts:
        raise LoraBenchError(f"no column of {view.table.shown} is left for the text; name it with --text")
    for name in sorted(telling):
        view.said.append(f"{name} gives {' and '.join(filter(None, labels))} away and is not used")
    pair = _pair(texts) if asked.text_pair is None else None
    if pair is not None and all(name in pair or not _all_differ(view, name) for name in texts):
        view.said.append(f"guessed: the text is a pair, {pair[0]} and {pair[1]}; --text and --text-pair name others")
        return pair
    _say_text(view, texts[0])
    return (texts[0],) if asked.text_pair is None else (texts[0], asked.text_pair)


def _say_text(view: View, name: str) -> None:
    if view.asked.text is None:
        length = statistics.fmean(len(str(value)) for value in view.values(name) or [""])
        view.said.append(f"guessed: the text is {name} ({length:.0f} characters on average); --text names another")


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
