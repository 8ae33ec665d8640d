"""Encode inputs and texts to write for a model whose encoder reads the input and whose decoder writes the text.

Each is encoded as the tokenizer encodes a single text, and ends with the end-of-text token. Each may have `max_length` tokens;
a longer one loses its end before that token. The loss is over every token of the text. The decoder reads the text shifted by
one, behind the token with which the model begins; the model's own rule makes this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lora_bench.errors import LoraBenchError
from lora_bench.kinds.exercises.generation.encode import (
    NO_LOSS,
    CompletionCollator,
    as_example,
    end_of_text,
    inputs_of,
    references_of,
)
from lora_bench.kinds.support.row_values import Split
from lora_bench.records.budget import TARGETS

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

Pair = dict[str, Any]
"""`input_ids` and `attention_mask` as lists, and `TARGETS` as a tuple, since it has another length."""

Collate = Callable[[Any], Mapping[str, Any]]


def encode_targets(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[list[Pair], float]:
    """Return the training examples: each input with the first of its references, each of *max_length* tokens at most.

    Returns:
        The `input_ids`, `attention_mask` and `TARGETS` of each example, unpadded; and the share that was truncated.

    Raises:
        LoraBenchError: If the tokenizer has no end-of-text token, or *max_length* is below 2.
    """
    sources, cut = _ended(inputs_of(split), tokenizer, max_length)
    texts = [references[0].strip() for references in references_of(split)]
    targets, cut_targets = _ended(texts, tokenizer, max_length)
    examples = [{**as_example(source), TARGETS: tuple(target)} for source, target in zip(sources, targets, strict=True)]
    return examples, len(cut | cut_targets) / max(1, len(examples))


def encode_sources(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[list[Pair], float]:
    """Return the inputs that the model is to write for, and the share that was truncated; see `encode_targets`."""
    sources, cut = _ended(inputs_of(split), tokenizer, max_length)
    return [as_example(source) for source in sources], len(cut) / max(1, len(sources))


class PairCollator:
    """Makes a batch for the Trainer; inputs and texts are padded on the right, each to the longest of their own."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._inputs = CompletionCollator(tokenizer)

    def __call__(self, examples: Sequence[Pair]) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask`, shape (examples, longest input), and `labels`, (examples, longest text)."""
        import torch

        targets = [example[TARGETS] for example in examples]
        longest = max(map(len, targets))
        labels = [[*target, *[NO_LOSS] * (longest - len(target))] for target in targets]
        return {**self._inputs(examples), "labels": torch.tensor(labels)}


def with_decoder_inputs(collate: Collate, model: Any) -> Collate:
    """Return a function that makes the same batches with the inputs of the decoder, as the model's own rule shifts its labels.

    A loss that is computed outside of the model takes the labels away from it. For a model that continues its input, this is
    *collate*.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    shift = getattr(base, "prepare_decoder_input_ids_from_labels", None)
    if shift is None:
        return collate

    def collated(examples: Any) -> dict[str, Any]:
        batch = collate(examples)
        return {**batch, "decoder_input_ids": shift(batch["labels"])}

    return collated


def _ended(texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[list[list[int]], set[int]]:
    """Return the tokens of each text up to its end of text, and the indexes of those that were truncated."""
    end = end_of_text(tokenizer)
    if max_length < 2:
        raise LoraBenchError(f"max_length must be at least 2 for an encoder and a decoder, got {max_length}")
    encoded: list[list[int]] = tokenizer(texts, truncation=False, verbose=False)["input_ids"] if texts else []
    rows, cut = [], set()
    for index, ids in enumerate(encoded):
        whole = ids if ids and ids[-1] == end else [*ids, end]
        if len(whole) > max_length:
            cut.add(index)
            whole = [*whole[: max_length - 1], end]
        rows.append(whole)
    return rows, cut
