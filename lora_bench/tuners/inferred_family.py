"""The family of a model of a type that no family names, worked out from its structure.

What depends on what in a small copy of the model (`tuners.layer_probe`) tells query, key, value and the rest apart, whatever
they are called, also as slices of one weight. Order and shapes tell the output projection and the feed-forward block. Each
site that is found is then tried by a tiny forward and backward pass. A mixture of experts has no one feed-forward block, and a
family without it: methods on attention alone work.
"""

import copy
import inspect
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn

from lora_bench.errors import LoraBenchError, UnsupportedPair, typed_line
from lora_bench.families import ROLES, Family, FusedLayout, Site, declare, declared_family, forget, sites_after
from lora_bench.tuners.attention import CACHE_ARGUMENTS
from lora_bench.tuners.layer_probe import TOKENS, LayerProbe, SeenModule, hooked, probe_layer, states_of, untold
from lora_bench.tuners.registration import known_configs
from lora_bench.tuners.trial import small_config

NEEDED = ("query", "key", "value", "attention_output")

_FOUND: dict[tuple[type, str], Family | str] = {}
# What was worked out, by class and config: a family, or the reason why there is none.


def family_of_model(model: nn.Module) -> Family:
    """Return the declared family of a model's type, or that of its structure. Raise UnsupportedPair if neither is known."""
    config: Any = model.config
    known = declared_family(config.model_type)
    # One that was worked out from another model of this type may have other sites.
    return infer_family(model) if known is None or _is_found(known) else known


def _is_found(family: Family | None) -> bool:
    """Return True for a family that was worked out in this process; one in its trial may equal it."""
    return any(family is found for found in _FOUND.values())


def infer_family(model: nn.Module) -> Family:
    """Work out a model's family, and declare it in this process. Raise UnsupportedPair with the sites that cannot be told."""
    base: Any = getattr(model, getattr(model, "base_model_prefix", ""), model)
    config: Any = model.config
    key = (type(base), json.dumps(config.to_dict(), sort_keys=True, default=str))
    if key not in _FOUND:
        try:
            with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.enable_grad():
                warnings.simplefilter("ignore")
                _FOUND[key] = _inferred(model, base)
        except UnsupportedPair as reason:
            _FOUND[key] = str(reason)
        except Exception as error:  # a model's own code and config may be of any kind
            _FOUND[key] = str(untold(config.model_type, typed_line(error)))
    family = _FOUND[key]
    if isinstance(family, str):
        if _is_found(declared_family(config.model_type)):
            forget(config.model_type)
        raise UnsupportedPair(family)
    declare(family)
    return family


def _inferred(model: Any, base: Any) -> Family:
    config = model.config
    if config.is_encoder_decoder:
        raise untold(config.model_type, "it has an encoder and a decoder")
    probe = probe_layer(type(base), config)
    parts = _parts(probe)
    missing = [part for part in NEEDED if part not in parts]
    if missing:
        together = f" ({probe.unread} computes several of them, in an order or of widths that cannot be read)"
        raise untold(
            config.model_type,
            f"its layers do not show which module is {', '.join(missing)}{together if probe.unread else ''}",
        )
    attention = _common(parts["query"], parts["key"], parts["value"])
    if not attention:
        raise untold(config.model_type, "no module within a layer has query, key and value, as self_attention")
    norm = probe.norm_before(parts["query"])
    takes_cache = _takes_cache(probe.layer.get_submodule(attention))
    family = Family(
        name=config.model_type,
        model_types=(config.model_type,),
        layer=rf"(?:.*\.)?{re.escape(probe.stack)}\.\d+",
        **parts,
        self_attention=attention,
        fused_layout=probe.layout,
        attention_norm=norm,
        bottleneck_sites=_sites(parts, norm),
        prefix_kind="cache" if takes_cache and (norm is not None or probe.reads_layer(parts["query"])) else None,
        heads=_heads(model),
        hidden_size_key=_key(config, "hidden_size"),
        num_heads_key=_key(config, "num_attention_heads"),
        num_layers_key=_key(config, "num_hidden_layers"),
        causal=probe.causal,
    )
    lacks = family.lacks(path for path, _ in model.named_modules())
    if any(name.startswith("feed_forward") for name in lacks):
        none: dict[str, Any] = dict.fromkeys(ROLES["ffn"])
        family = replace(family, **none, bottleneck_sites=_sites(none, norm))
        lacks = family.lacks(path for path, _ in model.named_modules())
    if lacks:
        raise untold(config.model_type, f"not every layer has the {', '.join(lacks)} of the last one")
    return _tried(family, probe)


