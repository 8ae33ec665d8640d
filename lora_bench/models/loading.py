"""Load a base model with a head, which is all that its checkpoint lacks or has for another task, and its tokenizer."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.families import declared_family
from lora_bench.kinds import KindName, find_kind
from lora_bench.kinds.support.task_kind import TaskKind
from lora_bench.models.find_family import use_family
from lora_bench.models.library_errors import in_a_sentence
from lora_bench.models.registry import BaseModel
from lora_bench.models.safety import read_config
from lora_bench.records.spec import AnyPrecision, PlannedSpec

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# What models that look positions up call their table.
POSITION_TABLES = ("position_embeddings", "wpe", "embed_positions")

TOKENIZER_FILES = ("tokenizer.json", "vocab*", "*.model", "tokenizer_config.json")

# DeBERTa's `pooler_dropout` is another layer before the same classifier, and the papers' `cls_dropout` leaves it alone.
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
HEAD_DROPOUTS = {"classifier_dropout", "cls_dropout"}
BASE_DROPOUTS = re.compile(r"(?!classifier|cls|pooler|summary).*(dropout|dropout_prob|dropout_rate|pdrop)")


def load_model(
    base_model: BaseModel,
    *,
    kind: KindName,
    labels: int,
    base_dropout: float | None = None,
    head_dropout: float | None = None,
    attention: str | None = None,
    on_meta: bool = False,
    precision: AnyPrecision = "float32",
) -> tuple[PreTrainedModel, list[str]]:
    """Return the base model for a kind of task, and the names of its head's modules, if it has one.

    Its weights are in *precision* from the moment they are read, and its head in float32. None leaves dropout in the base
    model, dropout before the classifier, or the kernel path of attention as the checkpoint has it. On the meta device it has
    shapes and names only, in a fraction of a second. Raise LoraBenchError if it cannot be loaded, UnsupportedPair if the kind
    is generation and the model writes no text, or transformers has no model of its type for words or answers.
    """
    use_family(base_model)
    options: dict[str, Any] = {"dtype": precision}
    if attention is not None:
        options["attn_implementation"] = attention
    task_kind = find_kind(kind)
    if not task_kind.has_head:
        _refuse_encoder(base_model)
    with in_a_sentence(f"model {base_model.name!r} cannot be loaded: config.json ({_described(base_model)})"):
        config = _config(base_model, task_kind, labels, base_dropout, head_dropout)
        if not base_model.remote_code:
            _refuse_unknown(config, task_kind)
        if not base_model.has_weights:
            model = _drawn(base_model, config, task_kind, on_meta, options)
            return model, _whole_head(model, _heads_of_other_tasks(model) if task_kind.has_head else set())
        if on_meta:
            options["device_map"] = "meta"
        model, report = _from_weights(base_model, config, task_kind, options)
    lacking = set(report["missing_keys"])
    other_shapes = {str(key[0]): (tuple(key[1]), tuple(key[2])) for key in report["mismatched_keys"]}
    _refuse_incomplete(base_model, model, task_kind, lacking, other_shapes)
    _refuse_dropped(base_model, model, report["unexpected_keys"])
    lacking |= set(other_shapes)
    if task_kind.has_head:
        lacking |= _heads_of_other_tasks(model)
    return model, _whole_head(model, lacking)


def load_rounded(base_model: BaseModel, spec: PlannedSpec, kind: KindName) -> PreTrainedModel:
    """Return the base model that a run had, in float32, with its weights rounded as the run stored them."""
    model, _ = load_model(base_model, kind=kind, labels=len(spec.task.labels), precision=spec.training.base_precision)
    return model.float()


def _whole_head(model: PreTrainedModel, lacking: set[str]) -> list[str]:
    """Return the modules of the head, with their weights in float32."""
    head = head_modules(model, lacking)
    for name in head:
        model.get_submodule(name).float()
    return head


def _described(base_model: BaseModel) -> str:
    """Return what a configuration says that its model is: its type, and how its weights are quantised."""
    quantised = read_config(base_model.name, base_model.folder).get("quantization_config")
    if not quantised:
        return base_model.model_type
    how = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
    return f"{base_model.model_type} with weights quantised by {how}; weights in float32, float16 or bfloat16 need no library"


def _automatic(kind: TaskKind, model_type: str) -> Any:
    import transformers

    return getattr(transformers, f"AutoModelFor{kind.names_of(apart=reads_apart(model_type)).auto}")


def _drawn(
    base_model: BaseModel, config: PretrainedConfig, kind: TaskKind, on_meta: bool, options: dict[str, Any]
) -> Any:
    import torch

    with torch.device("meta") if on_meta else contextlib.nullcontext():
        return _automatic(kind, base_model.model_type).from_config(config, **options)


def _from_weights(
    base_model: BaseModel, config: PretrainedConfig, kind: TaskKind, options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Return a model with the weights of its folder, and transformers' report of those that it lacks."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # missing weights are expected: they make the head
    logging.disable_progress_bar()
    try:
        model, report = _automatic(kind, base_model.model_type).from_pretrained(
            base_model.folder,
            config=config,
            use_safetensors=True,
            trust_remote_code=base_model.remote_code,
            output_loading_info=True,
            # Transformers 5.25 would put code of the hub in place of layers without being asked.
            use_kernels=False,
            # A classifier of another shape belongs to another task, and is drawn anew like any other head.
            ignore_mismatched_sizes=kind.has_head,
            **options,
        )
    finally:
        logging.set_verbosity(verbosity)
    return model, report


def _refuse_incomplete(
    base_model: BaseModel,
    model: PreTrainedModel,
    kind: TaskKind,
    lacking: set[str],
    other_shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]],
) -> None:
    """Refuse weights that lack some of the base model, which would be drawn at random; a pooler may lack, as some have none."""
    base: tuple[str, ...] = (f"{model.base_model_prefix}.",)
    if not kind.has_head and not hasattr(model, model.base_model_prefix):
        base = ("shared.", "encoder.", "decoder.")  # of T5, which has them beside its output
    needed = [name for name, _ in model.named_parameters() if name.startswith(base) and ".pooler." not in name]
    absent = [name for name in needed if name in lacking]
    if absent:
        raise LoraBenchError(
            f"model {base_model.name!r} cannot be loaded: its weights lack {len(absent):,} of the {len(needed):,} that its "
            f"config.json ({base_model.model_type}) needs, such as {absent[0]}"
        )
    misshapen = [name for name in needed if name in other_shapes]
    if misshapen:
        found, said = other_shapes[misshapen[0]]
        raise LoraBenchError(
            f"model {base_model.name!r} cannot be loaded: its config.json gives {misshapen[0]} the shape {said}, and its "
            f"weights have {found}"
        )


def _refuse_dropped(base_model: BaseModel, model: PreTrainedModel, unexpected: Iterable[str]) -> None:
    """Refuse weights of further layers like the model's: its configuration has fewer, and the rest would be left out."""
    base = f"{model.base_model_prefix}."
    own = {_NUMBER.sub("#", name).removeprefix(base) for name, _ in model.named_parameters()}
    dropped = sorted(
        name for name in unexpected if _NUMBER.search(name) and _NUMBER.sub("#", name).removeprefix(base) in own
    )
    if dropped:
        raise LoraBenchError(
            f"model {base_model.name!r} cannot be loaded: its config.json ({base_model.model_type}) has too few layers for "
            f"{len(dropped):,} of its weights, such as {dropped[0]}"
        )


