"""Encode conversations for a causal model by a chat template, with a loss on the answers alone.

The template is rendered twice: with the answers, and with marks in their place. The text between two marks is the template's,
so the place of each answer is known to the character, whatever the template does. An answer is its text and the mark of its
end, such as `<|im_end|>`. The whole text is encoded at once, as models read it: the loss is over every token of an answer. A
prompt is the same up to the first token of the last answer.

A conversation that is too long loses its beginning, down to half of the length, and then its last answer loses its end.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from lora_bench.errors import LoraBenchError
from lora_bench.kinds.chat import ANSWERS, Message, messages_of
from lora_bench.kinds.exercises.generation.encode import NO_LOSS, as_example
from lora_bench.kinds.support.row_values import Encoded, Split
from lora_bench.models.library_errors import in_a_sentence
from lora_bench.util.endless_work import processor_seconds

# Characters for private use, which no text has and no template changes.
_MARK = "\ue2a7{}\ue2a8"
_MARKS = re.compile("\ue2a7\\d+\ue2a8")
# A usual template takes a thousandth.
MOST_SECONDS = 5.0
_TAG = re.compile(r"\s*<[^<>\s]+>")
# Some templates write the date, and the same run must be the same on another day. It is the one that Llama's fall back to.
_NOW, _ONE_DAY = "strftime_now", "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"


class Ending(NamedTuple):
    """How an answer ends: with a token, with one that *also* ends it, or with one of *texts* where no token of its own does."""

    token: int
    texts: tuple[str, ...] = ()
    also: tuple[int, ...] = ()


class Turns(NamedTuple):
    """A conversation as text up to the end of its last answer; *answers* are first and behind last characters, end included."""

    text: str
    answers: list[tuple[int, int]]


class ChatFormat:
    """The form of a tokenizer's conversations, by a chat template or the tokenizer's own.

    Raise LoraBenchError if there is no template, or the template leaves out an answer or its end.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None) -> None:
        if template is None and not tokenizer.chat_template:
            raise LoraBenchError(
                "its tokenizer has no chat template; give the task `chat_template: FILE`, or take the chat model of the family"
            )
        if not tokenizer.is_fast:
            raise LoraBenchError("a chat needs a tokenizer with tokenizer.json, which tells where each token stands")
        with in_a_sentence("the tokenizer has several chat templates"):
            text = tokenizer.get_chat_template(template)
        self.tokenizer, self.template = tokenizer, _ONE_DAY + text if _NOW in text else text
        tail = self._pieces([{"role": "user", "content": "a"}, {"role": ANSWERS, "content": "b"}])[-1]
        self.end = tail.rstrip() or tail
        if not self.end:
            raise LoraBenchError(
                "the chat template puts nothing behind an answer, so none would end: let it write {{ eos_token }} there"
            )

    @property
    def ending(self) -> Ending:
        """How an answer ends."""
        ids = self.tokenizer(self.end.strip() or self.end, add_special_tokens=False)["input_ids"]
        added = self.tokenizer.added_tokens_decoder
        if ids[-1] in added:
            # Of several marks, as Phi 3's <|end|> before <|endoftext|>, a model may write the first alone.
            return Ending(ids[-1], also=tuple(one for one in ids[:1] if one != ids[-1] and one in added))
        if self.tokenizer.eos_token_id is None:
            raise LoraBenchError(f"the tokenizer has no end-of-text token, and {self.end!r} behind answers is no token")
        return Ending(self.tokenizer.eos_token_id, (self.end,))

    def turns(self, messages: Sequence[Message]) -> Turns:
        """Return a conversation as text. Raise LoraBenchError if the template refuses the messages, or changes an answer."""
        pieces = self._pieces(messages)
        contents = [message["content"] for message in messages if _is_answer(message)]
        text, answers = pieces[0], []
        for content, piece in zip(contents, pieces[1:], strict=True):
            answers.append((len(text), len(text) + len(content) + self._end_in(piece)))
            text += content + piece
        if text != self._render(messages):
            raise LoraBenchError(
                "the chat template changes an answer, for example by leaving out its reasoning: give a `chat_template` that "
                "writes the content of each message as it is"
            )
        return Turns(text[: answers[-1][1]], answers)

    def _end_in(self, piece: str) -> int:
        """Return the characters of the end of an answer at the start of the text behind it.

        Some templates have another end for the last answer: Phi 3 writes `<|end|>` behind each, and `<|endoftext|>` at last.
        """
        first = _TAG.match(piece)
        return len(self.end) if piece.startswith(self.end) else first.end() if first is not None else 0

    def _pieces(self, messages: Sequence[Message]) -> list[str]:
        places = [place for place, message in enumerate(messages) if _is_answer(message)]
        marked = [
            {**message, "content": _MARK.format(place)} if place in places else message
            for place, message in enumerate(messages)
        ]
        text = self._render(marked)
        if _MARKS.findall(text) != [_MARK.format(place) for place in places]:
            raise LoraBenchError("the chat template does not write each answer once, in its place")
        return _MARKS.split(text)

    def _render(self, messages: Sequence[Message]) -> str:
        fault = "the chat template refuses the messages"
        with processor_seconds(MOST_SECONDS, "the chat template"), in_a_sentence(fault):
            text: str = self.tokenizer.apply_chat_template(list(messages), chat_template=self.template, tokenize=False)
        return text