def _parts(probe: LayerProbe) -> dict[str, Any]:
    """Return the path of each part that one module alone shows itself to be."""
    paths_of: dict[str, list[str]] = {"query": [], "key": [], "value": []}
    rest: list[SeenModule] = []
    value_width = 0
    for seen in probe.seen:
        value, key = seen.alone & seen.carries, ~seen.alone & seen.carries
        if value.any() and key.any():
            probe.layout = _layout(value, key, probe.model.config.num_attention_heads)
            if probe.layout is None:
                probe.unread = seen.path
            else:
                paths_of = {name: [*paths, seen.path] for name, paths in paths_of.items()}
                value_width = len(value) // 3
        elif value.any():
            paths_of["value"].append(seen.path)
        elif key.any():
            paths_of["key"].append(seen.path)
        elif seen.acts:
            if seen.alone.any():
                rest.append(seen)
            else:
                paths_of["query"].append(seen.path)
    parts: dict[str, Any] = {name: paths[0] for name, paths in paths_of.items() if len(paths) == 1}
    if "query" not in parts or "value" not in parts:
        return parts
    hidden, width = probe.at(parts["query"]).sizes
    order = [seen.path for seen in probe.seen]
    behind = [seen for seen in rest if order.index(seen.path) > order.index(parts["value"])]
    output = next((seen for seen in behind if seen.sizes == (value_width or width, hidden)), None)
    if output is None:
        return parts
    parts["attention_output"] = output.path
    if any(weight.dim() == 3 for weight in probe.layer.parameters()):  # experts; a shared one is not the whole block
        return parts
    return parts | _feed_forward([seen for seen in rest if seen is not output], hidden, probe)


def _feed_forward(rest: list[SeenModule], hidden: int, probe: LayerProbe) -> dict[str, Any]:
    """Return the parts of the feed-forward block among the modules that are not of attention."""
    ends = [call for call in rest if call.sizes[1] == hidden and call.sizes[0] != hidden]
    if len(ends) != 1:
        return {}
    (end,) = ends
    inner = end.sizes[0]
    starts = [call for call in rest if call.sizes in ((hidden, inner), (hidden, 2 * inner))]
    if len(starts) == 1 and len(rest) == 2:
        return {"feed_forward_in": starts[0].path, "feed_forward_out": end.path}
    if len(starts) == 2 and len(rest) == 3:
        first, second = starts
        gate, up = (first, second) if _is_linear(second, end, probe) else (second, first)
        return {"feed_forward_in": up.path, "feed_forward_gate": gate.path, "feed_forward_out": end.path}
    return {}


def _is_linear(start: SeenModule, end: SeenModule, probe: LayerProbe) -> bool:
    """Return True if the input of the second projection changes its sign with *start*: no activation is between."""
    fed: list[Tensor] = []
    with (
        torch.no_grad(),
        hooked([start.module], lambda module, inputs, output: -output),
        hooked([end.module], lambda module, inputs, output: fed.append(inputs[0])),
    ):
        states_of(probe.model, TOKENS)
    return bool(torch.allclose(fed[-1].reshape(end.given.shape), -end.given))


