"""Classification: a text, or a pair of texts, has one class."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from lora_bench.documents import Key
from lora_bench.errors import Fault
from lora_bench.kinds.support.label_sets import as_json_list, several_in
from lora_bench.kinds.support.row_values import Declared, Examples, Table, Texts, numbers_of
from lora_bench.kinds.support.table_view import GuessedTask, Stage, View
from lora_bench.kinds.support.with_classes import WithClasses

SIGNS = ("negative", "positive")


class Classification(WithClasses):
    """An answer is the index of a class."""

    exercise = "labelling.Labelling"
    metric_kinds = ("classification", "probabilities")
    usual_metric = "accuracy"
    reads_one_token = True
    weighs_classes = True
    word_model = "logistic"
    python_answer = "model.config.id2label[model(**inputs).logits.argmax().item()]"
    own_keys: ClassVar[Mapping[Key, str]] = {("label", "rule"): "makes classes, but the kind is {kind}"}

    def seen_in(self, view: View, stage: Stage) -> GuessedTask | None:
        guesses = view.asked.kind is None and view.asked.label is not None
        return view.labelled() if stage == "classes" and not (guesses and view.is_prose(view.label)) else None

    def labels(self, task: Declared, table: Table, texts: Texts, faults: list[Fault]) -> list[Any]:
        """Return the class of each row; by the rule "sign" that of its number, and None for a zero."""
        values = super().labels(task, table, texts, faults)
        if task.label.rule is None:
            return values
        negative, positive = task.labels or SIGNS
        numbers = numbers_of(table, task.label.column, values, faults)
        return [
            positive if number > 0 else negative if number < 0 else None for number in (one or 0 for one in numbers)
        ]

    def makes_example(self, label: Any) -> bool:
        """Return False for a number that has no sign."""
        return label is not None

    def class_names(self, task: Declared, table: Table, examples: Examples, faults: list[Fault]) -> tuple[str, ...]:
        if task.labels is None and task.label.rule is not None:
            return SIGNS
        return super().class_names(task, table, examples, faults)

    def faults_of_found(self, column: str, labels: Sequence[str]) -> Iterator[str]:
        listed = [label for label in labels if as_json_list(label) is not None]
        if listed:
            way = "for several labels a row say `kind: multilabel`"
            yield f"has lists in column {column!r}, such as {listed[0]}; {way}"

    def hint_at(self, value: str, classes: Sequence[str]) -> str:
        """Return how an unknown label is read as several of the classes, or the nearest class."""
        way = several_in(value, frozenset(classes))
        return super().hint_at(value, classes) if way is None else f"; for several labels a row say {way}"

    def warnings_of_classes(self, classes: Sequence[str]) -> Iterator[str]:
        names = frozenset(classes)
        for label in classes:
            if (way := several_in(label, names)) is not None:
                yield f"the label {label!r} is one class of its own; if it is several of the others, say {way}"


KIND = Classification()
