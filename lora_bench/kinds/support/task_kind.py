"""The interface of a kind of task, in the half that needs no torch. What most kinds have in common is the default."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lora_bench.documents import Key
from lora_bench.errors import Fault
from lora_bench.kinds.support.row_values import (
    LEAVE_OUT,
    Declared,
    Examples,
    Split,
    Table,
    Texts,
    faults_of_text,
    has_label,
    label_text,
    normal,
)
from lora_bench.kinds.support.table_view import GuessedTask, Stage, View
from lora_bench.metrics import MetricKind

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ModelNames:
    """Names of a kind's models: *auto* ends transformers' automatic classes; *task_type* is PEFT's; *pipeline* the hub's."""

    auto: str
    task_type: str | None
    pipeline: str


class TaskKind:
    """A kind of task. Its module gives its name, and its module's docstring is its card.

    Args:
        exercise: Module and class of `lora_bench.kinds.exercises` with its work with a model, as "labelling.Rating".
        model_names: Names of its models.
        model_names_apart: Names of models whose encoder reads the input of what their decoder writes, for texts to write.
        metric_kinds: Kinds of metric that read its answers.
        usual_metric: Metric of a task that names none.
        usual_metrics: Further metrics of a task that names none.
        guessed_metrics: Further metrics that a suite written for a table names.
        has_classes: True if its labels are names of classes.
        writes: True if its answers are texts that a model writes, without a head.
        reads_one_token: True if a head reads one token of an example.
        own_loss: True if its exercise computes the loss, and not the model.
        weighs_classes: True if the loss of a row can be weighed by its class.
        smooths: True if a share of a label's probability can be spread over the others.
        label_tensors: Tensors of labels in a batch.
        label_axes: Axes of each: "rows", then "length" or "labels".
        real_labels: Tensors of labels that are real numbers, and no indexes.
        problem_type: The loss of its head, as transformers names it.
        packs: True if a pack can train its models.
        shares_rows: True if worker ranks can share the rows of an example.
        reads_all: True if a model reads all of an example that is longer than its input.
        takes_threshold: True if the answers to the selection split choose a threshold for all answers.
        word_model: Linear model on tf-idf whose score stands beside that of a run; None if there is none.
        own_keys: Keys of a task that no other kind may have, each with what is wrong with them in another.
        plan_note: Sentence on the cost of its runs that a plan says; None for nothing to say.
        answer_words: Its answer in words for a model card; None if it is one of the labels.
        python_answer: Python expression that gives the answer of `model` to `inputs`; None if that takes more.
    """

    exercise: ClassVar[str]
    model_names: ClassVar[ModelNames] = ModelNames("SequenceClassification", "SEQ_CLS", "text-classification")
    model_names_apart: ClassVar[ModelNames | None] = None
    metric_kinds: ClassVar[tuple[MetricKind, ...]]
    usual_metric: ClassVar[str]
    usual_metrics: ClassVar[tuple[str, ...]] = ()
    guessed_metrics: ClassVar[tuple[str, ...]] = ()
    has_classes: ClassVar[bool] = False
    writes: ClassVar[bool] = False
    reads_one_token: ClassVar[bool] = False
    own_loss: ClassVar[bool] = False
    weighs_classes: ClassVar[bool] = False
    smooths: ClassVar[bool] = True
    label_tensors: ClassVar[tuple[str, ...]] = ("labels",)
    label_axes: ClassVar[tuple[str, ...]] = ("rows",)
    real_labels: ClassVar[tuple[str, ...]] = ()
    problem_type: ClassVar[str] = "single_label_classification"
    packs: ClassVar[bool] = True
    shares_rows: ClassVar[bool] = True
    reads_all: ClassVar[bool] = False
    takes_threshold: ClassVar[bool] = False
    word_model: ClassVar[Literal["logistic", "ridge"] | None] = None
    own_keys: ClassVar[Mapping[Key, str]] = {}
    plan_note: ClassVar[str | None] = None
    answer_words: ClassVar[str | None] = None
    python_answer: ClassVar[str | None] = None

    @property
    def name(self) -> str:
        """The name of its module."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def model_kind(self) -> str:
        """The kind of model that it trains: its own, unless its model is that of another kind."""
        return self.name

    @property
    def has_head(self) -> bool:
        """True if its model has a head; False for a language model as it is."""
        return not self.writes

    def filled_in(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keys of a task, as its file has them, with those that the kind fills in."""
        return dict(given)

    def names_of(self, *, apart: bool) -> ModelNames:
        """Return the names of its models; *apart* if an encoder reads the input of what the model writes."""
        return self.model_names_apart if apart and self.model_names_apart is not None else self.model_names

    def head_options(self, labels: int) -> dict[str, int | str]:
        """Return the options of transformers' config that give a model the head for so many classes."""
        return {"num_labels": max(1, labels), "problem_type": self.problem_type}

    def batch_shapes(self, rows: int, length: int, labels: int, text: int | None = None) -> dict[str, Shape]:
        """Return the shape of each tensor of a batch, by its name, for rows of *length* tokens and so many classes.

        *text* is the tokens of the texts to write, if an encoder reads the inputs apart; *length* by default.
        """
        shape, sizes = (rows, length), {"rows": rows, "length": text or length, "labels": labels}
        of_labels = dict.fromkeys(self.label_tensors, tuple(sizes[axis] for axis in self.label_axes))
        return {"input_ids": shape, "attention_mask": shape, **of_labels}

    def rows_of_example(self, labels: int) -> int:
        """Return the number of rows that a model reads for an example in `batch_shapes`."""
        return 1

    def head_arguments(self, labels: Sequence[str]) -> str:
        """Return the arguments of `from_pretrained` that give a base model its head, in Python that knows `labels`."""
        return f', num_labels=1, problem_type="{self.problem_type}"'

    def refusal(self, model_type: str, *, apart: bool, processes: int) -> str | None:
        """Return why a run cannot learn the kind, or None; *apart*: an encoder reads what the decoder writes for."""
        if processes > 1 and not self.shares_rows:
            return f"worker ranks share the rows of a batch, and {self.name} needs those of an example in one: use processes: 1"
        return None

    def shown(self, labels: int) -> str:
        """Return the kind for readers of a probe, with its number of classes if it has some."""
        return f"{self.name} into {labels}" if self.has_classes else self.name

    def faults_of_text(self, task: Declared) -> Iterator[tuple[Key, str]]:
        """Return a fault if a task names other columns for its text than the kind needs."""
        if not 1 <= len(task.text) <= 2 or len(set(task.text)) < len(task.text):
            yield ("text",), "must be one column, or a list of two"

    def faults_of_labels(self, task: Declared) -> Iterator[tuple[Key, str]]:
        """Return the faults of a task's label and class names."""
        if not task.label.column and not task.label.columns:
            yield ("label", "column"), "is missing"

    def seen_in(self, view: View, stage: Stage) -> GuessedTask | None:
        """Return the task of the kind that shows in a table at a stage; None if it does not."""
        return None

    def labelled(self, task: Declared, table: Table) -> list[int]:
        """Return the rows that have a label, of a table with some of the columns."""
        rows = list(range(len(table.places)))
        for name in task.label.columns or (task.label.column,):
            if name in table.columns:
                given, names = table.columns[name], table.class_names.get(name)
                rows = [row for row in rows if has_label(given[row], names)]
        return rows

    def texts(self, task: Declared, table: Table, faults: list[Fault]) -> Texts:
        """Return the texts of each row; note every fault of their columns."""
        for name in task.text:
            faults += faults_of_text(table, name, keep_empty=task.empty_texts == "keep")
        columns = (["" if value is None else str(value) for value in table.columns[name]] for name in task.text)
        return list(zip(*columns, strict=True))

    def texts_to_answer(self, task: Declared, table: Table, classes: Sequence[str], faults: list[Fault]) -> Texts:
        """Return the texts of each row of a table without labels, to answer with *classes*; note every fault of them."""
        return self.texts(task, table, faults)

    def kept_together(self, text: tuple[str, ...]) -> str:
        """Return what rows of one split and item group have in common: by default their text."""
        return normal(text)

    def answer_value(self, answer: Any, text: tuple[str, ...], classes: Sequence[str]) -> Any:
        """Return the answer to a text as a table has it: a name, a number, a text or a list of names."""
        return answer

    def labels(self, task: Declared, table: Table, texts: Texts, faults: list[Fault]) -> list[Any]:
        """Return the label of each row as written; note every row without one."""
        column = task.label.column
        given = table.columns[column]
        nested = [row for row, value in enumerate(given) if isinstance(value, list | dict)]
        if nested:
            kind = type(given[nested[0]]).__name__
            message = f"has labels in column {column!r} that are neither text nor numbers but {kind}"
            several = "; for several labels a row say `kind: multilabel`" if kind == "list" else ""
            faults.append(table.rows_fault(message, nested, several))
        values = [label_text(value, table.class_names.get(column)) for value in given]
        if task.label_names:
            values = [task.label_names.get(value, value) if value is not None else None for value in values]
        unlabelled = [row for row, value in enumerate(values) if value is None]
        table.note(faults, f"has no label in column {column!r}", unlabelled, LEAVE_OUT)
        return values

    def inputs(self, split: Split, *, apart: bool) -> Iterable[tuple[str, ...]] | None:
        """Return the texts of each input that a model reads at once, an encoder *apart*; None if only its encoding tells."""
        return split.texts

    def makes_example(self, label: Any) -> bool:
        """Return False for the label of a row that makes no example."""
        return True

    def class_names(self, task: Declared, table: Table, examples: Examples, faults: list[Fault]) -> tuple[str, ...]:
        """Return the class names in the order of their indexes; note every fault of the labels."""
        return ()

    def faults_of_classes(
        self, task: Declared, table: Table, examples: Examples, classes: Sequence[str]
    ) -> Iterator[Fault]:
        """Return the faults of labels that are no classes of the task."""
        yield from ()

    def faults_of_split(self, labels: Sequence[Any], split: str) -> Iterator[str]:
        """Return the faults of the labels of a split, each as the end of a sentence about its table."""
        yield from ()

    def warnings_of_classes(self, classes: Sequence[str]) -> Iterator[str]:
        """Return what a user may have meant otherwise by the names of the classes."""
        yield from ()

    def dealt(self, examples: Examples, split: str) -> Examples:
        """Return the examples of a split in the form in which a model learns or answers them."""
        return examples

    def numbered(self, labels: Sequence[Any], classes: Sequence[str]) -> list[Any]:
        """Return the labels of examples as a `Split` has them."""
        return list(labels)

    def as_scored(self, split: Split, predictions: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        """Return references and predictions as metrics of the kind take them."""
        return split.labels, predictions

    def constant(self, train: Split, split: Split) -> Sequence[Any] | None:
        """Return the answers to a split that are best without a look at its texts; None if there are none."""
        raise NotImplementedError
