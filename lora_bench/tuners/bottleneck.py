"""Bottleneck adapters: a narrow two-layer network added to the output of a block of a frozen model.

`lora_bench.methods.bottleneck_adapter` tells the formula and the four variants, and `lora_bench.families.Placement` how a
variant joins its module. In BERT-like layers `houlsby` acts before the residual sum and LayerNorm. On GPT-2 `lin` wraps the
layer, so `output_hidden_states` shows each layer without its adapter. One adapter acts at a time: two in a row and two side by
side would both be fair readings of two active adapters.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_bench.errors import LoraBenchError, UnsupportedPair, unknown
from lora_bench.families import Family, Placement
from lora_bench.tuners.mixed_batches import by_row, check_rows, factors_of
from lora_bench.tuners.registration import register
from lora_bench.tuners.sites import Tuner, TunerConfig, TunerLayer

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}

VARIANTS = ("houlsby", "pfeiffer", "parallel", "lin")

INITIALISATIONS = ("identity", "paper")


def bottleneck(
    x: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    activation: Callable[[Tensor], Tensor],
    scaling: float | Tensor = 1.0,
) -> Tensor:
    """Return the update f(x) of one adapter, or of several members at once, each on its own rows.

    Args:
        x: Hidden states, shape (batch, tokens, width), or (member, batch, tokens, width).
        down_weight: Shape (size, width), or (member, size, width).
        down_bias: Shape (size,), or (member, size).
        up_weight: Shape (width, size), or (member, width, size).
        up_bias: Shape (width,), or (member, width).
        activation: Function applied to each number between the two layers.
        scaling: Factor on the result; a tensor broadcasts against *x*.

    Returns:
        The update, of the shape of *x*. A smaller member is padded with zeros in both weights.
    """
    if down_weight.dim() == 2:
        return F.linear(activation(F.linear(x, down_weight, down_bias)), up_weight, up_bias) * scaling
    rows = x.flatten(1, -2)
    hidden = activation(torch.baddbmm(down_bias.unsqueeze(1), rows, down_weight.transpose(1, 2)))
    return torch.baddbmm(up_bias.unsqueeze(1), hidden, up_weight.transpose(1, 2)).view_as(x) * scaling


@dataclass(kw_only=True)
class BottleneckConfig(TunerConfig):
    """Config of bottleneck adapters in every layer; `methods.bottleneck_adapter` tells the other options.

    Args:
        non_linearity: relu, gelu, silu, swish (another name of silu) or tanh.
        initialisation: `identity` sets W_up = 0. `paper` draws as the variant's paper or its authors' code: normal with
            standard deviation 0.01 cut at twice that in both matrices (houlsby), normal with 0.02 in both (pfeiffer, lin),
            Kaiming-uniform W_down and W_up = 0 (parallel). Biases are zero in all.
        init_std: Standard deviation of the initial W_down if *initialisation* is `identity`.
    """

    bottleneck_size: int
    variant: str = field(default="houlsby")
    non_linearity: str = field(default="silu")
    scaling: float = field(default=1.0)
    initialisation: str = field(default="identity")
    init_std: float = field(default=0.02)
    skip_layers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BOTTLENECK_ADAPTER
        for what, name, known in (
            ("bottleneck variant", self.variant, VARIANTS),
            ("non-linearity", self.non_linearity, ACTIVATIONS),
            ("initialisation", self.initialisation, INITIALISATIONS),
        ):
            if name not in known:
                raise unknown(what, name, known)
        self.refuse_below(1, "bottleneck_size")


class BottleneckLayer(TunerLayer):
    """A module of the base model with its bottlenecks; *placement* says how its inputs and output are used."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up", "bottleneck_norm")
    other_param_names = ("configs",)

    def __init__(self, base_layer: nn.Module, placement: Placement, width: int) -> None:
        super().__init__(base_layer)
        self.placement = placement
        self.width = width
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_norm = nn.ModuleDict()
        self.configs: dict[str, BottleneckConfig] = {}

    def update_layer(self, adapter_name: str, config: BottleneckConfig, device: torch.device) -> None:
        """Add an adapter, its weights drawn on *device*."""
        down = nn.Linear(self.width, config.bottleneck_size, device=device)
        up = nn.Linear(config.bottleneck_size, self.width, device=device)
        INITIALISERS[config.variant if config.initialisation == "paper" else "identity"](down, up, config.init_std)
        for bias in (down.bias, up.bias):
            nn.init.zeros_(bias)
        self.bottleneck_down[adapter_name] = down
        self.bottleneck_up[adapter_name] = up
        if config.variant == "lin":
            self.bottleneck_norm[adapter_name] = nn.LayerNorm(self.width, device=device)
        self.configs[adapter_name] = config

    def update(self, adapter_name: str, x: Tensor) -> Tensor:
        """Return the update of one adapter for hidden states *x*, in the type of *x*."""
        config = self.configs[adapter_name]
        down: Any = self.bottleneck_down[adapter_name]
        up: Any = self.bottleneck_up[adapter_name]
        activation = ACTIVATIONS[config.non_linearity]
        cast = self._cast_input_dtype(x, down.weight.dtype)
        if adapter_name in self.bottleneck_norm:
            cast = self.bottleneck_norm[adapter_name](cast)
        return bottleneck(cast, down.weight, down.bias, up.weight, up.bias, activation, config.scaling).to(x.dtype)

    def mixed_update(self, adapter_names: Sequence[str], x: Tensor) -> Tensor:
        """Return the update for a batch in which row i belongs to the adapter `adapter_names[i]`."""
        check_rows(adapter_names, x)
        update = torch.zeros_like(x)
        own = {name: self.configs[name].non_linearity for name in adapter_names if name in self.configs}
        for non_linearity in dict.fromkeys(own.values()):
            rows = [row for row, name in enumerate(adapter_names) if own.get(name) == non_linearity]
            update[rows] = self._stacked_update([adapter_names[row] for row in rows], x[rows])
        return update

    def _stacked_update(self, names: Sequence[str], x: Tensor) -> Tensor:
        """Return the update of each row by its own adapter, all of one non-linearity."""
        own = dict.fromkeys(names)

        def stacked(modules: Any, weight: str) -> Tensor:
            return by_row({name: getattr(modules[name], weight) for name in own}, names)

        down, down_bias = (stacked(self.bottleneck_down, part) for part in ("weight", "bias"))
        up, up_bias = (stacked(self.bottleneck_up, part) for part in ("weight", "bias"))
        cast: Tensor = self._cast_input_dtype(x, down.dtype)
        if self.bottleneck_norm:
            norm: Any = self.bottleneck_norm[names[0]]
            gain, shift = (stacked(self.bottleneck_norm, weight).unsqueeze(1) for weight in ("weight", "bias"))
            cast = F.layer_norm(cast, norm.normalized_shape, eps=norm.eps) * gain + shift
        scaling = factors_of({name: self.configs[name].scaling for name in own}, names, cast)
        activation = ACTIVATIONS[self.configs[names[0]].non_linearity]
        return bottleneck(cast, down, down_bias, up, up_bias, activation, scaling).to(x.dtype)

    def forward(self, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Return the output with the active adapter, or each row's own. Raise LoraBenchError if several are active."""
        join = PLACEMENTS[self.placement]
        if adapter_names is not None and not self.disable_adapters:
            return join(self.base_layer, partial(self.mixed_update, adapter_names), *args, **kwargs)
        live = self.live_adapters()
        if len(live) > 1:
            raise LoraBenchError(f"one bottleneck adapter can be active at a time, got {live}")
        if not live:
            return self.base_layer(*args, **kwargs)
        return join(self.base_layer, partial(self.update, live[0]), *args, **kwargs)


class BottleneckModel(Tuner):
    """A base model with bottleneck adapters, from `get_peft_model(model, BottleneckConfig(...))`."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    title = "a bottleneck adapter"

    def site_pattern(self, config: BottleneckConfig, family: Family, model_config: dict[str, Any]) -> str:
        """Return the pattern of the variant's sites. Raise UnsupportedPair if variants meet, or no site or layer is left."""
        variants = {other.variant for other in self.peft_config.values() if isinstance(other, BottleneckConfig)}
        if len(variants) > 1:
            # A wrapped block hides its own dropout from the next adapter's pattern: half the sites, and no error.
            raise UnsupportedPair(f"bottleneck adapters on one model share a variant, got {sorted(variants)}")
        if config.variant not in family.bottleneck_sites:
            raise UnsupportedPair(f"{family.name} has no {config.variant} adapter: {sorted(family.bottleneck_sites)}")
        layers = range(model_config[family.num_layers_key])
        unknown_layers = sorted(set(config.skip_layers) - set(layers))
        if unknown_layers or set(config.skip_layers) == set(layers):
            raise UnsupportedPair(
                f"skip_layers must leave a layer and name some of 0 to {len(layers) - 1}, got {config.skip_layers}"
            )
        return family.pattern(*family.bottleneck_sites[config.variant].modules, without_layers=config.skip_layers)

    def new_layer(
        self, base_layer: nn.Module, config: BottleneckConfig, family: Family, model_config: dict[str, Any], path: str
    ) -> BottleneckLayer:
        """Wrap one module of the base model."""
        placement = family.bottleneck_sites[config.variant].placement
        return BottleneckLayer(base_layer, placement, model_config[family.hidden_size_key])


def _identity(down: nn.Linear, up: nn.Linear, init_std: float) -> None:
    nn.init.normal_(down.weight, std=init_std)
    nn.init.zeros_(up.weight)


def _normal(down: nn.Linear, up: nn.Linear, init_std: float) -> None:
    for layer in (down, up):
        nn.init.normal_(layer.weight, std=0.02)


def _truncated_normal(down: nn.Linear, up: nn.Linear, init_std: float) -> None:
    for layer in (down, up):  # section 3.6 of Houlsby et al.
        nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)