def _layout(value: Tensor, key: Tensor, heads: int) -> FusedLayout | None:
    """Return how a weight orders query, key and value; None if in another way, or with unequal widths."""
    roles = 2 * value.long() + key.long()  # 0 is the query
    width = len(roles) // 3
    if torch.equal(roles, torch.tensor([0, 1, 2]).repeat_interleave(width)):
        return "blocks"
    one_head = torch.tensor([0, 1, 2]).repeat_interleave(width // heads)
    return "heads" if torch.equal(roles, one_head.repeat(heads)) else None


def _common(*paths: str) -> str:
    """Return the path of the innermost module that contains all of these."""
    parents = [path.split(".")[:-1] for path in paths]
    shared = []
    for names in zip(*parents, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return ".".join(shared)


def _sites(parts: Mapping[str, Any], norm: str | None) -> dict[str, Site]:
    """Return the sites of bottlenecks; those that fail are left out later.

    Pfeiffer's adapter needs a norm before the halves of a layer. Behind them it stands between two norms, which differ.
    """
    end = parts.get("feed_forward_out")
    if not end:
        return {"lin": Site(modules=("",), placement="after")}
    block = _common(parts["feed_forward_in"], end)
    sites = sites_after(parts["attention_output"], (end,), (block,) if block else ())
    return {name: site for name, site in sites.items() if name != "pfeiffer" or norm is not None}


def _takes_cache(attention: nn.Module) -> bool:
    names = inspect.signature(type(attention).forward).parameters
    return "hidden_states" in names and any(name in names for name in CACHE_ARGUMENTS)


def _key(config: Any, name: str) -> str:
    key: str = config.attribute_map.get(name, name)
    if key not in config.to_dict():
        raise untold(config.model_type, f"its config has no {name}")
    return key


def _heads(model: Any) -> tuple[str, ...]:
    """Return the modules with weights beside the base model, of a classifier of this kind if transformers has one."""
    from transformers import AutoModelForSequenceClassification

    classifier = model
    if type(model.config) in AutoModelForSequenceClassification._model_mapping:
        with torch.device("meta"):
            classifier = AutoModelForSequenceClassification.from_config(small_config(model.config))
    elif not type(model).__name__.endswith("ForSequenceClassification"):
        return ()
    return tuple(
        name
        for name, child in classifier.named_children()
        if name != classifier.base_model_prefix and any(True for _ in child.parameters())
    )


def _tried(family: Family, probe: LayerProbe) -> Family:
    """Return the family with what works of it: a forward and a backward pass reach each site's new weights."""
    declare(family)
    try:
        roles = ["all"] if family.feed_forward_out else ["query", "key", "value", "output"]
        fault = _fault(probe, "LORA_BENCH_FUSED_LORA", r=2, roles=roles)
        if fault is not None:
            raise untold(family.name, f"an update of what was taken for them fails: {fault}")
        sites = {
            variant: site
            for variant, site in family.bottleneck_sites.items()
            if _fault(probe, "BOTTLENECK_ADAPTER", bottleneck_size=2, variant=variant) is None
        }
        fits = _fault(probe, "LORA_BENCH_PREFIX", num_virtual_tokens=2) is None
    finally:
        forget(*family.model_types)
    return replace(family, bottleneck_sites=sites, prefix_kind=family.prefix_kind if fits else None)


def _fault(probe: LayerProbe, tuner: str, **settings: Any) -> str | None:
    """Return why an adapter does not work on the small model, or None; *tuner* is its PEFT type: tuners import this module."""
    config = known_configs()[tuner](**settings)
    try:
        adapted = get_peft_model(copy.deepcopy(probe.model), config).train()
        freed = {path: weight for path, weight in adapted.named_parameters() if weight.requires_grad}
        with torch.no_grad():
            for weight in freed.values():  # a factor that is zero hides the other's gradient
                nn.init.normal_(weight, std=0.1)
        states_of(adapted, TOKENS).pow(2).sum().backward()
    except LoraBenchError as error:
        return str(error)
    except Exception as error:  # whatever the model's own code raises
        return typed_line(error)
    still = [path for path, weight in freed.items() if weight.grad is None or not bool(weight.grad.any())]
    return f"{len(still)} of {len(freed)} weights get no gradient, {still[0]} first" if still else None
