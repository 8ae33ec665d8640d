"""Adapters of AdapterHub's `adapters` as those of our tuners, where both compute the same.

`save_adapter` writes `adapter_config.json`, the weights (`pytorch_adapter.bin`, or `adapter.safetensors`), and for a model with
a head `head_config.json` with weights of its own. Weights are named as in the model, with the adapter's name among them:
`roberta.encoder.layer.0.output.adapters.NAME.adapter_up.weight`, and for the prefix of all layers
`roberta.prefix_tuning.prefix_tunings.NAME.self_prefix.control_trans`, which each layer has once more under its own name.

What is equal is what `tests/tuners/test_adapterhub.py` compares by numbers. Where LayerNorm comes before a block, pfeiffer and
parallel adapters differ by design: see `lora_bench.tuners.bottleneck`.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.exchange.adapters import portable_adapter as portable
from lora_bench.exchange.adapters.portable_adapter import PortableAdapter
from lora_bench.families import family_of
from lora_bench.tuners import BottleneckConfig, PrefixConfig
from lora_bench.tuners.sites import TunerConfig

SAFE_WEIGHTS, PICKLED_WEIGHTS = "adapter.safetensors", "pytorch_adapter.bin"
HEAD_CONFIG, SAFE_HEAD, PICKLED_HEAD = "head_config.json", "model_head.safetensors", "pytorch_model_head.bin"

_BERT_LINE = ("bert", "roberta", "xlm-roberta", "electra", "deberta-v2")
EQUAL: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_BERT_LINE, ("houlsby", "pfeiffer", "parallel", "prefix")),
    "gpt2": ("houlsby", "prefix"),
}
"""Kinds of adapters that are the same in both libraries, by model type."""

VARIANTS: dict[str, dict[str, Any]] = {
    "houlsby": {"mh_adapter": True, "output_adapter": True, "is_parallel": False, "original_ln_before": False},
    "pfeiffer": {"mh_adapter": False, "output_adapter": True, "is_parallel": False, "original_ln_before": True},
    "parallel": {"mh_adapter": False, "output_adapter": True, "is_parallel": True},
}
"""Keys of AdapterHub's config that place an adapter, by our name of the place."""

PLAIN = {
    "original_ln_after": True, "residual_before_ln": True, "ln_before": False, "ln_after": False, "use_gating": False,
    "inv_adapter": None, "cross_adapter": False, "phm_layer": False, "stochastic_depth": 0.0,
}  # fmt: skip
"""Further keys, with the value in which an adapter is one of ours."""

KNOWN = {
    *PLAIN, *(key for keys in VARIANTS.values() for key in keys), "non_linearity", "scaling", "leave_out",
    # Read from the weights, or without effect once they are trained.
    "architecture", "reduction_factor", "dropout", "init_weights", "init_weights_seed", "adapter_residual_before_ln",
    "inv_adapter_reduction_factor", "phm_dim", "factorized_phm_W", "shared_W_phm", "shared_phm_rule", "factorized_phm_rule",
    "phm_c_init", "phm_init_range", "learn_phm", "hypercomplex_nonlinearity", "phm_rank", "phm_bias",
}  # fmt: skip
KNOWN_OF_PREFIX = {
    "architecture", "encoder_prefix", "cross_prefix", "leave_out", "flat", "prefix_length", "bottleneck_size", "non_linearity",
    "dropout", "use_gating", "shared_gating", "init_weights_seed",
}  # fmt: skip

_THEIRS = re.compile(
    r"(?P<layer>.*\.\d+)\.(?P<site>[a-z_.]+)\.adapters\.[^.]+\.adapter_(?P<part>down\.0|up)\.(?P<kind>weight|bias)"
)
_PREFIX = re.compile(r"prefix_tuning\.prefix_tunings\.[^.]+\.self_prefix\.(?P<part>.+)")
_NETWORK = ("wte.weight", *(f"control_trans.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")))

HEAD_KINDS = {
    "classification": "SequenceClassification",
    "multilabel_classification": "SequenceClassification",
    "tagging": "TokenClassification",
    "question_answering": "QuestionAnswering",
}
"""Part of the name of transformers' class, by AdapterHub's type of head."""


