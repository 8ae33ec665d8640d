"""The family of a model of a type that no family names, worked out from its structure.

A small copy of the model with random weights is asked what depends on what. With one token, a query and a key change nothing,
because a softmax over one score is 1. With several tokens, only keys and values carry one token's state to another. So two
passes tell query, key, value and the rest apart, whatever they are called, also as slices of one weight. Order and shapes tell
the output projection and the feed-forward block. Each site that is found is then tried by a tiny forward and backward pass.
"""

import copy
import inspect
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lora_bench.errors import LoraBenchError, UnsupportedPair, typed_line
from lora_bench.families import Family, FusedLayout, Site, declare, declared_family, forget
from lora_bench.tuners.attention import CACHE_ARGUMENTS
from lora_bench.tuners.trial import small_config

TOKENS = 4
WIDEST = 1024
"""Width up to which a model may be tried at its own width."""
NOTHING = 1e-9
"""Share of the largest gradient below which one is none."""
NEEDED = ("query", "key", "value", "attention_output", "feed_forward_in", "feed_forward_out")

_FOUND: dict[tuple[type, str], Family | str] = {}
# What was worked out, by class and config: a family, or the reason why there is none.


def family_of_model(model: nn.Module) -> Family:
    """Return the family of a model: the declared one of its type, or else the one that its structure shows.

    Raises:
        UnsupportedPair: If no family is declared, and its structure does not show all sites.
    """
    config: Any = model.config
    known = declared_family(config.model_type)
    return known if known is not None else infer_family(model)


def infer_family(model: nn.Module) -> Family:
    """Work out a model's family from its structure, and declare it in this process.

    Raises:
        UnsupportedPair: If sites cannot be told, with the names of these.
    """
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
    found = _FOUND[key]
    if isinstance(found, str):
        raise UnsupportedPair(found)
    declare(found)
    return found


def _untold(model_type: str, why: str) -> UnsupportedPair:
    return UnsupportedPair(
        f"no family names {model_type}, and its sites cannot be told: {why}; name them by `family:` beside the model in the "
        "suite (docs/families.md), or take a model of a type in docs/support.md or `lora-bench list models`"
    )


def _inferred(model: Any, base: Any) -> Family:
    config = model.config
    if config.is_encoder_decoder:
        raise _untold(config.model_type, "it has an encoder and a decoder")
    probe = _probe(type(base), config)
    parts = _parts(probe)
    missing = [part for part in NEEDED if part not in parts]
    if missing:
        together = f" ({probe.unread} computes several of them, in an order or of widths that cannot be read)"
        raise _untold(
            config.model_type,
            f"its layers do not show which module is {', '.join(missing)}{together if probe.unread else ''}",
        )
    attention = _common(parts["query"], parts["key"], parts["value"])
    if not attention:
        raise _untold(config.model_type, "no module within a layer has query, key and value, as self_attention")
    family = Family(
        name=config.model_type,
        model_types=(config.model_type,),
        layer=rf"(?:.*\.)?{re.escape(probe.stack)}\.\d+",
        **parts,
        self_attention=attention,
        fused_layout=probe.layout,
        attention_norm=probe.norm_before(parts["query"]),
        bottleneck_sites=_sites(parts),
        prefix_kind="cache" if _takes_cache(probe.layer.get_submodule(attention)) else None,
        heads=_heads(model),
        hidden_size_key=_key(config, "hidden_size"),
        num_heads_key=_key(config, "num_attention_heads"),
        num_layers_key=_key(config, "num_hidden_layers"),
        causal=probe.causal,
    )
    lacks = family.lacks(path for path, _ in model.named_modules())
    if lacks:
        raise _untold(config.model_type, f"not every layer has the {', '.join(lacks)} of the last one")
    return _tried(family, probe)


@dataclass
class _Linear:
    """A linear module of the last layer, as two passes saw it.

    Args:
        path: Path of the module, relative to its layer.
        module: The module.
        given: Its input, shape (tokens, in_features).
        carries: Channels through which an earlier token reaches the last one, shape (out_features,), bool.
        alone: Channels that act where there is one token.
        acts: True if the last token's output acts on its result.
        back: True if a later token reaches the first one.
    """

    path: str
    module: nn.Module
    given: Tensor
    carries: Tensor
    alone: Tensor
    acts: bool
    back: bool

    @property
    def sizes(self) -> tuple[int, int]:
        """Widths of input and output."""
        return self.given.shape[-1], len(self.carries)


