"""What depends on what in a layer of a small copy of a model.

With one token, a query and a key change nothing, because a softmax over one score is 1. With several tokens, only keys and
values carry one token's state to another. Gradients by the output of each linear module show both.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lora_bench.errors import UnsupportedPair, typed_line
from lora_bench.families import FusedLayout
from lora_bench.tuners.trial import small_config

TOKENS = 4
WIDEST = 1024
"""Width up to which a model may be tried at its own width."""
NOTHING = 1e-9
"""Share of the largest gradient below which one is none."""


def untold(model_type: str, why: str) -> UnsupportedPair:
    """Return the error for a model whose sites cannot be told, with what the user can do."""
    return UnsupportedPair(
        f"no family names {model_type}, and its sites cannot be told: {why}; name them by `family:` beside the model in the "
        "suite (docs/families.md), or take a model of a type in docs/support.md or `lora-bench list models`"
    )


@dataclass
class SeenModule:
    """A linear module of the last layer, as two passes saw it.

    Args:
        path: Path of the module, relative to its layer.
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
class LayerProbe:
    """A small model and its last layer: in all before it, every module carries the state of other tokens on.

    Args:
        stack: Path of the list of layers.
        seen: Linear modules of that layer, in the order of their calls.
        norms: Outputs of the norms of that layer, by path.
        given: Input of that layer, or None if it is no plain tensor.
        layout: Layout of query, key and value in one weight, when it is found.
        unread: Module that computes keys and values in another layout.
    """

    model: Any
    stack: str
    layer: nn.Module
    seen: list[SeenModule]
    norms: dict[str, Tensor]
    given: Tensor | None
    layout: FusedLayout | None = None
    unread: str | None = None

    @property
    def causal(self) -> bool:
        """True if a token sees only those before it."""
        return not any(module.back for module in self.seen)

    def at(self, path: str) -> SeenModule:
        """Return what was seen of a module."""
        return next(module for module in self.seen if module.path == path)

    def norm_before(self, path: str) -> str | None:
        """Return the norm whose output a module reads; None if there is none."""
        inputs = self.at(path).given
        return next((name for name, output in self.norms.items() if torch.equal(output, inputs)), None)

    def reads_layer(self, path: str) -> bool:
        """Return True if a module reads the input of the layer itself."""
        return self.given is not None and torch.equal(self.given, self.at(path).given)


def probe_layer(model_class: type[PreTrainedModel], config: Any) -> LayerProbe:
    """Build a small model, and see what depends on what in it. Raise UnsupportedPair if it cannot be run."""
    fault = ""
    # Some types allow no other widths.
    for shrink in (_narrow_config, small_config) if getattr(config, "hidden_size", 0) <= WIDEST else (_narrow_config,):
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
    raise untold(config.model_type, f"a small model of it does not run ({fault})")


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


def _traced(model: Any) -> LayerProbe:
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
        SeenModule(
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
    layer = model.get_submodule(f"{stack}.{index}")
    return LayerProbe(model, stack, layer, seen, *_norms_and_input(model, layer))


def _stack(paths: list[str], model_type: str) -> tuple[str, int]:
    """Return the path of the list that holds most of these modules, and its last index; they must lie in a list."""
    outermost = [match for path in paths if (match := re.match(r"((?:[^.\d][^.]*\.)*[^.\d][^.]*)\.(\d+)\.", path))]
    if not outermost:
        raise untold(model_type, "it has no list of layers")
    lists = [match[1] for match in outermost]
    stack = max(dict.fromkeys(lists), key=lists.count)
    return stack, max(int(match[2]) for match in outermost if match[1] == stack)


def _live(gradients: dict[nn.Module, Tensor], module: nn.Module) -> Tensor:
    """Return which channels of which tokens have a gradient, shape (tokens, channels), bool."""
    gradient = gradients[module]
    largest = max(float(each.abs().max()) for each in gradients.values())
    return gradient.reshape(-1, gradient.shape[-1]).abs() > NOTHING * largest


def _pass(model: Any, linear: Mapping[nn.Module, str], tokens: int) -> tuple[Passed, Tensor]:
    """Run a model; return input and output of the last call of each linear module, and the last hidden states."""
    passed: Passed = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        passed.pop(module, None)  # in the order of the last calls
        passed[module] = inputs[0].detach(), output

    with hooked(linear, note):
        states = states_of(model, tokens)
    return passed, states


def states_of(model: Any, tokens: int) -> Tensor:
    """Return the last hidden states of some text, shape (1, tokens, width)."""
    ids = torch.arange(5, 5 + tokens)[None]
    options = {"use_cache": False} if "use_cache" in model.config.to_dict() else {}
    states: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), **options)[0]
    return states


@contextmanager
def hooked(modules: Iterable[nn.Module], hook: Callable[..., Any]) -> Iterator[None]:
    """Call a hook behind each call of these modules, within this block."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _reached(passed: Passed, result: Tensor) -> dict[nn.Module, Tensor]:
    """Return the gradient of a result by each module's output."""
    outputs = [output for _, output in passed.values()]
    gradients = torch.autograd.grad(result, outputs, retain_graph=True, allow_unused=True, materialize_grads=True)
    return dict(zip(passed, gradients, strict=True))


def _norms_and_input(model: Any, layer: nn.Module) -> tuple[dict[str, Tensor], Tensor | None]:
    """Return the outputs of the norms of a layer, by path, and the layer's input."""
    paths = {module: path for path, module in layer.named_modules() if "norm" in type(module).__name__.lower()}
    norms: dict[str, Tensor] = {}
    inputs: list[Tensor] = []

    def note(module: nn.Module, given: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            norms[paths[module]] = output.reshape(-1, output.shape[-1])

    def enter(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        states = args[0] if args else named.get("hidden_states")
        if isinstance(states, Tensor):
            inputs.append(states.reshape(-1, states.shape[-1]))

    handle = layer.register_forward_pre_hook(enter, with_kwargs=True)
    with hooked(paths, note), torch.no_grad():
        states_of(model, TOKENS)
    handle.remove()
    return norms, inputs[-1] if inputs else None
