"""Answers that stand in a text: where they begin and end, and the windows of tokens in which a model looks for them.

A window is the question and as much of the text as `max_length` leaves room for. Windows of a text overlap by a third of
`max_length` (128 of 384 tokens, as is usual for SQuAD), so that an answer cut by one is whole in the next. A window without the
answer points at its first token.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lora_bench.errors import Fault, LoraBenchError
from lora_bench.kinds.support.row_table import Table
from lora_bench.kinds.support.row_values import Split, as_data, in_a_message
from lora_bench.kinds.support.tagging import check_tells_characters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""First character of an answer in its text, and the one behind its last."""

NOWHERE = -1
"""Character of a token outside of the text."""

# Special tokens around question and text, at most.
AROUND = 4


class NotInText(Exception):
    """An answer that does not stand in its text, with what is wrong."""


def spans_of(value: Any, start: Any, text: str) -> tuple[Span, ...]:
    """Return the answers that a value of a table stands for; none for a question without an answer.

    Args:
        value: A text; a mapping of `text` and `answer_start`, each one or a list, as in SQuAD; a list of these; JSON text of
            them; or nothing.
        start: First character, if another column has it; or nothing.
        text: The text in which they stand.

    Raises:
        NotInText: If one does not stand there.
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


def answers_of(
    table: Table,
    columns: tuple[str, str | None],
    texts: Sequence[tuple[str, ...]],
    unanswerable: bool,
    faults: list[Fault],
) -> list[tuple[Span, ...]]:
    """Return the answers of each row; note every row whose answers do not stand in its text, or that has none.

    *columns* are those of the answers and of their starts. A question may be *unanswerable*.
    """
    column, of_starts = columns
    starts = table.columns[of_starts] if of_starts is not None else [None] * len(texts)
    found: list[tuple[Span, ...]] = []
    wrong: dict[int, str] = {}
    without: list[int] = []
    for row, (value, start) in enumerate(zip(table.columns[column], starts, strict=True)):
        spans: tuple[Span, ...] = ()
        try:
            spans = spans_of(value, start, texts[row][-1])
            if not spans and not unanswerable:
                without.append(row)
        except NotInText as error:
            wrong[row] = str(error)
        found.append(spans)
    if wrong:
        hint = "; an answer is copied from the text, and its start counts characters from 0 (or is left out)"
        first = next(iter(wrong.values()))
        faults.append(
            table.rows_fault(f"has answers in column {column!r} that are not in their text: {first},", [*wrong], hint)
        )
    hint = "; if questions may have none, say `unanswerable: true`"
    table.note(faults, f"has no answer in column {column!r}", without, hint)
    return found


def encode_windows(
    split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[dict[str, Any]], float]:
    """Encode question and text of each example as windows, not padded.

    Returns:
        For each window its `input_ids`, `attention_mask` and the tokenizer's other values; `begins` and `ends`, the
        characters of the text that each token stands for, or `NOWHERE`; `example`, the number of its example; and `windows`,
        how many windows that has. And the share of examples whose question was cut, to half of *max_length*.

    Raises:
        LoraBenchError: If the tokenizer does not tell which characters a token stands for, or *max_length* is too small.
    """
    check_tells_characters(tokenizer, "answers cannot be found")
    if max_length < 4 * AROUND:
        raise LoraBenchError(f"max_length must be at least {4 * AROUND} for a question and its text, got {max_length}")
    if not split.texts:
        return [], 0.0
    questions, cut = _cut([question for question, _ in split.texts], tokenizer, max_length // 2 - AROUND)
    batch = tokenizer(
        questions,
        [text for _, text in split.texts],
        truncation="only_second",
        max_length=max_length,
        stride=max_length // 3,
        padding=False,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    columns = {name: list(values) for name, values in batch.items()}
    spans, numbers = columns.pop("offset_mapping"), columns.pop("overflow_to_sample_mapping")
    of_each = Counter(numbers)
    windows: list[dict[str, Any]] = []
    for place, row in enumerate(zip(*columns.values(), strict=True)):
        of_text = [sequence == 1 for sequence in batch.sequence_ids(place)]
        windows.append(
            {
                **dict(zip(columns, row, strict=True)),
                "begins": [span[0] if inside else NOWHERE for span, inside in zip(spans[place], of_text, strict=True)],
                "ends": [span[1] if inside else NOWHERE for span, inside in zip(spans[place], of_text, strict=True)],
                "example": numbers[place],
                "windows": of_each[numbers[place]],
            }
        )
    return windows, cut / len(split.texts)


class QuestionWindows(Sequence[list[dict[str, Any]]]):
    """The windows of each question as a list, made of those of all questions, one question's after the other."""

    def __init__(self, windows: Sequence[dict[str, Any]]) -> None:
        self._windows = windows
        self._begins = [0]
        while self._begins[-1] < len(windows):
            self._begins.append(self._begins[-1] + windows[self._begins[-1]]["windows"])

    def __len__(self) -> int:
        return len(self._begins) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return [self._windows[place] for place in range(self._begins[index], self._begins[index + 1])]


def _cut(questions: list[str], tokenizer: PreTrainedTokenizerBase, most: int) -> tuple[list[str], int]:
    """Return questions of at most so many tokens, and the number of those that were cut."""
    spans = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    whole = [
        question[: of[most - 1][1]] if len(of) > most else question
        for question, of in zip(questions, spans, strict=True)
    ]
    return whole, sum(len(of) > most for of in spans)


def tokens_of(span: Span | None, begins: Sequence[int], ends: Sequence[int]) -> tuple[int, int]:
    """Return the first and the last token of an answer in a window; both are 0 if the window does not have all of it.

    *begins* has the first character of each token, or `NOWHERE`, and *ends* the one behind its last.
    """
    inside = [place for place, first in enumerate(begins) if first != NOWHERE]
    if span is None or not inside or begins[inside[0]] > span[0] or ends[inside[-1]] < span[1]:
        return 0, 0
    within = [place for place in inside if ends[place] > span[0] and begins[place] < span[1]]
    return (within[0], within[-1]) if within else (0, 0)