@dataclass
class _Probe:
    """A small model and its last layer: in all before it, every module carries the state of other tokens on.

    Args:
        model: The small model.
        stack: Path of its list of layers.
        layer: The last layer.
        seen: Linear modules of that layer, in the order of their calls.
        norms: Outputs of the norms of that layer, by path.
        layout: Layout of query, key and value in one weight, when it is found.
        unread: Module that computes keys and values in another layout.
    """

    model: Any
    stack: str
    layer: nn.Module
    seen: list[_Linear]
    norms: dict[str, Tensor]
    layout: FusedLayout | None = None
    unread: str | None = None

    @property
    def causal(self) -> bool:
        """True if a token sees only those before it."""
        return not any(one.back for one in self.seen)

    def at(self, path: str) -> _Linear:
        """Return what was seen of a module."""
        return next(one for one in self.seen if one.path == path)

    def norm_before(self, path: str) -> str | None:
        """Return the norm whose output a module reads; None if it reads the layer's input."""
        given = self.at(path).given
        return next((name for name, output in self.norms.items() if torch.equal(output, given)), None)


def _probe(model_class: type[PreTrainedModel], config: Any) -> _Probe:
    """Build a small model, and see what depends on what in it.

    Raises:
        UnsupportedPair: If it cannot be built and run.
    """
    fault = ""
    # Some types allow no other widths.
    for shrink in (_narrow_config, small_config) if config.hidden_size <= WIDEST else (_narrow_config,):
        try:
            torch.manual_seed(0)
            small = shrink(config)
            small._attn_implementation = "eager"
            model = model_class(small).float().eval()
            for weight in model.parameters():  # zeros would hide what depends on them
                nn.init.normal_(weight, std=0.2)
            return _traced(model)
        except UnsupportedPair:
            raise
        except Exception as error:  # whatever the model's own code raises on these sizes
            fault = typed_line(error)
    raise _untold(config.model_type, f"a small model of it does not run ({fault})")


def _narrow_config(config: Any) -> Any:
    """Return a config of two layers with a few heads of the width that they have."""
    small = small_config(config)
    heads = 4
    sizes = {
        "num_attention_heads": heads,
        "hidden_size": heads * (config.hidden_size // config.num_attention_heads),
        "intermediate_size": 96,
    }
    shared = getattr(config, "num_key_value_heads", None)
    if shared is not None:
        sizes["num_key_value_heads"] = heads if shared == config.num_attention_heads else min(2, shared)
    for name, value in sizes.items():
        is_computed = isinstance(getattr(type(small), name, None), property)
        if isinstance(getattr(small, name, None), int) and not is_computed:
            setattr(small, name, value)
    return small


Passed = dict[nn.Module, tuple[Tensor, Tensor]]


def _traced(model: Any) -> _Probe:
    """Run a small model with several tokens and with one, and see which outputs reach which token."""
    linear = {module: path for path, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    passed, states = _pass(model, linear, TOKENS)
    single, single_states = _pass(model, linear, 1)
    direction = torch.randn(states.shape[-1], dtype=states.dtype)
    last = _reached(passed, states[0, -1] @ direction)
    first = _reached(passed, states[0, 0] @ direction)
    alone = _reached(single, single_states[0, 0] @ direction)
    stack, index = _stack([linear[module] for module in passed], model.config.model_type)
    start = f"{stack}.{index}."
    seen = [
        _Linear(
            path=linear[module].removeprefix(start),
            module=module,
            given=given.reshape(TOKENS, -1),
            carries=_live(last, module)[:-1].any(0),
            alone=_live(alone, module)[0],
            acts=bool(_live(last, module)[-1].any()),
            back=bool(_live(first, module)[1:].any()),
        )
        for module, (given, output) in passed.items()
        if linear[module].startswith(start) and output.numel() == TOKENS * output.shape[-1]
    ]
    return _Probe(model, stack, model.get_submodule(f"{stack}.{index}"), seen, _norms(model, start))


def _stack(paths: list[str], model_type: str) -> tuple[str, int]:
    """Return the path of the list that holds most of these modules, and its last index.

    Raises:
        UnsupportedPair: If they lie in no list.
    """
    outermost = [match for path in paths if (match := re.match(r"((?:[^.\d][^.]*\.)*[^.\d][^.]*)\.(\d+)\.", path))]
    if not outermost:
        raise _untold(model_type, "it has no list of layers")
    lists = [match[1] for match in outermost]
    stack = max(dict.fromkeys(lists), key=lists.count)
    return stack, max(int(match[2]) for match in outermost if match[1] == stack)


def _live(gradients: dict[nn.Module, Tensor], module: nn.Module) -> Tensor:
    """Return which channels of which tokens have a gradient, shape (tokens, channels), bool."""
    gradient = gradients[module]
    largest = max(float(one.abs().max()) for one in gradients.values())
    return gradient.reshape(-1, gradient.shape[-1]).abs() > NOTHING * largest


def _pass(model: Any, linear: Mapping[nn.Module, str], tokens: int) -> tuple[Passed, Tensor]:
    """Run a model; return input and output of the last call of each linear module, and the last hidden states."""
    passed: Passed = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        passed.pop(module, None)  # in the order of the last calls
        passed[module] = inputs[0].detach(), output

    with _hooked(linear, note):
        states = _states(model, tokens)
    return passed, states


def _states(model: Any, tokens: int) -> Tensor:
    """Return the last hidden states of some text, shape (1, tokens, width)."""
    ids = torch.arange(5, 5 + tokens)[None]
    options = {"use_cache": False} if "use_cache" in model.config.to_dict() else {}
    states: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), **options)[0]
    return states


