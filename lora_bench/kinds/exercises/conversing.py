"""Chat: an answer is the last message of a conversation."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from lora_bench.kinds.exercises.generation.chat_format import ChatFormat, Ending, encode_conversations, encode_openings
from lora_bench.kinds.exercises.predicting import Example
from lora_bench.kinds.exercises.writing import Writing
from lora_bench.tasks import Split, Task


class Conversing(Writing):
    """Writes the answers of a conversation, in the form of a chat template."""

    def texts(self, split: Split, longest: int) -> tuple[list[Example], float]:
        return encode_conversations(split, self._tokenizer, longest, self._task.chat_template)

    def inputs(self, split: Split, longest: int, new: int) -> tuple[list[Example], float]:
        return encode_openings(split, self._tokenizer, longest, new, self._task.chat_template)

    @classmethod
    def check_tokenizer(cls, task: Task, tokenizer: PreTrainedTokenizerBase) -> None:
        ChatFormat(tokenizer, task.chat_template)

    def _ending(self) -> Ending | None:
        return ChatFormat(self._tokenizer, self._task.chat_template).ending


EXERCISE = Conversing
