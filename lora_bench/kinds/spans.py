"""Answers that stand in a text, as in SQuAD: a question has the first and the last character of some of its text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from lora_bench.documents import Key
from lora_bench.errors import Fault
from lora_bench.kinds.support.answer_spans import answers_of
from lora_bench.kinds.support.declared import Declared
from lora_bench.kinds.support.row_table import Table
from lora_bench.kinds.support.row_values import Split, Texts
from lora_bench.kinds.support.task_kind import ModelNames, TaskKind

_ONLY = "is only for spans; the kind is {kind}"


class Spans(TaskKind):
    """An answer is the first character in the text and the one behind its last; nothing for no answer."""

    model_names = ModelNames("QuestionAnswering", "QUESTION_ANS", "question-answering")
    exercise = "answering"
    metric_kinds = ("spans",)
    usual_metric = "squad_f1"
    smooths = False
    label_tensors = ("start_positions", "end_positions")
    packs = False  # a model gives the logits of the first and the last token apart, and a pack has one output
    reads_all = True  # in windows
    own_keys: ClassVar[Mapping[Key, str]] = {("label", "start"): _ONLY, ("unanswerable",): _ONLY}

    def head_options(self, labels: int) -> dict[str, int | str]:
        """Return a head of two outputs a token: how likely an answer begins there, and how likely it ends there."""
        return super().head_options(2)

    def head_arguments(self, labels: Sequence[str]) -> str:
        return ", num_labels=2"

    def faults_of_text(self, task: Declared) -> Iterator[tuple[Key, str]]:
        if len(set(task.text)) != 2:
            yield ("text",), f"must be two columns for spans, the question and its text; got {list(task.text)}"

    def labels(self, task: Declared, table: Table, texts: Texts, faults: list[Fault]) -> list[Any]:
        return answers_of(table, (task.label.column, task.label.start), texts, task.unanswerable, faults)

    def as_scored(self, split: Split, predictions: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        right: Sequence[Any] = split.labels
        return (
            [
                [text[first:behind] for first, behind in spans] or [""]
                for (_, text), spans in zip(split.texts, right, strict=True)
            ],
            [self.answer_value(span, text, ()) for text, span in zip(split.texts, predictions, strict=True)],
        )

    def answer_value(self, answer: Any, text: tuple[str, ...], classes: Sequence[str]) -> Any:
        return text[1][slice(*answer)] if answer else ""

    def constant(self, train: Split, split: Split) -> Sequence[Any] | None:
        return [()] * len(split.ids)


KIND = Spans()
