"""Trial of an adapted model on a small one, in a second and before any training.

The small model has the class, width, heads and options of the base model, with two layers, a short vocabulary and random
weights. A method that fails on a shape or a kind of layer fails there too. A method that names a layer above the second is
tried at the base model's depth, with the weights of those two layers shared. Silent failures are looked for: weights without a
gradient, a frozen head, a padded row that is answered differently from the row alone.
"""

import copy
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from lora_bench.errors import LoraBenchError
from lora_bench.families import family_of

LAYERS, VOCABULARY, STEPS = 2, 128, 3
# Relative differences of logits up to here may be rounding, in float32 and in float64.
ROUNDING, LESS_ROUNDING = 2e-6, 1e-7


def is_in(path: str, head: Iterable[str]) -> bool:
    """Return True if a weight of an adapted model belongs to the head, given by the names of its modules.

    PEFT puts its own names around the base model's: `base_model.model.classifier.modules_to_save.default.dense.weight`.
    """
    return any(f".{module}." in f".{path}" for module in head)


def inside_peft(model: nn.Module) -> Any:
    """Return a model without PEFT's wrapper, its adapters in its layers."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def small_config(config: PreTrainedConfig, layers: int | None = LAYERS) -> PreTrainedConfig:
    """Return a config that differs only in the number of *layers*, if given, and the vocabulary, without dropout."""
    small = copy.deepcopy(config)
    try:
        family = family_of(config.model_type)
        keys = [family.num_layers_key, family.num_decoder_layers_key]
    except LoraBenchError:
        keys = ["num_hidden_layers"]  # a family that is not declared is tried all the same
    for key in keys if layers is not None else ():
        if key is not None:
            setattr(small, key, layers)
    small.vocab_size = VOCABULARY
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        token = getattr(small, name, None)
        setattr(small, name, token if isinstance(token, int) and 0 <= token < 3 else 1)
    for name in vars(small):
        if name.endswith(("dropout", "dropout_prob", "dropout_rate", "_pdrop")) and isinstance(
            getattr(small, name), float
        ):
            setattr(small, name, 0.0)
    return small


def small_model(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """Return a model of two layers with random weights."""
    model: PreTrainedModel = model_class(small_config(config)).float()
    return model


def deep_model(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """Return a small model of the base model's depth, whose layers above the second share its weights."""
    shallow = small_model(model_class, config)
    own = {**dict(shallow.named_parameters()), **dict(shallow.named_buffers())}
    with torch.device("meta"):
        deep: PreTrainedModel = model_class(small_config(config, layers=None)).float()
    for name, tensor in [*deep.named_parameters(), *deep.named_buffers()]:
        # The first number of a path is that of its layer.
        source = own.get(name, own.get(re.sub(r"\.\d+\.", ".1.", name, count=1)))
        if source is None or source.shape != tensor.shape:  # layers of other kinds follow the second
            source = torch.randn(tensor.shape) * config.initializer_range
        path, _, leaf = name.rpartition(".")
        shared = source.detach()
        setattr(deep.get_submodule(path), leaf, nn.Parameter(shared) if isinstance(tensor, nn.Parameter) else shared)
    deep.tie_weights()
    return deep


def fault_of(model: nn.Module, title: str, head: Sequence[str]) -> str | None:
    """Return the fault of an adapted `small_config` in a few steps, or None; *title* names the method, *head* the modules."""
    freed = {path: weight for path, weight in model.named_parameters() if weight.requires_grad}
    adapter = {path: weight for path, weight in freed.items() if not is_in(path, head)}
    if not adapter:
        return f"{title} trains nothing of this model beside its head"
    frozen = [
        path
        for path, weight in model.named_parameters()
        if is_in(path, head) and not weight.requires_grad and "original_module" not in path
    ]
    if frozen:
        return f"{title} leaves a part of the head frozen: {frozen[0]}"
    if without := _without_gradient(model, adapter):
        return f"{len(without)} of the {len(adapter)} weights of {title} get no gradient here, {without[0]} first"
    if not _answers_padded_rows_alike(model):
        return f"with {title} a padded row is answered differently from the row alone"
    return None


def _batch(model: nn.Module, lengths: tuple[int, ...]) -> dict[str, Tensor]:
    config: Any = model.config
    ids = torch.full((len(lengths), max(lengths)), config.pad_token_id)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.arange(5, 5 + length) + 7 * row
        if config.eos_token_id not in (None, config.pad_token_id):
            ids[row, length - 1] = config.eos_token_id  # where T5's head reads
    batch = {"input_ids": ids, "attention_mask": (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()}
    # Here, so that importing the tuners loads nothing but PEFT.
    from lora_bench.kinds import kind_of_class

    if (kind := kind_of_class(type(inside_peft(model)).__name__)) is not None:
        shape = kind.batch_shapes(len(lengths), max(lengths), labels=1)["input_ids"]
        batch = {name: tensor.reshape(shape) for name, tensor in batch.items()}
    return batch | decoder_inputs(model, ids)


def decoder_inputs(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """Return the tokens that a decoder behind an encoder reads: the encoder's. Nothing for a model without a text to write."""
    return {"decoder_input_ids": ids} if hasattr(model, "prepare_decoder_input_ids_from_labels") else {}


def _logits(model: nn.Module, lengths: tuple[int, ...]) -> Tensor:
    """Return the logits of rows of these lengths; of answers in a text those of their first and last token side by side."""
    found = model(**_batch(model, lengths))
    return found.logits if "logits" in found else torch.stack([found.start_logits, found.end_logits], -1)


def _without_gradient(model: nn.Module, adapter: dict[str, nn.Parameter]) -> list[str]:
    """Train a few steps; return the weights that never had a gradient."""
    model.train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    reached: set[str] = set()
    for _ in range(STEPS):
        logits = _logits(model, (6, 6))
        (logits.float() - torch.arange(logits.shape[-1])).pow(2).mean().backward()
        reached |= {path for path, weight in adapter.items() if weight.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
    return sorted(set(adapter) - reached)


def _answers_padded_rows_alike(model: nn.Module) -> bool:
    """Return whether padding leaves the logits of a row as they are, but for rounding."""
    if _padding_difference(model) <= ROUNDING:
        return True
    try:
        return bool(_padding_difference(model.double()) <= LESS_ROUNDING)
    except RuntimeError:  # a method may compute in float32 alone
        pass
    finally:
        model.float()
    return bool(_padding_difference(model) <= 1e-3)


@torch.no_grad()
def _padding_difference(model: nn.Module) -> float:
    """Return the largest difference that padding makes to the logits of a row, relative to the logits."""
    model.eval()
    alone = _logits(model, (6,))
    padded = _logits(model, (6, 9))[:1]
    if alone.dim() == 3:  # a language model answers at every token, and so does one of words or answers
        padded = padded[:, : alone.shape[1]]
    return float((alone - padded).abs().max() / alone.abs().max().clamp(min=1e-6))
