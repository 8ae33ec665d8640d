"""Answers that stand in a text, as in SQuAD: a question has the first and the last character of some of its text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from lora_bench.documents import Key
from lora_bench.errors import Fault
from lora_bench.kinds.support.answer_spans import NotInText, answers_of, spans_of
from lora_bench.kinds.support.declared import Declared
from lora_bench.kinds.support.row_table import Table
from lora_bench.kinds.support.row_values import Split, Texts, as_data, has_label
from lora_bench.kinds.support.table_view import SAMPLE_ROWS, GuessedTask, Stage, View
from lora_bench.kinds.support.task_kind import ModelNames, TaskKind

_ONLY = "is only for spans; the kind is {kind}"

_ANSWER_NAMES = re.compile(r"(?i)answers?(_text)?|spans?")
_QUESTION_NAMES = re.compile(r"(?i)(question|query|frage)s?")
_START_NAMES = re.compile(r"(?i)((answer|span)_?)?(start|begin)")


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

    def seen_in(self, view: View, stage: Stage) -> GuessedTask | None:
        if stage != "form":
            return None
        asked = view.asked
        for name in view.labels:
            values = view.values(name)
            given = [
                as_data(value) if isinstance(value, str) and value.lstrip()[:1] == "{" else value for value in values
            ]
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
                    text=(question, holder), label=name, start=start, unanswerable=unanswerable,
                    why=f"the answers in {name} stand in {holder}",
                )  # fmt: skip
        return None

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


KIND = Spans()