def from_adapterhub(
    folder: Path, settings: Mapping[str, Any], model: PreTrainedModel, base: str, *, allow_pickle: bool
) -> PortableAdapter:
    """Return an adapter that AdapterHub's `save_adapter` wrote, for the skeleton of its base model, named *base*.

    Raise UnsupportedPair if it computes something else than ours on this type of model; LoraBenchError if it is of another
    method, has an option that ours lack, or cannot be read.
    """
    if not str(settings.get("version")).startswith("adapters."):
        raise LoraBenchError(
            f"{folder} was saved by adapter-transformers, before `adapters`: load it with `adapters` and save it again"
        )
    method = settings["config"]
    if not isinstance(method, dict) or method.get("architecture") not in (None, "prefix_tuning"):
        name = method.get("architecture") if isinstance(method, dict) else method
        raise LoraBenchError(f"{folder} holds {name} of AdapterHub; bottleneck adapters and prefixes are converted")
    head, model_class = _read_head(folder, model, allow_pickle)
    tensors = portable.read_weights(folder, SAFE_WEIGHTS, PICKLED_WEIGHTS, allow_pickle=allow_pickle)
    prefix = f"{model.base_model_prefix}."
    inside = prefix if any(name.startswith(prefix) for name in tensors) else ""
    if model_class is None:
        model_class = settings["model_class"] if settings.get("model_class") in portable.known_classes(model) else None
    convert: Callable[..., tuple[TunerConfig, dict[str, Tensor]]]
    convert = _bottlenecks if method.get("architecture") is None else _prefix
    config, weights = convert(
        folder,
        method,
        {name.removeprefix(inside): tensor for name, tensor in tensors.items()},
        model,
        portable.settings_of(head, base, model, model_class),
    )
    return PortableAdapter(config=config, weights=weights, inside=inside, head=head, model_class=model_class)


def refuse_other_mathematics(kind: str, model: PreTrainedModel) -> None:
    """Raise UnsupportedPair for a kind of adapter that the two libraries compute differently on this type of model."""
    model_type = model.config.model_type
    if kind in EQUAL.get(model_type, ()):
        return
    if model_type == "deberta":
        reason = "AdapterHub's DeBERTa v1 differs from transformers' without any adapter"
    elif kind == "pfeiffer" and family_of(model_type).attention_norm is not None:
        reason = (
            "AdapterHub's reads the feed-forward block's output with the residual stream added, ours the output alone"
        )
    elif kind == "parallel" and family_of(model_type).attention_norm is not None:
        reason = "AdapterHub's reads the residual stream, ours its LayerNorm, as the block beside it does"
    elif kind == "prefix" and model_type == "t5":
        reason = "AdapterHub's moves the positions of the text by the length of the prefix"
    else:
        reason = f"the two were shown to be equal on {', '.join(name for name in EQUAL if kind in EQUAL[name])}"
    raise UnsupportedPair(f"{kind} on {model_type} cannot be taken over from AdapterHub: {reason}")


def _refuse_options(folder: Path, method: Mapping[str, Any], plain: Mapping[str, Any], known: set[str]) -> None:
    """Refuse a config with a key that is unknown, or that makes an adapter another one than ours."""
    differing = [f"{key}: {method[key]!r}" for key, value in plain.items() if method.get(key, value) != value]
    differing += sorted(method.keys() - known)
    if differing:
        raise LoraBenchError(f"{folder} has options that our tuners lack: {', '.join(differing)}")


def _bottlenecks(
    folder: Path,
    method: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    model: PreTrainedModel,
    common: dict[str, Any],
) -> tuple[BottleneckConfig, dict[str, Tensor]]:
    places = VARIANTS.items()
    variant = next((name for name, keys in places if all(method.get(key) == keys[key] for key in keys)), None)
    _refuse_options(folder, method, PLAIN, KNOWN)
    if variant is None:
        raise LoraBenchError(f"{folder} places its adapters elsewhere than {', '.join(VARIANTS)} do")
    refuse_other_mathematics(variant, model)
    scaling = method.get("scaling", 1.0)
    if not isinstance(scaling, float | int):
        raise LoraBenchError(f"{folder} trains its scaling ({scaling}), which is a constant in our tuners")
    is_gpt2 = model.config.model_type == "gpt2"
    theirs = ("attention_adapters", "output_adapters") if is_gpt2 else ("attention.output", "output")
    ours = family_of(model.config.model_type).bottleneck_sites[variant].modules
    sites = dict(zip(theirs[-len(ours) :], ours, strict=True))
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _THEIRS.fullmatch(name)
        if match is None or match["site"] not in sites:
            raise LoraBenchError(f"{folder}: {name} is no weight of a {variant} adapter on {model.config.model_type}")
        part = "down" if match["part"] == "down.0" else "up"
        weights[f"{match['layer']}.{sites[match['site']]}.bottleneck_{part}.{match['kind']}"] = tensor
    sizes = {len(tensor) for name, tensor in weights.items() if name.endswith("bottleneck_down.bias")}
    if len(sizes) != 1:
        raise LoraBenchError(f"{folder} has adapters of the sizes {sorted(sizes)}; ours have one size in all layers")
    config = BottleneckConfig(
        bottleneck_size=sizes.pop(),
        variant=variant,
        non_linearity=str(method["non_linearity"]).lower(),
        scaling=float(scaling),
        skip_layers=sorted(method.get("leave_out") or []),
        **common,
    )
    return config, weights