def encode_conversations(
    split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int, template: str | None, *, last_alone: bool = False
) -> Encoded:
    """Return the training examples, with `labels`: conversations, each of messages as JSON with the first of its answers.

    Earlier answers have no labels if *last_alone*. Raise LoraBenchError if the tokenizer has no template, the template does not
    fit the messages, or *max_length* is below 2.
    """
    if max_length < 2:
        raise LoraBenchError(f"max_length must be at least 2 for a chat, got {max_length}")
    examples, cut = [], 0
    for ids, labels, start in _encoded(split, tokenizer, template):
        labels = [NO_LOSS] * start + labels[start:] if last_alone else labels
        before = max(max_length // 2, max_length - (len(ids) - start))
        first = max(0, start - before)
        last = first + max_length
        cut += len(ids) > max_length
        examples.append({**as_example(ids[first:last]), "labels": labels[first:last]})
    return examples, cut / len(examples) if examples else 0.0


def encode_openings(
    split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int, max_new_tokens: int, template: str | None
) -> Encoded:
    """Return the prompts to answer: each conversation up to its last answer.

    A prompt and *max_new_tokens* of its answer have *max_length* tokens together; the rest is as in `encode_conversations`.
    Raise LoraBenchError as it does, or if no room is left for a prompt.
    """
    room = max_length - max_new_tokens
    if room < 1:
        raise LoraBenchError(
            f"max_length {max_length} leaves no room for a prompt before max_new_tokens {max_new_tokens}: "
            f"raise it to at least {max_new_tokens + 1}, better to the length of the conversations and {max_new_tokens}"
        )
    prompts = [ids[:start] for ids, _, start in _encoded(split, tokenizer, template)]
    examples = [as_example(ids[-room:]) for ids in prompts]
    return examples, sum(len(ids) > room for ids in prompts) / len(prompts) if prompts else 0.0


def _encoded(
    split: Split, tokenizer: PreTrainedTokenizerBase, template: str | None
) -> list[tuple[list[int], list[int], int]]:
    """Return the tokens of each conversation, their labels, and the place of the first token of its last answer."""
    form = ChatFormat(tokenizer, template)
    references: list[Any] = list(split.labels)
    turns = [
        _turns(form, name, messages_of(text, answers[0]))
        for name, (text,), answers in zip(split.ids, split.texts, references, strict=True)
    ]
    if not turns:
        return []
    encoded = tokenizer(
        [one.text for one in turns],
        add_special_tokens=False,
        truncation=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    found = []
    for name, one, ids, offsets in zip(split.ids, turns, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        spans = iter(one.answers)
        start, end = next(spans)
        labels, last = [NO_LOSS] * len(ids), -1
        for place, (first, after) in enumerate(offsets):
            while first >= end and (span := next(spans, None)) is not None:
                (start, end), last = span, -1
            if after > start and first < end:
                labels[place] = ids[place]
                last = place if last < 0 else last
        if last < 1 or end != one.answers[-1][1]:
            raise LoraBenchError(f"the last answer of conversation {name!r} has no tokens, or nothing stands before it")
        found.append((list(ids), labels, last))
    return found


def _turns(form: ChatFormat, name: str, messages: list[Message]) -> Turns:
    try:
        return form.turns(messages)
    except LoraBenchError as error:
        raise LoraBenchError(f"conversation {name!r}: {error}") from error


def _is_answer(message: Message) -> bool:
    """Return True for a message that a model is to write; one without text, such as a call of a tool, is none."""
    return bool(message["role"] == ANSWERS and message["content"])
