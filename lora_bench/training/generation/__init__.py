"""Generation with a causal model: training examples, completions of prompts, and losses on right texts.

`encode` makes examples of inputs and completions, `chat` those of conversations, `decode` writes completions, `beams` has the
search that it uses, and `likelihood` the losses. Importing this package, `encode` or `chat` loads no torch; the others do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_bench.training.generation.chat import encode_conversations, encode_openings
from lora_bench.training.generation.encode import CompletionCollator, Example, encode_completions, encode_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lora_bench.tasks import Split, Task

__all__ = ["CompletionCollator", "encode_completions", "encode_prompts", "encode_to_answer", "encode_to_learn"]


def encode_to_learn(
    task: Task, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[Example], float]:
    """Return the training examples of a task that writes texts, and the share that was truncated."""
    if task.kind == "chat":
        return encode_conversations(split, tokenizer, max_length, task.chat_template)
    return encode_completions(split, tokenizer, max_length)


def encode_to_answer(
    task: Task, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int, max_new_tokens: int
) -> tuple[list[Example], float]:
    """Return the prompts of a task that writes texts, and the share that was truncated."""
    if task.kind == "chat":
        return encode_openings(split, tokenizer, max_length, max_new_tokens, task.chat_template)
    return encode_prompts(split, tokenizer, max_length, max_new_tokens)
