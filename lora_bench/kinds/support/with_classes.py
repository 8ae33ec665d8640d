"""What kinds of task have in common whose labels are names of classes."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from lora_bench.documents import Key
from lora_bench.errors import Fault, did_you_mean
from lora_bench.kinds.support.label_sets import guessed_separator
from lora_bench.kinds.support.row_values import SHOWN_VALUES, Declared, Examples, Split, Table, number_of
from lora_bench.kinds.support.task_kind import TaskKind
from lora_bench.metrics import find

# More classes than this, and more than half as many as rows: the column is no label.
MAX_CLASSES_WITHOUT_DOUBT = 50


class WithClasses(TaskKind):
    """A kind whose labels are names of classes, with a word for one of them."""

    has_classes = True
    class_noun: ClassVar[str] = "class"

    def each(self, labels: Iterable[Any]) -> Iterable[Any]:
        """Return the labels of examples one by one."""
        return labels

    def faults_of_labels(self, task: Declared) -> Iterator[tuple[Key, str]]:
        yield from super().faults_of_labels(task)
        if task.label_names and task.label.rule is not None:
            yield ("label_names",), f"must go: the rule {task.label.rule!r} names the classes"
        if task.labels is not None:
            if len(set(task.labels)) < max(2, len(task.labels)):
                yield ("labels",), f"must be at least two different class names, got {list(task.labels)}"
            elif task.label.rule == "sign" and len(task.labels) != 2:
                yield ("labels",), f"must be two, the negative one first, for the rule 'sign'; got {len(task.labels)}"
            for given, name in task.label_names.items():
                if name not in task.labels:
                    hint = did_you_mean(name, task.labels)
                    yield (
                        ("label_names", given),
                        f"must be one of the classes {', '.join(task.labels)}, got {name!r}{hint}",
                    )
        elif task.label.rule is None:
            for name in task.all_metrics:
                if (found := find(name)) is not None and found.takes_classes:
                    yield ("labels",), f"is missing: {name} is that of the second class, so the order must be said"

    def class_names(self, task: Declared, table: Table, examples: Examples, faults: list[Fault]) -> tuple[str, ...]:
        """Return the class names in the order of their indexes: those of the task or the data, or the sorted labels."""
        column = task.label.column
        if task.labels is not None:
            return task.labels
        if task.label.columns:
            return task.label.columns
        if column in table.class_names:
            return tuple(table.class_names[column])
        given = list(self.each(examples.labels))
        labels = tuple(sorted(set(given), key=_as_sorted))
        if len(labels) < 2:
            few = f"has {len(labels)} {self.class_noun} in column {column!r} {list(labels)}"
            faults.append(table.fault(f"{few}; at least 2 are needed"))
        faults += (table.fault(fault) for fault in self.faults_of_found(column, labels))
        if len(labels) > MAX_CLASSES_WITHOUT_DOUBT and len(labels) > len(given) / 2:
            many = f"has {len(labels):,} different values in column {column!r} in {len(examples.labels):,} rows"
            way = f"name the column of the label, or say {_other_kinds(column, labels)}"
            faults.append(table.fault(f"{many}; {way}"))
        return labels

    def faults_of_found(self, column: str, labels: Sequence[str]) -> Iterator[str]:
        """Return what is wrong with class names that were found in a column."""
        yield from ()

    def faults_of_classes(
        self, task: Declared, table: Table, examples: Examples, classes: Sequence[str]
    ) -> Iterator[Fault]:
        known = set(classes)
        rows = [index for index, label in enumerate(examples.labels) if not known.issuperset(self.each([label]))]
        if rows:
            given = self.each(examples.labels[index] for index in rows)
            values = [value for value in dict.fromkeys(given) if value not in known]
            shown = ", ".join(map(repr, values[:SHOWN_VALUES])) + (", …" if len(values) > SHOWN_VALUES else "")
            yield table.rows_fault(
                f"has labels in column {task.label.column!r} that are not among {', '.join(classes)}: {shown}"
                f"{self.hint_at(str(values[0]), classes)}",
                [examples.rows[index] for index in rows],
            )

    def hint_at(self, value: str, classes: Sequence[str]) -> str:
        """Return a hint at what an unknown label was meant to be."""
        return did_you_mean(value, classes)

    def numbered(self, labels: Sequence[Any], classes: Sequence[str]) -> list[Any]:
        index = {label: number for number, label in enumerate(classes)}
        return [index[label] for label in labels]

    def answer_value(self, answer: Any, text: tuple[str, ...], classes: Sequence[str]) -> Any:
        return classes[answer]

    def head_arguments(self, labels: Sequence[str]) -> str:
        usual = self.problem_type == TaskKind.problem_type
        return (
            ", num_labels=len(labels), id2label=dict(enumerate(labels)), "
            "label2id={label: index for index, label in enumerate(labels)}"
            + ("" if usual else f', problem_type="{self.problem_type}"')
        )

    def constant(self, train: Split, split: Split) -> Sequence[Any] | None:
        return [most_frequent(train)] * len(split.ids)


def most_frequent(split: Split) -> Any:
    """Return the most frequent label; of equally frequent ones the least, and 0 of none."""
    counts = Counter(split.each_label)
    return min(counts, key=lambda label: (-counts[label], label), default=0)


def _as_sorted(label: str) -> tuple[bool, float, str]:
    """Return a sort key: numbers in their order before words in theirs."""
    number = number_of(label)
    return number is None, number or 0.0, label


def _other_kinds(column: str, labels: Sequence[str]) -> str:
    """Return how to declare a column with nearly as many values as rows."""
    sign = guessed_separator(labels)
    if sign is None:
        return "`kind: regression` for numbers"
    separated = f"`label: {{column: {column}, separator: {json.dumps(sign)}}}`"
    return f"`kind: regression` for numbers, or `kind: multilabel` and {separated} for several labels a row"