def _config(
    base_model: BaseModel, kind: TaskKind, labels: int, base_dropout: float | None, head_dropout: float | None
) -> PretrainedConfig:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        base_model.folder, trust_remote_code=base_model.remote_code, **kind.head_options(labels)
    )
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        raise ValueError("it does not say the decoder_start_token_id with which its decoder begins")
    for name, value in config.to_dict().items():
        if base_dropout is not None and BASE_DROPOUTS.fullmatch(name) and isinstance(value, int | float):
            setattr(config, name, base_dropout)
    if head_dropout is not None:
        for name in HEAD_DROPOUTS:
            setattr(config, name, head_dropout)
    return config


def _refuse_unknown(config: PretrainedConfig, kind: TaskKind) -> None:
    """Refuse a kind of task for which transformers has no model of this type."""
    if type(config) not in _automatic(kind, config.model_type)._model_mapping:
        raise UnsupportedPair(
            f"transformers has no {config.model_type} of the kind {kind.model_names.auto}, as {kind.name} need"
        )


def _refuse_encoder(base_model: BaseModel) -> None:
    """Refuse an encoder for generation: it is trained to fill gaps and sees both sides of a word."""
    if not writes_on(base_model.model_type) and not reads_apart(base_model.model_type):
        both = read_config(base_model.name, base_model.folder).get("is_encoder_decoder")
        what = (
            "has an encoder and a decoder, and no family names the attention between them (cross_attention)"
            if both
            else "is an encoder and writes no text"
        )
        raise UnsupportedPair(f"{base_model.model_type} {what}; generation needs a causal model such as gpt2")


