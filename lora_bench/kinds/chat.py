"""Chat: a model writes the answers of a conversation. Its model is that of generation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from lora_bench.documents import Key
from lora_bench.errors import Fault
from lora_bench.kinds.generation import Generation
from lora_bench.kinds.support.conversations import NoAnswer, conversation, opening
from lora_bench.kinds.support.declared import Declared
from lora_bench.kinds.support.label_sets import as_json_list
from lora_bench.kinds.support.row_table import Table
from lora_bench.kinds.support.row_values import Split, Texts
from lora_bench.kinds.support.table_view import GuessedTask, Stage, View


class Chat(Generation):
    """An answer is the last message of a conversation."""

    exercise = "conversing"
    usual_metric = "loss"
    own_keys: ClassVar[Mapping[Key, str]] = {("chat_template",): "is only for chat; the kind is {kind}"}

    def seen_in(self, view: View, stage: Stage) -> GuessedTask | None:
        if stage != "form" or view.asked.label is not None:
            return None
        for name in [view.asked.text] if view.asked.text else view.free:
            lists = [as_json_list(value) if isinstance(value, str) else value for value in view.values(name)]
            if lists and all(
                isinstance(one, list | tuple) and all(isinstance(part, Mapping) and "role" in part for part in one)
                for one in lists
            ):
                return GuessedTask(text=(name,), label=name, why=f"{name} has messages with roles")
        return None

    @property
    def model_kind(self) -> str:
        return "generation"

    def refusal(self, model_type: str, *, apart: bool, processes: int) -> str | None:
        return f"a chat is one text, which {model_type} does not continue: use a causal model" if apart else None

    def labelled(self, task: Declared, table: Table) -> list[int]:
        if not {*task.text, task.label.column} <= table.columns.keys():
            return super().labelled(task, table)
        return [row for row, found in enumerate(_conversations(task, table)) if not isinstance(found, NoAnswer)]

    def inputs(self, split: Split, *, apart: bool) -> Iterable[tuple[str, ...]] | None:
        """Return None: a template makes its text."""
        return None

    def texts(self, task: Declared, table: Table, faults: list[Fault]) -> Texts:
        """Return the messages before the answer of each row; note every fault of them."""
        found = list(_conversations(task, table))
        wrong: dict[str, list[int]] = {}
        for row, one in enumerate(found):
            if isinstance(one, ValueError):
                wrong.setdefault(str(one), []).append(row)
        named = " and ".join(dict.fromkeys((*task.text, task.label.column)))
        faults += [table.rows_fault(f"has {said} in {named}", rows) for said, rows in wrong.items()]
        return [("",) if isinstance(one, ValueError) else (one[0],) for one in found]

    def texts_to_answer(self, task: Declared, table: Table, classes: Sequence[str], faults: list[Fault]) -> Texts:
        """Return the messages of each row up to the answer, if it has one; note every row without messages."""
        texts: Texts = []
        wrong: dict[str, list[int]] = {}
        for row, value in enumerate(table.columns[task.text[0]]):
            try:
                texts.append((opening(value),))
            except ValueError as error:
                wrong.setdefault(str(error), []).append(row)
                texts.append(("",))
        faults += [table.rows_fault(f"has {said} in {task.text[0]}", rows) for said, rows in wrong.items()]
        return texts

    def labels(self, task: Declared, table: Table, texts: Texts, faults: list[Fault]) -> list[Any]:
        return [("",) if isinstance(one, ValueError) else (one[1],) for one in _conversations(task, table)]


def _conversations(task: Declared, table: Table) -> Iterator[tuple[str, str] | ValueError]:
    """Return the input and the answer of each row of a chat, or what is wrong with it."""
    columns = [table.columns[name] for name in dict.fromkeys((*task.text, task.label.column))]
    for values in zip(*columns, strict=True):
        try:
            yield conversation(*values)
        except ValueError as error:
            yield error


KIND = Chat()
