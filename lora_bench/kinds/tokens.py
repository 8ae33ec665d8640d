"""Labels of words, such as the tags of named entities: each word of a text has one label."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from lora_bench.documents import Key
from lora_bench.errors import Fault
from lora_bench.kinds.support.row_values import LEAVE_OUT, Declared, Split, Table, Texts, as_data, label_text
from lora_bench.kinds.support.table_view import MOST_CLASSES, SAMPLE_ROWS, GuessedTask, Stage, View
from lora_bench.kinds.support.task_kind import ModelNames
from lora_bench.kinds.support.with_classes import WithClasses, most_frequent

_TAG_NAMES = re.compile(r"(?i)(ner[ _]?)?(tag|label)s?|ner")


class Tokens(WithClasses):
    """An answer is the list of the names of its words' labels."""

    model_names = ModelNames("TokenClassification", "TOKEN_CLS", "token-classification")
    exercise = "word_labelling.Tagging"
    metric_kinds = ("tokens",)
    usual_metric = "seqeval_f1"
    label_axes = ("rows", "length")

    def seen_in(self, view: View, stage: Stage) -> GuessedTask | None:
        """Find words and tags: two columns of lists, or of texts with spaces, that are equally long in nearly all rows."""
        if stage != "form":
            return None
        asked = view.asked
        words = _lists(view, [asked.text] if asked.text else view.free)
        tags = _lists(view, view.labels)
        vocabulary = {name: set(map(str, chain.from_iterable(lists))) for name, lists in (words | tags).items()}
        for of_words in sorted(words, key=lambda name: -len(vocabulary[name])):
            for of_tags in sorted(tags, key=lambda name: _TAG_NAMES.fullmatch(name) is None):
                rows = [pair for pair in zip(words[of_words], tags[of_tags], strict=True) if pair[0] and pair[1]]
                even = sum(len(one) == len(other) for one, other in rows)
                several = sum(len(one) > 1 for one, _ in rows)
                few = len(vocabulary[of_tags]) <= min(MOST_CLASSES, len(vocabulary[of_words]) - 1)
                if of_words != of_tags and few and several > len(rows) / 2 and even >= 0.95 * len(rows):
                    why = f"{of_tags} has a tag for each word of {of_words}"
                    return GuessedTask(text=(of_words,), label=of_tags, why=why)
        return None

    def each(self, labels: Iterable[Any]) -> Iterable[Any]:
        return chain.from_iterable(labels)

    def faults_of_text(self, task: Declared) -> Iterator[tuple[Key, str]]:
        if len(task.text) != 1:
            yield ("text",), f"must be one column for {self.name}, got {len(task.text)}"

    def texts(self, task: Declared, table: Table, faults: list[Fault]) -> Texts:
        """Return the words of each row; note every row without a list of words."""
        column = task.text[0]
        found: list[tuple[str, ...]] = []
        wrong, without = [], []
        for row, value in enumerate(table.columns[column]):
            words = [str(word) if type(word) in (int, float) else word for word in _listed(value) or ()]
            if value is not None and (_listed(value) is None or not all(isinstance(word, str) for word in words)):
                wrong.append(row)
                words = []
            elif not any(word.strip() for word in words):
                without.append(row)
                words = []
            found.append(tuple(words))
        hint = "; give a list, JSON text of one, or words separated by spaces"
        table.note(faults, f"has values in column {column!r} that are no list of words", wrong, hint)
        table.note(faults, f"has no words in column {column!r}", without)
        return found

    def labels(self, task: Declared, table: Table, texts: Texts, faults: list[Fault]) -> list[Any]:
        """Return the labels of the words of each row; note every row without one label for each word."""
        column = task.label.column
        names = table.class_names.get(column)
        found: list[tuple[str | None, ...]] = []
        no_list, uneven, without = [], [], []
        for row, value in enumerate(table.columns[column]):
            given = _listed(value)
            tags = tuple(label_text(one, names) if not isinstance(one, list | dict) else None for one in given or ())
            tags = tuple(task.label_names.get(tag, tag) if tag is not None else None for tag in tags)
            if given is None:
                no_list.append(row)
            elif texts[row] and len(tags) != len(texts[row]):
                uneven.append(row)
            elif None in tags:
                without.append(row)
            found.append(tags)
        table.note(faults, f"has no list of labels in column {column!r}", no_list, LEAVE_OUT)
        if uneven:
            first = uneven[0]
            pair = f"{len(found[first])} in column {column!r} for {len(texts[first])} in column {task.text[0]!r}"
            hint = "; give one label for each word: two lists, or two texts separated by spaces"
            faults.append(table.rows_fault(f"has other numbers of labels than of words, such as {pair},", uneven, hint))
        table.note(faults, f"has words without a label in column {column!r}", without)
        return found

    def inputs(self, split: Split, *, apart: bool) -> Iterable[tuple[str, ...]] | None:
        return ((" ".join(words),) for words in split.texts)

    def numbered(self, labels: Sequence[Any], classes: Sequence[str]) -> list[Any]:
        return list(labels)

    def answer_value(self, answer: Any, text: tuple[str, ...], classes: Sequence[str]) -> Any:
        return answer

    def constant(self, train: Split, split: Split) -> Sequence[Any] | None:
        most, right = most_frequent(train), list[Any](split.labels)
        return [[most] * len(each) for each in right]


def _lists(view: View, names: Iterable[str]) -> dict[str, list[list[Any]]]:
    """Return the lists of the first rows of each column that has lists, or texts of several words."""
    found = {}
    for name in names:
        lists = [_listed(value) or [] for value in view.table.columns[name][:SAMPLE_ROWS]]
        if any(len(one) > 1 for one in lists) and not any(isinstance(word, Mapping) for one in lists for word in one):
            found[name] = lists
    return found


def _listed(value: Any) -> list[Any] | None:
    """Return the list that a value of a table stands for, or None if it stands for none."""
    if isinstance(value, str):
        data = as_data(value) if value.lstrip().startswith("[") else None
        return data if isinstance(data, list) else value.split()
    return list(value) if isinstance(value, Sequence) else None


KIND = Tokens()
