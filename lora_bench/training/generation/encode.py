"""Inputs and completions as a causal model takes them, in the format of the LoRA paper's GPT-2 experiments.

    input  <end of text>  completion  <end of text>

The completion is encoded with a space in front, as words inside a text are, and the loss is over its tokens and the one
that ends it. A prompt is the same up to the completion.

What is too long is cut where it costs least. A prompt loses its beginning, as in the paper's code. There a training example
loses its end, so that a long input would leave nothing to learn; here its input goes first, from the beginning, down to
half of the length, and only then the end of its completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lora_bench.errors import LoraBenchError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from lora_bench.tasks import Split

Example = dict[str, list[int]]

NO_LOSS = -100
"""The label of a token that the loss leaves out, in torch and in transformers."""


def encode_completions(
    split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[Example], float]:
    """Examples to learn from: each input with the first of its references.

    Args:
        split: One text an example, and the references as its labels.
        tokenizer: Of a causal model, with an end-of-text token.
        max_length: Tokens of an example, at least 4: a token and an end of text for input and completion each.

    Returns:
        For each example its `input_ids`, `attention_mask` and `labels`, as long as it is; and the share that was cut.

    Raises:
        LoraBenchError: If the tokenizer has no end-of-text token, or *max_length* is too small.
    """
    end = _end_of_text(tokenizer)
    if max_length < 4:
        raise LoraBenchError(f"max_length must be at least 4 for generation, got {max_length}")
    inputs = _tokens(_inputs(split), tokenizer)
    completions = _tokens([f" {references[0].strip()}" for references in _references(split)], tokenizer)
    examples, cut = [], 0
    for source, target in zip(inputs, completions, strict=True):
        source_room = max(max_length // 2, max_length - len(target) - 1) - 1
        prompt = [*_last(source, source_room), end]
        completion = [*target[: max_length - len(prompt) - 1], end]
        cut += len(prompt) + len(completion) < len(source) + len(target) + 2
        examples.append(
            {
                "input_ids": prompt + completion,
                "attention_mask": [1] * (len(prompt) + len(completion)),
                "labels": [NO_LOSS] * len(prompt) + completion,
            }
        )
    return examples, cut / len(examples) if examples else 0.0


def encode_prompts(
    split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int, max_new_tokens: int
) -> tuple[list[Example], float]:
    """Prompts to complete.

    Args:
        split: One text an example.
        tokenizer: Of a causal model, with an end-of-text token.
        max_length: Tokens of a prompt and its completion together.
        max_new_tokens: Tokens to leave for the completion.

    Returns:
        For each example its `input_ids` and `attention_mask`, as long as it is; and the share that was cut.

    Raises:
        LoraBenchError: If the tokenizer has no end-of-text token, or nothing is left for a prompt.
    """
    end = _end_of_text(tokenizer)
    room = max_length - max_new_tokens - 1
    if room < 1:
        raise LoraBenchError(
            f"max_length {max_length} leaves no room for a prompt before max_new_tokens {max_new_tokens}: "
            f"raise it to at least {max_new_tokens + 2}, better to the length of the inputs and {max_new_tokens}"
        )
    inputs = _tokens(_inputs(split), tokenizer)
    prompts = [[*_last(source, room), end] for source in inputs]
    examples = [{"input_ids": prompt, "attention_mask": [1] * len(prompt)} for prompt in prompts]
    return examples, sum(len(source) > room for source in inputs) / len(inputs) if inputs else 0.0


class CompletionCollator:
    """Makes a batch of examples, padded on the right: what the Trainer takes.

    Args:
        tokenizer: Its padding token, or its end-of-text token where it has none, fills what the mask hides.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        padding = tokenizer.pad_token_id
        self.fills = {
            "input_ids": padding if padding is not None else _end_of_text(tokenizer),
            "attention_mask": 0,
            "labels": NO_LOSS,
        }

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Tensors of shape (examples, longest) for each key that the examples have."""
        import torch

        longest = max(len(example["input_ids"]) for example in examples)
        return {
            name: torch.tensor([example[name] + [fill] * (longest - len(example[name])) for example in examples])
            for name, fill in self.fills.items()
            if name in examples[0]
        }


def _inputs(split: Split) -> list[str]:
    return [text for (text,) in split.texts]


def _references(split: Split) -> list[tuple[str, ...]]:
    labels: list[Any] = list(split.labels)
    return labels


def _tokens(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Tokens of each text, without those that a tokenizer puts around a text."""
    if not texts:
        return []
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    return encoded


def _last(tokens: list[int], count: int) -> list[int]:
    return tokens[max(0, len(tokens) - count) :]


def _end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        raise LoraBenchError("the tokenizer has no end-of-text token, so no completion would end: is the model causal?")
    return int(tokenizer.eos_token_id)
