"""Conversations: rows of messages, or of a prompt and its completion, in one form.

A conversation ends with an answer, the last message of the role `assistant`. The messages before it are kept as one text of
JSON, the input of an example; the answer is its text to write. Messages after it are left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lora_bench.kinds.support.label_sets import as_json_list

Message = dict[str, Any]

ANSWERS = "assistant"
"""Role of the messages that a model writes."""


class NoAnswer(ValueError):
    """A conversation without a message of the role `assistant`."""


def conversation(prompt: Any, *completion: Any) -> tuple[str, str]:
    """Return the messages before the last answer as JSON, and the answer.

    Args:
        prompt: A list of messages, or JSON of one; beside a completion also the text of a user's message.
        completion: The text of an answer, or further messages in either form; nothing if *prompt* has the answer.

    Raises:
        NoAnswer: If there is no answer.
        ValueError: If a value is no conversation.
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
    """Return the messages to answer as JSON: those of *prompt*, a list, JSON of one or a text, without a last answer.

    Raises:
        ValueError: If it is no conversation, or empty.
    """
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
