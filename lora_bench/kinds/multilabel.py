"""Several labels a text: each row has some of the labels, or none of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

from lora_bench.documents import Key
from lora_bench.errors import Fault
from lora_bench.kinds.support.label_sets import FLAGS, label_lists
from lora_bench.kinds.support.row_values import LEAVE_OUT, Declared, Split, Table, Texts, label_text
from lora_bench.kinds.support.table_view import LABEL_NAMES, GuessedTask, Stage, View, several_labels
from lora_bench.kinds.support.with_classes import WithClasses, most_frequent

_ONLY = "is only for several labels a row, `kind: multilabel`; the kind is {kind}"


class Multilabel(WithClasses):
    """An answer is the list of the indexes of its labels, rising."""

    exercise = "labelling.Marking"
    metric_kinds = ("multilabel",)
    usual_metric = "multilabel_micro_f1"
    class_noun = "label"
    reads_one_token = True
    smooths = False
    label_axes = ("rows", "labels")
    takes_threshold = True
    real_labels = ("labels",)
    problem_type = "multi_label_classification"
    own_keys: ClassVar[Mapping[Key, str]] = {("label", "separator"): _ONLY, ("label", "columns"): _ONLY}

    def seen_in(self, view: View, stage: Stage) -> GuessedTask | None:
        return _flags(view) if stage == "names" else _several(view) if stage == "labels" else None

    def each(self, labels: Iterable[Any]) -> Iterable[Any]:
        return chain.from_iterable(labels)

    def faults_of_labels(self, task: Declared) -> Iterator[tuple[Key, str]]:
        label = task.label
        yield from super().faults_of_labels(task)
        if label.rule is not None:
            yield ("label", "rule"), "makes one class of a number, but the kind is multilabel"
        if not label.columns:
            return
        if len(set(label.columns)) < max(2, len(label.columns)):
            yield ("label", "columns"), f"must be at least two different columns, got {list(label.columns)}"
        for key in ("column", "separator"):
            if getattr(label, key):
                yield ("label", key), "must go: `columns` has the labels"
        for key in ("labels", "label_names"):
            if getattr(task, key):
                yield (key,), "must go: the columns name the labels, in their order"

    def labels(self, task: Declared, table: Table, texts: Texts, faults: list[Fault]) -> list[Any]:
        """Return the labels of each row, sorted and each once; note every fault of their columns."""
        names = table.class_names.get(task.label.column)
        found: list[tuple[str, ...]] = []
        without: list[int] = []
        for row, labels in enumerate(label_lists(task, table, faults)):
            said = [None] if labels is None else [label_text(label, names) for label in labels]
            if None in said:
                without.append(row)
            found.append(tuple(sorted({task.label_names.get(label, label) for label in said if label is not None})))
        shown = ", ".join(task.label.columns) or task.label.column
        table.note(faults, f"has no label in column {shown!r}", without, LEAVE_OUT)
        return found

    def numbered(self, labels: Sequence[Any], classes: Sequence[str]) -> list[Any]:
        return [tuple(sorted(super(Multilabel, self).numbered(own, classes))) for own in labels]

    def answer_value(self, answer: Any, text: tuple[str, ...], classes: Sequence[str]) -> Any:
        return [classes[place] for place in answer]

    def constant(self, train: Split, split: Split) -> Sequence[Any] | None:
        return [[most_frequent(train)]] * len(split.ids)


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
        named = any(LABEL_NAMES.fullmatch(name) for name in [*columns, *others])
        if len(columns) < 2 or (asked.kind is None and (named or (len(columns) == 2 and others))):
            return None
    why = f"{len(columns)} columns ({', '.join(columns[:4])}{', …' if len(columns) > 4 else ''}) say 0 or 1"
    return GuessedTask(text=view.text_columns(*columns), label="", columns=columns, why=why)


def _several(view: View) -> GuessedTask | None:
    """Find a column of several labels a row."""
    several, separator = several_labels(view.given)
    between = "" if separator is None else f", separated by {separator!r}"
    why = f"{view.label} has several labels a row{between}"
    return view.labelled(why, separator) if several or view.asked.kind is not None else None


KIND = Multilabel()