def _prefix(
    folder: Path,
    method: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    model: PreTrainedModel,
    common: dict[str, Any],
) -> tuple[PrefixConfig, dict[str, Tensor]]:
    flat = bool(method.get("flat"))
    plain = {"leave_out": [], "use_gating": False} | ({} if flat else {"non_linearity": "tanh"})
    _refuse_options(folder, method, plain, KNOWN_OF_PREFIX)
    refuse_other_mathematics("prefix", model)
    parts = {}
    for name, tensor in tensors.items():
        match = _PREFIX.fullmatch(name)
        if ".prefix_tuning.pool." not in name:  # the same tensors once more in every layer
            parts[match["part"] if match else name] = tensor
    if parts.keys() != ({"control_trans"} if flat else set(_NETWORK)):
        raise LoraBenchError(f"{folder} has other weights than a prefix of self-attention: {', '.join(sorted(parts))}")
    if flat:
        table = parts["control_trans"]
    else:  # the network that computes the keys and values, as it does in every forward pass
        embedding, first, first_bias, second, second_bias = (parts[name] for name in _NETWORK)
        table = F.linear(torch.tanh(F.linear(embedding, first, first_bias)), second, second_bias)
    tokens = int(method["prefix_length"])
    if tokens < 1 or table.numel() % tokens:
        raise LoraBenchError(f"{folder}: {table.numel():,} numbers are no prefix of {tokens} tokens")
    config = PrefixConfig(num_virtual_tokens=tokens, **common)
    return config, portable.prefix_weights(table.reshape(tokens, -1), model)


def _read_head(folder: Path, model: PreTrainedModel, allow_pickle: bool) -> tuple[dict[str, Tensor], str | None]:
    """Return the weights of the head under transformers' names, and the class of the model with it."""
    if not (folder / HEAD_CONFIG).is_file():
        return {}, None
    settings = portable.read_settings(folder, HEAD_CONFIG)
    tensors = portable.read_weights(folder, SAFE_HEAD, PICKLED_HEAD, allow_pickle=allow_pickle)
    flexible, model_class = settings.get("config"), settings.get("model_class")
    if isinstance(flexible, dict):
        kind = HEAD_KINDS.get(str(flexible.get("head_type")))
        places = _places(flexible, model.config.model_type) if flexible.get("bias", True) else {}
        own = {name.removeprefix(f"heads.{settings.get('name')}."): tensor for name, tensor in tensors.items()}
        moved = {
            f"{place}.{name.rpartition('.')[2]}": tensor
            for name, tensor in own.items()
            if (place := places.get(name.rpartition(".")[0])) is not None
        }
        head = portable.head_class(model.config, kind) if kind else None
        if head is not None and len(moved) == len(own):
            return moved, head
    else:
        if model_class in {portable.head_class(model.config, kind) for kind in HEAD_KINDS.values()} - {None}:
            return tensors, str(model_class)
        # The output layer of GPT-2 is its table of embeddings, which no adapter trains.
        if model_class == portable.head_class(model.config, "CausalLM") and tensors.keys() == {"lm_head.weight"}:
            return {}, str(model_class)
    head_type = flexible.get("head_type") if isinstance(flexible, dict) else model_class
    raise LoraBenchError(
        f"{folder}: no model of transformers has its head ({head_type}) on {model.config.model_type}; remove {HEAD_CONFIG} to "
        "convert the adapter alone"
    )


def _places(head: Mapping[str, Any], model_type: str) -> dict[str, str]:
    """Return the linear layers of transformers' head by their numbers in one of AdapterHub's that computes the same."""
    kind, layers = HEAD_KINDS.get(str(head.get("head_type"))), head.get("layers")
    pooled = bool(head.get("use_pooler"))
    if kind == "SequenceClassification":
        if model_type in ("roberta", "xlm-roberta") and (layers, head.get("activation_function")) == (2, "tanh"):
            return {} if pooled else {"1": "classifier.dense", "4": "classifier.out_proj"}
        return {"1": "classifier"} if (model_type, layers, pooled) == ("bert", 1, True) else {}
    if layers == 1:
        return {"1": "classifier" if kind == "TokenClassification" else "qa_outputs"}
    return {}
