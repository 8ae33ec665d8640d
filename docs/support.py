"""Find out which method works on which model, for docs/support.md.

Each method is put on a small model of each kind, trained for three steps, and asked for a padded row. This takes some minutes
and depends on the versions of the libraries, which the page names.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

from lora_bench.errors import LoraBenchError, typed_line
from lora_bench.families import FAMILIES
from lora_bench.methods import Method, known_methods

# PEFT's other methods, with the options that each needs before it can be put on a model.
PEFT_TYPES: dict[str, dict[str, Any]] = {
    "ADALORA": {"targets": ["query", "value"]},
    "IA3": {"options": {"feedforward_modules": []}, "targets": ["key", "value"]},
    "VERA": {"targets": ["query", "value"]},
    # Not ModernBERT's `attn_norm`, which does nothing in its first layer and has no weight there.
    "LN_TUNING": {"options": {"target_modules": r".*(LayerNorm|ln_1|ln_2|_layernorm|layer_norm|mlp_norm)"}},
    "FOURIERFT": {"options": {"n_frequency": 100}, "targets": ["query", "value"]},
    "LOHA": {"targets": ["query", "value"]},
    "LOKR": {"targets": ["query", "value"]},
    "OFT": {"options": {"oft_block_size": 0, "r": 4}, "targets": ["query", "value"]},
    "BOFT": {"targets": ["query", "value"]},
    "HRA": {"targets": ["query", "value"]},
    "MISS": {"options": {"r": 4}, "targets": ["query", "value"]},
    "RANDLORA": {"targets": ["query", "value"]},
    "WAVEFT": {"options": {"n_frequency": 100}, "targets": ["query", "value"]},
    "HIRA": {"targets": ["query", "value"]},
    "PREFIX_TUNING": {"options": {"num_virtual_tokens": 8}},
    "PROMPT_TUNING": {"options": {"num_virtual_tokens": 8}},
    "P_TUNING": {"options": {"num_virtual_tokens": 8}},
}


def probed_methods() -> dict[str, Method]:
    """Return every method and variant on the page, by the name it has there."""
    known = known_methods()
    rows: dict[str, Method] = {
        "full": known["full"](),
        "full, top_layers 1": known["full"](top_layers=1),
        "bitfit": known["bitfit"](),
        "lora": known["lora"](),
        "lora, all": known["lora"](targets=["all"]),
        "lora, DoRA": known["lora"](use_dora=True),
        "lora, rsLoRA": known["lora"](use_rslora=True),
    }
    for initialisation in ("gaussian", "pissa", "olora"):
        rows[f"lora, {initialisation}"] = known["lora"](initialisation=initialisation)
    for variant in ("houlsby", "pfeiffer", "parallel", "lin"):
        rows[f"bottleneck_adapter, {variant}"] = known["bottleneck_adapter"](variant=variant)
    rows["prefix_tuning"] = known["prefix_tuning"]()
    rows["prefix_tuning, reparameterised"] = known["prefix_tuning"](reparameterised=True)
    for name in sorted(
        set(known) - {"full", "bitfit", "lora", "bottleneck_adapter", "prefix_tuning", "combined", "peft"}
    ):
        rows[name] = known[name]()
    lora, parallel = {"method": "lora"}, {"method": "bottleneck_adapter", "variant": "parallel"}
    rows["combined, LoRA+PE"] = known["combined"](parts=(lora, {"method": "prefix_embedding"}))
    rows["combined, LoRA+PL"] = known["combined"](parts=(lora, {"method": "prefix_layer"}))
    rows["combined, MAM"] = known["combined"](parts=({"method": "prefix_tuning"}, parallel))
    for peft_type, options in PEFT_TYPES.items():
        rows[f"peft, {peft_type}"] = known["peft"](type=peft_type, **options)
    return rows


def small_models() -> dict[str, Callable[[], tuple[Any, list[str]]]]:
    """Return a maker of a small classifier of each kind, and of a model of encoder and decoder that writes.

    It gives the model and the names of its head's modules.
    """
    import transformers

    from lora_bench.testing import tiny_model
    from lora_bench.tuners.trial import small_config

    def make(name: str, head: list[str], **options: Any) -> Callable[[], tuple[Any, list[str]]]:
        config_class = getattr(transformers, f"{name}Config")
        model_class = getattr(transformers, f"{name}ForSequenceClassification")
        size = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "max_position_embeddings": 64}
        return lambda: (model_class(small_config(config_class(**size, num_labels=2, **options))), head)

    relative = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    made = {
        "RoBERTa": make("Roberta", ["classifier"]),
        "XLM-RoBERTa": make("XLMRoberta", ["classifier"]),
        "BERT": make("Bert", ["classifier"]),
        "DeBERTa": make("Deberta", ["pooler", "classifier"], **relative),
        "DeBERTa-v2/v3": make(
            "DebertaV2", ["pooler", "classifier"], **relative, share_att_key=True, position_buckets=8
        ),
        "GPT-2": make("GPT2", ["score"]),
    }
    made |= {one.shown: partial(tiny_model, one.name) for one in FAMILIES if one.shown not in made}
    behind = [one for one in FAMILIES if one.cross_attention is not None]
    return made | {f"{one.shown} for text": partial(tiny_model, one.name, "generation") for one in behind}


def fault(method: Method, name: str, make: Callable[[], tuple[Any, list[str]]]) -> str | None:
    """Return why a method does not work on a model; None if it works."""
    import torch

    from lora_bench.tuners.trial import fault_of

    torch.manual_seed(0)
    base, head = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            reason = fault_of(method.apply(base, head=head), name, head)
        except LoraBenchError as error:
            reason = str(error)
        except Exception as error:  # what a library raises is the answer to the question
            reason = typed_line(error)
    return reason and general(reason, name.rpartition(", ")[2], base)


def general(reason: str, variant: str, base: Any) -> str:
    """Return a reason in words that fit other methods and models too."""
    own_names = {
        rf"\b{type(base).__name__}\b": "the model",
        rf"\b{re.escape(base.config.model_type)}\b": "this family",
        rf"^{variant}\b|\bPEFT's {variant}\b": "it",
        # PEFT goes on with what it supports.
        r"(?<=not supported)[.,] [Cc]urrently.*": "",
        # The size of a difference is that of random weights.
        r", by \S+$": "",
    }
    for pattern, replacement in own_names.items():
        reason = re.sub(pattern, replacement, reason)
    return reason


def support_page() -> str:
    """Return the page: the methods that work on every model, and for each other one where and why it does not."""
    import torch

    torch.set_num_threads(1)
    models = small_models()
    everywhere: list[str] = []
    faults: dict[str, dict[str, list[str]]] = {}  # by reason and method, the models
    for name, method in probed_methods().items():
        found = {model: reason for model, make in models.items() if (reason := fault(method, name, make)) is not None}
        for model, reason in found.items():
            faults.setdefault(reason, {}).setdefault(name, []).append(model)
        everywhere += [] if found else [name]
    return page(list(models), everywhere, faults)


def listed(names: list[str]) -> str:
    """Return names such as "lora, DoRA" with the variants of each method together."""
    variants: dict[str, list[str]] = {}
    for name in names:
        method, _, variant = name.partition(", ")
        variants.setdefault(method, []).append(variant or "default")
    shown = {method: "" if found == ["default"] else f" ({', '.join(found)})" for method, found in variants.items()}
    return ", ".join(f"`{method}`{of}" for method, of in shown.items())


def page(models: list[str], everywhere: list[str], faults: dict[str, dict[str, list[str]]]) -> str:
    """Return the page's text.

    Args:
        models: Names of the models.
        everywhere: Methods that work on all of them.
        faults: For each reason, the models by method.
    """
    rows = []
    for reason, by_method in faults.items():
        by_models: dict[tuple[str, ...], list[str]] = {}
        for name, where in by_method.items():
            by_models.setdefault(tuple(where), []).append(name)
        for where, names in by_models.items():
            shown = "all" if list(where) == models else ", ".join(where)
            rows.append(f"- {listed(names)} on {shown}: {reason}\n")
    versions = ", ".join(f"{package} {version(package)}" for package in ("transformers", "peft", "torch"))
    return (
        "# Which method works on which model\n\n"
        f"Made by `docs/generate.py support` with {versions}.\n"
        'Each method was put on a small classifier of each kind (and on a model that writes, where named "for text"), trained\n'
        "for three steps, and asked for a padded row.\n"
        "It works if every weight it adds gets a gradient, the head is trained whole, and padding changes no answer.\n\n"
        f"Models: {', '.join(models)}. The sites of others are worked out: [families](families.md).\n"
        "SmolLM2-135M works like any Llama, from a folder or the hub. It has no name of its own here: the package index has\n"
        "it only rounded to 4 bits, and nothing to measure the rounding against.\n\n"
        f"These work on all of them: {listed(everywhere)}.\n\n"
        f"These fail on the models named and work on the others:\n\n{''.join(rows)}"
    )