def _kaiming(down: nn.Linear, up: nn.Linear, init_std: float) -> None:
    nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
    nn.init.zeros_(up.weight)


INITIALISERS: dict[str, Callable[[nn.Linear, nn.Linear, float], None]] = {
    "identity": _identity,
    "houlsby": _truncated_normal,
    "pfeiffer": _normal,
    "lin": _normal,
    "parallel": _kaiming,
}

Update = Callable[[Tensor], Tensor]


def _after(base: nn.Module, update: Update, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    y = base(x, *args, **kwargs)
    # A layer of T5 returns its hidden states and the bias of positions.
    return (y[0] + update(y[0]), *y[1:]) if isinstance(y, tuple) else y + update(y)


def _between_norms(base: Any, update: Update, x: Tensor, residual: Tensor) -> Any:
    h = base.dropout(base.dense(x))
    return base.LayerNorm(h + update(base.LayerNorm(h + residual)) + residual)


PLACEMENTS: dict[Placement, Callable[..., Any]] = {
    "after": _after,
    "beside": lambda base, update, x, *args, **kwargs: base(x, *args, **kwargs) + update(x),
    "beside_residual": lambda base, update, x, residual: base(x, residual + update(residual)),
    "between_norms": _between_norms,
    "around_norm": lambda base, update, x: base(x + update(base(x))),
}

BOTTLENECK_ADAPTER = register("BOTTLENECK_ADAPTER", BottleneckConfig, BottleneckModel)
