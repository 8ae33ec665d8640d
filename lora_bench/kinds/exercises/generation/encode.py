"""Encode inputs and the texts to write for them.

For a causal model, an example has the format of the LoRA paper's GPT-2 experiments:

    input  <end of text>  completion  <end of text>

The completion is encoded with a space in front, like words inside a text. The loss is over its tokens and its end of text. A
prompt is the same up to the completion.

Long texts are truncated where it costs least. A prompt loses its beginning, as in the paper's code. There a training example
loses its end, so that a long input leaves nothing to learn. Here its input loses its beginning first, down to half of the
length, and only then its completion loses its end.

For a model whose encoder reads the input and whose decoder writes the text, each is encoded as the tokenizer encodes a single
text, and ends with the end-of-text token. Each may have `max_length` tokens; a longer one loses its end before that token. The
loss is over every token of the text. The decoder reads the text shifted by one, behind the token with which the model begins.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from lora_bench.errors import LoraBenchError
from lora_bench.kinds.support.row_values import Encoded, Split
from lora_bench.records.budget import TARGETS

Example = dict[str, list[int]]

NO_LOSS = -100
"""Label of a token that the loss ignores, in torch and in transformers."""


def encode_completions(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Return the training examples, with `labels`: each input with the first of its references, of *max_length* tokens at most.

    Raise LoraBenchError if the tokenizer has no end-of-text token, or *max_length* is below 4: a token and an end of text for
    input and completion each.
    """
    end = end_of_text(tokenizer)
    if max_length < 4:
        raise LoraBenchError(f"max_length must be at least 4 for generation, got {max_length}")
    inputs = _tokens(inputs_of(split), tokenizer)
    completions = _tokens([f" {references[0].strip()}" for references in references_of(split)], tokenizer)
    examples, cut = [], 0
    for source, target in zip(inputs, completions, strict=True):
        source_room = max(max_length // 2, max_length - len(target) - 1) - 1
        prompt = [*_last(source, source_room), end]
        completion = [*target[: max_length - len(prompt) - 1], end]
        cut += len(prompt) + len(completion) < len(source) + len(target) + 2
        examples.append({**as_example(prompt + completion), "labels": [NO_LOSS] * len(prompt) + completion})
    return examples, cut / len(examples) if examples else 0.0


def encode_prompts(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int, max_new_tokens: int) -> Encoded:
    """Return prompts with room for *max_new_tokens*. Raise LoraBenchError without room, or without an end-of-text token."""
    end = end_of_text(tokenizer)
    room = max_length - max_new_tokens - 1
    if room < 1:
        raise LoraBenchError(
            f"max_length {max_length} leaves no room for a prompt before max_new_tokens {max_new_tokens}: "
            f"raise it to at least {max_new_tokens + 2}, better to the length of the inputs and {max_new_tokens}"
        )
    inputs = _tokens(inputs_of(split), tokenizer)
    examples = [as_example([*_last(source, room), end]) for source in inputs]
    return examples, sum(len(source) > room for source in inputs) / len(inputs) if inputs else 0.0


Pair = dict[str, Any]
"""`input_ids` and `attention_mask` as lists, and `TARGETS` as a tuple, since it has another length."""

Collate = Callable[[Any], Mapping[str, Any]]


class CompletionCollator:
    """Makes a batch of examples for the Trainer, padded on the right with a token that the mask hides."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        padding = tokenizer.pad_token_id
        self.fills = {
            "input_ids": padding if padding is not None else end_of_text(tokenizer),
            "attention_mask": 0,
            "token_type_ids": tokenizer.pad_token_type_id,
            "labels": NO_LOSS,
            "position_ids": 0,  # of a row of several texts: each token of padding is a text of its own
        }

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Return tensors of shape (examples, longest) for each key of the examples."""
        longest = max(len(example["input_ids"]) for example in examples)
        return {
            name: torch.tensor([example[name] + [fill] * (longest - len(example[name])) for example in examples])
            for name, fill in self.fills.items()
            if name in examples[0]
        }


def packing(collate: Collate) -> Collate:
    """Return a function that makes batches of fewer rows, in which texts stand one behind the other.

    No row is longer than the longest text. The longest texts are put first, each into the first row that has room. No text has
    a label at its first token, which would be that of the text before it.
    """

    def packed(examples: Sequence[Example]) -> dict[str, Any]:
        by_length = sorted(examples, key=lambda example: -len(example["input_ids"]))
        room, rows = len(by_length[0]["input_ids"]), list[Example]()
        for example in by_length:
            ids = example["input_ids"]
            row = next((row for row in rows if len(row["input_ids"]) + len(ids) <= room), None)
            if row is None:
                row = {"input_ids": [], "labels": [], "position_ids": []}
                rows.append(row)
            row["input_ids"] += ids
            row["labels"] += [NO_LOSS, *example["labels"][1:]]
            row["position_ids"] += range(len(ids))
        # With a cache, transformers reads no texts from position ids.
        return {**collate(rows), "use_cache": False}

    return packed


def as_example(tokens: list[int]) -> Example:
    """Return tokens with a mask that leaves none out."""
    return {"input_ids": tokens, "attention_mask": [1] * len(tokens)}


def inputs_of(split: Split) -> list[str]:
    """Return the text of each example."""
    return [text for (text,) in split.texts]


def references_of(split: Split) -> list[tuple[str, ...]]:
    """Return the right texts of each example."""
    labels: list[Any] = list(split.labels)
    return labels


def _tokens(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the tokens of each text, without those that a tokenizer adds around a text."""
    if not texts:
        return []
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    return encoded


def _last(tokens: list[int], count: int) -> list[int]:
    return tokens[max(0, len(tokens) - count) :]


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the end-of-text token. Raise LoraBenchError if the tokenizer has none."""
    if tokenizer.eos_token_id is None:
        raise LoraBenchError("the tokenizer has no end-of-text token, so no completion would end: is the model causal?")
    return int(tokenizer.eos_token_id)


def encode_targets(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Return the training examples, with `TARGETS`: inputs and the first of their references, of *max_length* tokens at most.

    Raise LoraBenchError if the tokenizer has no end-of-text token, or *max_length* is below 2.
    """
    sources, cut = _ended(inputs_of(split), tokenizer, max_length)
    texts = [references[0].strip() for references in references_of(split)]
    targets, cut_targets = _ended(texts, tokenizer, max_length)
    examples = [{**as_example(source), TARGETS: tuple(target)} for source, target in zip(sources, targets, strict=True)]
    return examples, len(cut | cut_targets) / max(1, len(examples))


def encode_sources(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Return the inputs that the model is to write for; see `encode_targets`."""
    sources, cut = _ended(inputs_of(split), tokenizer, max_length)
    return [as_example(source) for source in sources], len(cut) / max(1, len(sources))


class PairCollator:
    """Makes a batch for the Trainer; inputs and texts are padded on the right, each to the longest of their own."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._inputs = CompletionCollator(tokenizer)

    def __call__(self, examples: Sequence[Pair]) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask`, shape (examples, longest input), and `labels`, (examples, longest text)."""
        targets = [torch.tensor(example[TARGETS], dtype=torch.long) for example in examples]
        labels = pad_sequence(targets, batch_first=True, padding_value=NO_LOSS)
        return {**self._inputs(examples), "labels": labels}


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
