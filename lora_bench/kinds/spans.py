"""Answers that stand in a text, as in SQuAD: a question has the first and the last character of some of its text."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from lora_bench.documents import Key
from lora_bench.errors import Fault
from lora_bench.kinds.support.row_values import Declared, Split, Table, Texts, as_data, has_label, in_a_message
from lora_bench.kinds.support.table_view import SAMPLE_ROWS, GuessedTask, Stage, View
from lora_bench.kinds.support.task_kind import ModelNames, TaskKind

_ONLY = "is only for spans; the kind is {kind}"

_ANSWER_NAMES = re.compile(r"(?i)answers?(_text)?|spans?")
_QUESTION_NAMES = re.compile(r"(?i)(question|query|frage)s?")
_START_NAMES = re.compile(r"(?i)((answer|span)_?)?(start|begin)")

Span = tuple[int, int]
"""First character of an answer in its text, and the one behind its last."""


class Spans(TaskKind):
    """An answer is the first character in the text and the one behind its last; nothing for no answer."""

    model_names = ModelNames("QuestionAnswering", "QUESTION_ANS", "question-answering")
    exercise = "answering.Answering"
    metric_kinds = ("spans",)
    usual_metric = "squad_f1"
    smooths = False
    label_tensors = ("start_positions", "end_positions")
    packs = False  # a model gives the logits of the first and the last token apart, and a pack has one output
    reads_all = True  # in windows
    answer_words = "the part of the text that answers the question, or none"
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
        """Return the answers of each row; note every row whose answers do not stand in its text, or that has none."""
        column, of_starts = task.label.column, task.label.start
        starts = table.columns[of_starts] if of_starts is not None else [None] * len(texts)
        found: list[tuple[Span, ...]] = []
        wrong: dict[int, str] = {}
        without: list[int] = []
        for row, (value, start) in enumerate(zip(table.columns[column], starts, strict=True)):
            spans: tuple[Span, ...] = ()
            try:
                spans = spans_of(value, start, texts[row][-1])
                if not spans and not task.unanswerable:
                    without.append(row)
            except NotInText as error:
                wrong[row] = str(error)
            found.append(spans)
        if wrong:
            hint = "; an answer is copied from the text, and its start counts characters from 0 (or is left out)"
            first = next(iter(wrong.values()))
            message = f"has answers in column {column!r} that are not in their text: {first},"
            faults.append(table.rows_fault(message, [*wrong], hint))
        hint = "; if questions may have none, say `unanswerable: true`"
        table.note(faults, f"has no answer in column {column!r}", without, hint)
        return found

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


class NotInText(Exception):
    """An answer that does not stand in its text, with what is wrong."""


def spans_of(value: Any, start: Any, text: str) -> tuple[Span, ...]:
    """Return the answers in *text* that a value of a table stands for; none for a question without an answer.

    It is a text; a mapping of `text` and `answer_start`, each one or a list, as in SQuAD; a list of these; JSON text of them;
    or nothing. *start* is the first character, if another column has it. Raise NotInText if one does not stand there.
    """
    data = as_data(value) if isinstance(value, str) and value.lstrip()[:1] in ("{", "[") else None
    if data is not None:
        with contextlib.suppress(RecursionError):
            return spans_of(data, start, text)
    if isinstance(value, Mapping) and "text" not in value:
        raise NotInText(f"a mapping needs `text` and `answer_start`, got {', '.join(map(str, value)) or 'nothing'}")
    if isinstance(value, Mapping):
        return spans_of(value.get("text"), value.get("answer_start", value.get("start")), text)
    if isinstance(value, Sequence) and not isinstance(value, str):
        starts = start if isinstance(start, Sequence) and not isinstance(start, str) else [start] * len(value)
        if len(starts) != len(value):
            raise NotInText(f"{len(value)} answers have {len(starts)} starts")
        each = (spans_of(one, at, text) for one, at in zip(value, starts, strict=True))
        return tuple(dict.fromkeys(span for spans in each for span in spans))
    if value is None or value == "":
        return ()
    return (_span(str(value), start, text),)


def _span(answer: str, start: Any, text: str) -> Span:
    found = text.find(answer)
    if found < 0:
        raise NotInText(f"{in_a_message(answer)} does not stand in {in_a_message(text)}")
    if start is None or start == "":
        return found, found + len(answer)
    try:
        at = int(start)
    except (TypeError, ValueError):
        raise NotInText(f"the start of {in_a_message(answer)} is no number: {start!r}") from None
    if text[max(at, 0) :][: len(answer)] != answer:
        raise NotInText(f"{in_a_message(answer)} does not stand at {at}, but at {found}")
    return at, at + len(answer)


KIND = Spans()
