"""Preference: of two answers to a prompt one is better, and a causal model learns to rank it first, by DPO.

With p the probability of an answer under the model and q under the starting model, its implicit reward is beta · log(p / q).
The loss of a pair is −log σ(reward of the chosen answer − reward of the rejected one): Rafailov et al. 2023,
https://arxiv.org/abs/2305.18290.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from lora_bench.documents import Key
from lora_bench.errors import Fault
from lora_bench.kinds.chat import TEMPLATE_KEY, NoAnswer, conversation, is_conversation
from lora_bench.kinds.generation import Generation
from lora_bench.kinds.support.row_values import LEAVE_OUT, Declared, Split, Table, Texts, normal
from lora_bench.kinds.support.task_kind import Shape, TaskKind

COLUMNS = ("prompt", "chosen", "rejected")
_ONLY = "is only for preference; the kind is {kind}"


class Preference(TaskKind):
    """An answer has the log-likelihoods of the chosen and the rejected text, and those under the starting model."""

    exercise = "preferring.Preferring"
    model_names = Generation.model_names
    model_names_apart = Generation.model_names_apart
    metric_kinds = ("preference",)
    usual_metric = "ranked_right"
    usual_metrics = ("chosen_log_likelihood", "rejected_log_likelihood")
    own_loss = True
    answer_words = Generation.answer_words
    smooths = False
    label_axes = ("rows", "length")
    packs = False  # a pack computes one loss for all members, over labels
    shares_rows = False
    own_keys: ClassVar[Mapping[Key, str]] = {**{(name,): _ONLY for name in (*COLUMNS, "beta")}, **TEMPLATE_KEY}
    plan_note = (
        "before its first step each run computes the log-likelihoods of its answers under the model that it starts from: one "
        "forward pass more, outside every budget, and no second copy of the model, for `full` either"
    )

    @property
    def has_head(self) -> bool:
        return False

    def filled_in(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in the columns, and `beta`."""
        named = {name: given.get(name, name) for name in COLUMNS}
        columns = [column if isinstance(column, str) else name for name, column in named.items()]
        return {"text": columns, "label": columns[1], "beta": 0.1, **given, **named}

    def head_options(self, labels: int) -> dict[str, int | str]:
        """Return none: a language model has no head."""
        return {}

    def head_arguments(self, labels: Sequence[str]) -> str:
        return ""

    def batch_shapes(self, rows: int, length: int, labels: int, text: int | None = None) -> dict[str, Shape]:
        """Return the shape of each tensor of a batch, in which each example has a row for each answer."""
        return super().batch_shapes(2 * rows, length, labels, text)

    def rows_of_example(self, labels: int) -> int:
        return 2

    def refusal(self, model_type: str, *, apart: bool, processes: int) -> str | None:
        if apart:
            return f"pairs of answers are for a causal model, and {model_type} reads its input by an encoder"
        return super().refusal(model_type, apart=apart, processes=processes)

    def faults_of_text(self, task: Declared) -> Iterator[tuple[Key, str]]:
        columns = (task.prompt, task.chosen, task.rejected)
        if task.text != columns:
            yield ("text",), "must go: the columns of preference are `prompt`, `chosen` and `rejected`"
        elif len(set(columns)) < len(columns):
            yield ("chosen",), f"must be another column than those of prompt and rejected, got {list(columns)}"

    def faults_of_labels(self, task: Declared) -> Iterator[tuple[Key, str]]:
        if task.label.column != task.chosen:
            yield ("label",), "must go: the better answer of preference is `chosen`"

    def labelled(self, task: Declared, table: Table) -> list[int]:
        if not set(task.text) <= table.columns.keys():
            return super().labelled(task, table)
        return [row for row, pair in enumerate(_pairs(task, table)) if not isinstance(pair, NoAnswer)]

    def texts(self, task: Declared, table: Table, faults: list[Fault]) -> Texts:
        """Return prompt, chosen and rejected answer of each row, the prompt of a chat as JSON; note every fault of them."""
        found: Texts = []
        wrong: dict[tuple[str, str], list[int]] = {}
        for row, pair in enumerate(_pairs(task, table)):
            if isinstance(pair, ValueError):
                wrong.setdefault((f"has {pair}", LEAVE_OUT if isinstance(pair, NoAnswer) else ""), []).append(row)
            found.append(("", "", "") if isinstance(pair, ValueError) else pair)
        faults += [table.rows_fault(said, rows, hint) for (said, hint), rows in wrong.items()]
        return found

    def kept_together(self, text: tuple[str, ...]) -> str:
        """Return the prompt: its pairs tell of each other."""
        return normal(text[:1])

    def labels(self, task: Declared, table: Table, texts: Texts, faults: list[Fault]) -> list[Any]:
        """Return for each row the place of the better answer: a list of it, as predictions are lists."""
        return [(0,)] * len(texts)

    def inputs(self, split: Split, *, apart: bool) -> Iterable[tuple[str, ...]] | None:
        return None

    def constant(self, train: Split, split: Split) -> Sequence[Any] | None:
        return None


def has_chats(texts: Texts) -> bool:
    """Return True if the prompts of pairs are messages; all prompts of a table are alike."""
    return bool(texts) and is_conversation(texts[0][0])


def _pairs(task: Declared, table: Table) -> Iterator[tuple[str, str, str] | ValueError]:
    """Return prompt, chosen and rejected answer of each row, or what is wrong with it."""
    rows = list(zip(*(table.columns[name] for name in task.text), strict=True))
    chat = task.chat_template is not None or any(is_conversation(value) for row in rows for value in row)
    for row in rows:
        try:
            pair = _chat(task, *row) if chat else _plain(task, *row)
            if pair[1] == pair[2]:
                raise NoAnswer(f"a chosen answer that equals its rejected one in {task.chosen!r} and {task.rejected!r}")
            yield pair
        except ValueError as error:
            yield error


def _plain(task: Declared, *row: Any) -> tuple[str, str, str]:
    for name, value in zip(task.text, row, strict=True):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"a value in column {name!r} that is no text but {type(value).__name__}")
        if value is None or not value.strip():
            raise (ValueError if name == task.prompt else NoAnswer)(f"no text in column {name!r}")
    return row[0], row[1].strip(), row[2].strip()


def _chat(task: Declared, prompt: Any, *answers: Any) -> tuple[str, str, str]:
    found = []
    for name, answer in zip(task.text[1:], answers, strict=True):
        if is_conversation(answer, least=2):
            raise ValueError(
                f"several messages in column {name!r}, where those before the answer belong to the prompt,"
            )
        try:
            found.append(conversation(prompt, answer))
        except ValueError as error:
            raise type(error)(f"{error} in {task.prompt} and {name}") from None
    return *found[0], found[1][1]


KIND = Preference()
