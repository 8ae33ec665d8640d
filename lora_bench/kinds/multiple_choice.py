"""Multiple choice, as in SWAG: one of several endings of a text is right.

`text` names the text and a column for each ending, or one with lists of them. The label is the place of the right ending, from
0, or one of the names in `labels`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lora_bench.documents import Key
from lora_bench.errors import Fault
from lora_bench.kinds.support.label_sets import as_json_list
from lora_bench.kinds.support.row_values import Declared, Examples, Split, Table, Texts, faults_of_text, label_text
from lora_bench.kinds.support.table_view import GuessedTask, Stage, View
from lora_bench.kinds.support.task_kind import ModelNames, Shape
from lora_bench.kinds.support.with_classes import WithClasses
from lora_bench.metrics import find

_ENDING_NAMES = re.compile(r"(?i)(ending|choice|option|answer)[ _]?([0-9a-f])")


class MultipleChoice(WithClasses):
    """An answer is the index of an ending. A class is the place of an ending, so all rows have as many endings.

    PEFT has no task type for it. Its plain `PeftModel` passes a batch on as it is, and the head is trained as that of any task.
    """

    exercise = "choosing.Choosing"
    model_names = ModelNames("MultipleChoice", None, "multiple-choice")
    metric_kinds = ("classification",)
    usual_metric = "accuracy"
    packs = False  # a pack mixes the rows of its members, and the endings of a text stand together
    shares_rows = False

    def seen_in(self, view: View, stage: Stage) -> GuessedTask | None:
        """Find endings: columns such as ending0 to ending3, and a label that is the place of one."""
        if stage != "endings":
            return None
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
                        return GuessedTask(text=(text, *endings), label=name, why=why, labels=labels)
        return None

    def head_options(self, labels: int) -> dict[str, int | str]:
        """Return none: the head has one output for each ending, however many there are."""
        return {}

    def batch_shapes(self, rows: int, length: int, labels: int, text: int | None = None) -> dict[str, Shape]:
        """Return the shape of each tensor of a batch, in which each example has a row for each ending."""
        shape = (rows, labels, length)
        return {"input_ids": shape, "attention_mask": shape, "labels": (rows,)}

    def rows_of_example(self, labels: int) -> int:
        return labels

    def shown(self, labels: int) -> str:
        return f"{self.name} of {labels}"

    def head_arguments(self, labels: Sequence[str]) -> str:
        return ""

    def faults_of_text(self, task: Declared) -> Iterator[tuple[Key, str]]:
        if len(set(task.text)) < max(2, len(task.text)):
            yield (
                ("text",),
                f"must be the column of the text and those of its endings, or one with lists of them; got {list(task.text)}",
            )

    def faults_of_labels(self, task: Declared) -> Iterator[tuple[Key, str]]:
        """Return the faults of a task's label, and metrics of one class: no ending is the positive one."""
        yield from super().faults_of_labels(task)
        for name in task.all_metrics:
            if (found := find(name)) is not None and found.takes_classes:
                yield ("metric",), f"{name} is that of the second class, and no ending is: say accuracy"

    def texts(self, task: Declared, table: Table, faults: list[Fault]) -> Texts:
        """Return the text of each row and its endings; note every row without endings, or with more than another."""
        first, *others = task.text
        if len(others) > 1:
            return super().texts(task, table, faults)
        faults += faults_of_text(table, first, keep_empty=task.empty_texts == "keep")
        found: list[list[str]] = []
        for value in table.columns[others[0]]:
            given: Any = as_json_list(value) if isinstance(value, str) else value
            whole = isinstance(given, list | tuple) and all(isinstance(one, str) and one.strip() for one in given)
            found.append(list(given) if whole else [])
        without = [row for row, endings in enumerate(found) if len(endings) < 2]
        hint = "; give a list of texts, or JSON of one"
        table.note(faults, f"has fewer than two endings in column {others[0]!r}", without, hint)
        uneven = [row for row, endings in enumerate(found) if len(endings) not in (len(found[0]), 0, 1)]
        if uneven and not without:
            message = (
                f"has {len(found[uneven[0]])} endings in column {others[0]!r}, and {len(found[0])} in the first row,"
            )
            faults.append(table.rows_fault(message, uneven, "; each row needs as many"))
        return [(str(text), *endings) for text, endings in zip(table.columns[first], found, strict=True)]

    def texts_to_answer(self, task: Declared, table: Table, classes: Sequence[str], faults: list[Fault]) -> Texts:
        texts = self.texts(task, table, faults)
        other = [row for row, text in enumerate(texts) if len(text) - 1 not in (0, len(classes))]
        table.note(faults, f"has another number of endings than the {len(classes)} that the model learned,", other)
        return texts

    def class_names(self, task: Declared, table: Table, examples: Examples, faults: list[Fault]) -> tuple[str, ...]:
        """Return the names of the places: those of the task or the data, or 0, 1 and so on."""
        endings = len(examples.texts[0]) - 1 if examples.texts else 0
        names = task.labels or table.class_names.get(task.label.column) or map(str, range(endings))
        return tuple(names)

    def faults_of_classes(
        self, task: Declared, table: Table, examples: Examples, classes: Sequence[str]
    ) -> Iterator[Fault]:
        """Return a fault for labels that are no place of an ending, and for other numbers of endings than of places."""
        endings = {len(text) - 1 for text in examples.texts} - {len(classes)}
        if endings:
            yield table.fault(
                f"has {min(endings)} endings a row for {len(classes)} labels ({', '.join(classes)}): name a label for each"
            )
        yield from super().faults_of_classes(task, table, examples, classes)

    def hint_at(self, value: str, classes: Sequence[str]) -> str:
        return "; name those of the endings in their order, as in `labels: [A, B, C, D]`"

    def inputs(self, split: Split, *, apart: bool) -> Iterable[tuple[str, ...]] | None:
        return ((text, ending) for text, *endings in split.texts for ending in endings)


KIND = MultipleChoice()
