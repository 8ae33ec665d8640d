"""Chat: a model writes the answers of a conversation. Its model is that of generation."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from lora_bench.documents import Key
from lora_bench.errors import Fault
from lora_bench.kinds.generation import Generation
from lora_bench.kinds.support.label_sets import as_json_list
from lora_bench.kinds.support.row_values import Declared, Split, Table, Texts
from lora_bench.kinds.support.table_view import GuessedTask, Stage, View

ReadT = TypeVar("ReadT")
Message = dict[str, Any]

TEMPLATE_KEY: Mapping[Key, str] = {("chat_template",): "is only for chat and preference; the kind is {kind}"}

ANSWERS = "assistant"
"""Role of the messages that a model writes."""


class NoAnswer(ValueError):
    """A conversation without a message of the role `assistant`."""


class Chat(Generation):
    """An answer is the last message of a conversation."""

    exercise = "writing.Conversing"
    usual_metric = "loss"
    own_keys = TEMPLATE_KEY

    def seen_in(self, view: View, stage: Stage) -> GuessedTask | None:
        if stage != "form" or view.asked.label is not None:
            return None
        for name in [view.asked.text] if view.asked.text else view.free:
            if (values := list(view.values(name))) and all(is_conversation(value, least=0) for value in values):
                return GuessedTask(text=(name,), label=name, why=f"{name} has messages with roles")
        return None

    @property
    def model_kind(self) -> str:
        return "generation"

    def filled_in(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in the column of the answers: that of the conversations."""
        text = given.get("text")
        return {**({"label": text} if isinstance(text, str) else {}), **given}

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
        found = (one if isinstance(one, ValueError) else one[0] for one in _conversations(task, table))
        return _noted(found, dict.fromkeys((*task.text, task.label.column)), table, faults)

    def texts_to_answer(self, task: Declared, table: Table, classes: Sequence[str], faults: list[Fault]) -> Texts:
        """Return the messages of each row up to the answer, if it has one; note every row without messages."""
        found = (_or_error(opening, value) for value in table.columns[task.text[0]])
        return _noted(found, task.text[:1], table, faults)

    def labels(self, task: Declared, table: Table, texts: Texts, faults: list[Fault]) -> list[Any]:
        return [("",) if isinstance(one, ValueError) else (one[1],) for one in _conversations(task, table)]


def _conversations(task: Declared, table: Table) -> Iterator[tuple[str, str] | ValueError]:
    """Return the input and the answer of each row of a chat, or what is wrong with it."""
    columns = [table.columns[name] for name in dict.fromkeys((*task.text, task.label.column))]
    return (_or_error(conversation, *values) for values in zip(*columns, strict=True))


def _or_error(read: Callable[..., ReadT], *values: Any) -> ReadT | ValueError:
    try:
        return read(*values)
    except ValueError as error:
        return error


def _noted(found: Iterable[str | ValueError], columns: Iterable[str], table: Table, faults: list[Fault]) -> Texts:
    """Return the texts of rows, empty for one with an error; note every row of each error of these columns."""
    texts: Texts = []
    wrong: dict[str, list[int]] = {}
    for row, one in enumerate(found):
        if isinstance(one, ValueError):
            wrong.setdefault(str(one), []).append(row)
        texts.append(("" if isinstance(one, ValueError) else one,))
    faults += [table.rows_fault(f"has {said} in {' and '.join(columns)}", rows) for said, rows in wrong.items()]
    return texts


def conversation(prompt: Any, *completion: Any) -> tuple[str, str]:
    """Return the messages before the last answer as JSON, and the answer; messages after it are left out.

    *prompt* is a list of messages, or JSON of one; beside a completion also the text of a user's message. *completion* is the
    text of an answer, or further messages. Raise NoAnswer if there is no answer, ValueError if a value is no conversation.
    """
    messages = _messages(prompt, "user" if completion else None)
    for answer in completion:
        if answer is None or answer == "":
            raise NoAnswer("no answer")
        messages += _messages(answer, ANSWERS)
    places = [place for place, message in enumerate(messages) if message["role"] == ANSWERS]
    if not places:
        roles = ", ".join(dict.fromkeys(message["role"] for message in messages)) or "none"
        raise NoAnswer(f"no message of the role {ANSWERS!r} (roles: {roles})")
    before, last = messages[: places[-1]], messages[places[-1]]
    if not before:
        raise ValueError("no message before the answer")
    if not last["content"]:
        raise ValueError("an empty answer")
    return _as_json(before, last["content"]), last["content"]


def opening(prompt: Any) -> str:
    """Return the messages of *prompt*, up to its last answer, as JSON. Raise ValueError if it is no conversation, or empty."""
    messages = _messages(prompt, "user")
    if messages and messages[-1]["role"] == ANSWERS:
        del messages[-1]
    if not any(message["content"].strip() for message in messages):
        raise ValueError("no message to answer")
    return _as_json(messages)


def _as_json(messages: Sequence[Message], answer: str = "") -> str:
    try:
        text = json.dumps(messages, ensure_ascii=False, separators=(",", ":"))
        f"{text}{answer}".encode()
    except (TypeError, UnicodeEncodeError) as error:
        raise ValueError(f"a message that is no JSON ({error})") from None
    return text


def is_conversation(value: Any, least: int = 1) -> bool:
    """Return True for a list of at least so many messages with roles, or JSON of one."""
    messages = as_json_list(value) if isinstance(value, str) else value
    return (
        isinstance(messages, list | tuple)
        and len(messages) >= least
        and all(isinstance(one, Mapping) and "role" in one for one in messages)
    )


def messages_of(text: str, answer: str) -> list[Message]:
    """Return a conversation as messages, from its input as JSON and its answer."""
    return [*json.loads(text), {"role": ANSWERS, "content": answer}]


def _messages(value: Any, role: str | None) -> list[Message]:
    """Return a value as messages; a plain text is one of *role*."""
    if isinstance(value, str):
        found = as_json_list(value)
        if found and all(isinstance(one, dict) for one in found):
            value = found
        elif role is not None:
            return [_message({"role": role, "content": value})]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"no list of messages but {'nothing' if value is None else type(value).__name__}")
    return [_message(one) for one in value]


def _message(given: Any) -> Message:
    if not isinstance(given, dict):
        raise ValueError(f"a message that is no object but {type(given).__name__}")
    # A Parquet file has every key in every message, most of them without a value.
    said = {key: value for key, value in given.items() if value is not None}
    role, content = said.pop("role", None), said.pop("content", None)
    if not isinstance(role, str) or not role:
        keys = ", ".join(map(str, given)) or "none"
        raise ValueError(f"a message without a role (keys: {keys}); each has `role` and `content`")
    if content is None and "tool_calls" in said:
        content = ""
    if not isinstance(content, str):
        raise ValueError(f"a message of the role {role!r} whose content is no text but {type(content).__name__}")
    # Answers are compared, and written, without spaces around them.
    return {"role": role, "content": content.strip() if role == ANSWERS else content, **dict(sorted(said.items()))}


KIND = Chat()