@contextmanager
def _hooked(modules: Iterable[nn.Module], hook: Callable[..., Any]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _reached(passed: Passed, result: Tensor) -> dict[nn.Module, Tensor]:
    """Return the gradient of a result by each module's output."""
    outputs = [output for _, output in passed.values()]
    found = torch.autograd.grad(result, outputs, retain_graph=True, allow_unused=True, materialize_grads=True)
    return dict(zip(passed, found, strict=True))


def _norms(model: Any, start: str) -> dict[str, Tensor]:
    """Return the outputs of the norms of a layer."""
    paths = {
        module: path.removeprefix(start)
        for path, module in model.named_modules()
        if path.startswith(start) and "norm" in type(module).__name__.lower()
    }
    found: dict[str, Tensor] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found[paths[module]] = output.detach().reshape(-1, output.shape[-1])

    with _hooked(paths, note), torch.no_grad():
        _states(model, TOKENS)
    return found


def _parts(probe: _Probe) -> dict[str, Any]:
    """Return the path of each part that one module alone shows itself to be."""
    shown: dict[str, list[str]] = {"query": [], "key": [], "value": []}
    rest: list[_Linear] = []
    value_width = 0
    for one in probe.seen:
        value, key = one.alone & one.carries, ~one.alone & one.carries
        if value.any() and key.any():
            probe.layout = _layout(value, key, probe.model.config.num_attention_heads)
            if probe.layout is None:
                probe.unread = one.path
            else:
                shown = {name: [*paths, one.path] for name, paths in shown.items()}
                value_width = len(value) // 3
        elif value.any():
            shown["value"].append(one.path)
        elif key.any():
            shown["key"].append(one.path)
        elif one.acts:
            if one.alone.any():
                rest.append(one)
            else:
                shown["query"].append(one.path)
    parts: dict[str, Any] = {name: paths[0] for name, paths in shown.items() if len(paths) == 1}
    if "query" not in parts or "value" not in parts:
        return parts
    hidden, width = probe.at(parts["query"]).sizes
    order = [one.path for one in probe.seen]
    behind = [one for one in rest if order.index(one.path) > order.index(parts["value"])]
    output = next((one for one in behind if one.sizes == (value_width or width, hidden)), None)
    if output is None:
        return parts
    parts["attention_output"] = output.path
    return parts | _feed_forward([one for one in rest if one is not output], hidden, probe)


def _feed_forward(rest: list[_Linear], hidden: int, probe: _Probe) -> dict[str, Any]:
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


def _is_linear(start: _Linear, end: _Linear, probe: _Probe) -> bool:
    """Return True if the input of the second projection changes its sign with *start*: no activation is between."""
    given: list[Tensor] = []
    with (
        torch.no_grad(),
        _hooked([start.module], lambda module, inputs, output: -output),
        _hooked([end.module], lambda module, inputs, output: given.append(inputs[0])),
    ):
        _states(probe.model, TOKENS)
    return bool(torch.allclose(given[-1].reshape(end.given.shape), -end.given))


def _layout(value: Tensor, key: Tensor, heads: int) -> FusedLayout | None:
    """Return how a weight orders query, key and value; None if in another way, or with unequal widths."""
    found = 2 * value.long() + key.long()  # 0 is the query
    width = len(found) // 3
    if torch.equal(found, torch.tensor([0, 1, 2]).repeat_interleave(width)):
        return "blocks"
    one_head = torch.tensor([0, 1, 2]).repeat_interleave(width // heads)
    return "heads" if torch.equal(found, one_head.repeat(heads)) else None


def _common(*paths: str) -> str:
    """Return the path of the innermost module that contains all of these."""
    parents = [path.split(".")[:-1] for path in paths]
    shared = []
    for names in zip(*parents, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return ".".join(shared)


def _sites(parts: Mapping[str, Any]) -> dict[str, Site]:
    """Return the sites of bottlenecks; those that fail are left out later."""
    output, end = parts["attention_output"], parts["feed_forward_out"]
    block = _common(parts["feed_forward_in"], end)
    sites = {
        "houlsby": Site(modules=(output, end), placement="after"),
        "pfeiffer": Site(modules=(end,), placement="after"),
        "parallel": Site(modules=(block,), placement="beside"),
        "lin": Site(modules=("",), placement="after"),
    }
    return sites if block else {name: site for name, site in sites.items() if name != "parallel"}


def _takes_cache(attention: nn.Module) -> bool:
    names = inspect.signature(type(attention).forward).parameters
    return "hidden_states" in names and any(name in names for name in CACHE_ARGUMENTS)


def _key(config: Any, name: str) -> str:
    key: str = config.attribute_map.get(name, name)
    if key not in config.to_dict():
        raise _untold(config.model_type, f"its config has no {name}")
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


def _tried(family: Family, probe: _Probe) -> Family:
    """Return the family with what works of it: a forward and a backward pass reach each site's new weights.

    Raises:
        UnsupportedPair: If an update of its projections does not.
    """
    from lora_bench.tuners.bottleneck import BottleneckConfig
    from lora_bench.tuners.fused_lora import FusedLoraConfig
    from lora_bench.tuners.prefix import PrefixConfig

    declare(family)
    try:
        fault = _fault(probe, FusedLoraConfig(r=2, roles=["all"]))
        if fault is not None:
            raise _untold(family.name, f"an update of what was taken for them fails: {fault}")
        sites = {
            variant: site
            for variant, site in family.bottleneck_sites.items()
            if _fault(probe, BottleneckConfig(bottleneck_size=2, variant=variant)) is None
        }
        prefix = family.prefix_kind if _fault(probe, PrefixConfig(num_virtual_tokens=2)) is None else None
    finally:
        forget(*family.model_types)
    return replace(family, bottleneck_sites=sites, prefix_kind=prefix)


def _fault(probe: _Probe, config: Any) -> str | None:
    """Return why an adapter does not work on the small model, or None."""
    from peft import get_peft_model

    try:
        adapted = get_peft_model(copy.deepcopy(probe.model), config).train()
        freed = {path: weight for path, weight in adapted.named_parameters() if weight.requires_grad}
        with torch.no_grad():
            for weight in freed.values():  # a factor that is zero hides the other's gradient
                nn.init.normal_(weight, std=0.1)
        _states(adapted, TOKENS).pow(2).sum().backward()
    except LoraBenchError as error:
        return str(error)
    except Exception as error:  # whatever the model's own code raises
        return typed_line(error)
    still = [path for path, weight in freed.items() if weight.grad is None or not bool(weight.grad.any())]
    return f"{len(still)} of {len(freed)} weights get no gradient, {still[0]} first" if still else None