def writes_on(model_type: str) -> bool:
    """Return True if a model of this type writes text from left to right: each token sees only those before it."""
    known = declared_family(model_type)
    if known is not None:
        return known.causal
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def reads_apart(model_type: str) -> bool:
    """Return True if a model of this type reads an input with an encoder, and writes a text with a decoder behind it."""
    known = declared_family(model_type)
    return known is not None and known.cross_attention is not None


def longest_input(model: nn.Module) -> int | None:
    """Return the tokens of the longest input that a table of positions has rows for; None if positions are computed."""
    from torch import nn

    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in POSITION_TABLES:
            # RoBERTa counts from the row after that of padding, and BART leaves rows out.
            first = 0 if module.padding_idx is None else int(module.padding_idx) + 1
            return int(module.num_embeddings) - first - int(getattr(module, "offset", 0))
    return None


def load_tokenizer(base_model: BaseModel) -> PreTrainedTokenizerBase:
    """Return the tokenizer, with a padding token (the end-of-text token if it has none)."""
    tokenizer = open_tokenizer(f"model {base_model.name!r}", base_model.folder, trusted=base_model.remote_code)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise LoraBenchError(
            f"the tokenizer of model {base_model.name!r} has neither a padding nor an end-of-text token"
        )
    return tokenizer


def open_tokenizer(owner: str, folder: Path, *, trusted: bool = False) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a folder, whose code runs only if it is *trusted*; *owner* names the folder in errors."""
    from transformers import AutoTokenizer

    from lora_bench.models.sentencepiece import check_readable, normalise_as_trained

    # For a folder without a tokenizer, transformers makes an empty one of the model's class.
    files = sorted({path.name for pattern in TOKENIZER_FILES for path in folder.glob(pattern)})
    if not files:
        raise LoraBenchError(f"{owner} has no tokenizer: none of {', '.join(TOKENIZER_FILES)}")
    check_readable(owner, folder)
    with in_a_sentence(f"{owner} has no tokenizer that can be loaded ({', '.join(files)})"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
        normalise_as_trained(tokenizer, folder)
    return tokenizer


def _heads_of_other_tasks(model: PreTrainedModel) -> set[str]:
    """Return weights of modules that are a head in the model family, although a fine-tuned checkpoint may contain them."""
    family = declared_family(model.config.model_type)
    # Of an undeclared family only missing weights are known to be a head.
    heads = () if family is None else family.heads
    return {name for name, _ in model.named_parameters() if name.split(".")[0] in heads}


def head_modules(model: nn.Module, missing: set[str]) -> list[str]:
    """Return the modules with every weight that the checkpoint lacks (*missing*): the largest that contain nothing else."""
    heads: list[str] = []

    def descend(module: nn.Module, name: str) -> None:
        weights = [key for key, _ in module.named_parameters(prefix=name)]
        if not missing.intersection(weights):
            return
        own = [key for key, _ in module.named_parameters(prefix=name, recurse=False)]
        if name and (missing.issuperset(weights) or missing.intersection(own)):
            heads.append(name)
            return
        for child_name, child in module.named_children():
            descend(child, f"{name}.{child_name}" if name else child_name)

    descend(model, "")
    return heads
