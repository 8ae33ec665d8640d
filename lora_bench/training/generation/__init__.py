"""Generation: training examples, texts for inputs, and losses on right texts.

`encode` makes examples of inputs and completions for a causal model, `encode_pairs` those for a model with an encoder and a
decoder, and `chat` those of conversations. `decode` writes texts, `beams` has the search that it uses, and `likelihood` the
losses. Importing this package, or what makes examples, loads no torch; the others do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_bench.training.generation.chat import encode_conversations, encode_openings
from lora_bench.training.generation.encode import CompletionCollator, Example, encode_completions, encode_prompts
from lora_bench.training.generation.encode_pairs import PairCollator, encode_sources, encode_targets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lora_bench.tasks import Split, Task

__all__ = [
    "CompletionCollator",
    "PairCollator",
    "encode_completions",
    "encode_prompts",
    "encode_sources",
    "encode_targets",
    "encode_to_answer",
    "encode_to_learn",
]


def encode_to_learn(
    task: Task, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int, *, apart: bool = False
) -> tuple[list[Example], float]:
    """Return the training examples of a task that writes texts, and the share that was truncated.

    Args:
        task: The task.
        split: Its examples.
        tokenizer: Tokenizer of the model.
        max_length: Tokens of an example; of its input and of its text, if they are *apart*.
        apart: True for a model whose encoder reads the input; it takes no chat.
    """
    if apart:
        return encode_targets(split, tokenizer, max_length)
    if task.kind == "chat":
        return encode_conversations(split, tokenizer, max_length, task.chat_template)
    return encode_completions(split, tokenizer, max_length)


def encode_to_answer(
    task: Task,
    split: Split,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    max_new_tokens: int,
    *,
    apart: bool = False,
) -> tuple[list[Example], float]:
    """Return the inputs of a task that writes texts, and the share that was truncated; see `encode_to_learn`."""
    if apart:
        return encode_sources(split, tokenizer, max_length)
    if task.kind == "chat":
        return encode_openings(split, tokenizer, max_length, max_new_tokens, task.chat_template)
    return encode_prompts(split, tokenizer, max_length, max_new_tokens)
