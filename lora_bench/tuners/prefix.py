"""Key/value prefixes: learned keys and values in front of every layer's own.

`lora_bench.methods.prefix_tuning` tells the method and its reparameterisation, whose shared part belongs to the first layer.
Saving folds it into plain keys and values; loading gives those, even in a model that was itself reparameterised. A folded
prefix cannot be trained on as before. For resumable checkpoints use `fold_on_save=False`, and `fold` after training.

PEFT has the method for models with a cache, and puts the prefix into the cache. Real tokens then start at position P, and
DeBERTa, which has no cache, is out of reach. Here the prefix meets the keys inside attention (`tuners.attention`), so
positions, masks and caches are those of the base model. RoBERTa, DeBERTa and GPT-2 work alike, and so do gradient
checkpointing and generation. With `first_position=P`, in models with a table of learned positions, both agree. Several active
prefixes are joined one after the other. A prefix cannot be merged into the base weights.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.families import Family, PrefixKind
from lora_bench.tuners.attention import ATTENTIONS, Prefix, refuse_kernel
from lora_bench.tuners.mixed_batches import check_rows
from lora_bench.tuners.registration import register
from lora_bench.tuners.sites import Tuner, TunerConfig, TunerLayer


def reparameterised_prefix(
    embedding: Tensor, hidden_weight: Tensor, hidden_bias: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Return keys and values of one layer's prefix from its reparameterisation.

    Args:
        embedding: One row for each virtual token, shape (prefix_tokens, width).
        hidden_weight: Shape (reparameterisation_width, width).
        hidden_bias: Shape (reparameterisation_width,).
        weight: The layer's projection, shape (2 * width, reparameterisation_width).
        bias: Shape (2 * width,).

    Returns:
        Key and value, each of shape (prefix_tokens, width).
    """
    hidden = torch.tanh(F.linear(embedding, hidden_weight, hidden_bias))
    key, value = F.linear(hidden, weight, bias).chunk(2, dim=-1)
    return key, value


class FoldingConfig(TunerConfig):
    """Settings with reparameterised prefixes, of which `fold_on_save` says whether saving folds them."""

    def mark_folded(self) -> None:
        """Record that the prefixes are plain."""
        raise NotImplementedError

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write the config that fits the saved weights."""
        saved: Any = copy.copy(self)
        if saved.fold_on_save:
            saved.mark_folded()
        super(FoldingConfig, saved).save_pretrained(save_directory, **kwargs)


@dataclass(kw_only=True)
class PrefixConfig(FoldingConfig):
    """Config of a key/value prefix in every layer.

    Args:
        num_virtual_tokens: Length of the prefix, at least 1.
        init_std: Standard deviation of the initial keys and values. A reparameterisation is drawn as torch draws embeddings and
            linear layers, as in the paper's code.
        reparameterised: Train the paper's reparameterisation. Saved files say False: it is folded away.
        reparameterisation_width: Number of its tanh units, at least 1.
        fold_on_save: Fold a reparameterisation when saving. Otherwise a file holds what is trained, a hundred times as much,
            and a run resumes from it exactly.
        first_position: Position of the first token of the text: 0, or the length of the prefix as in PEFT's own prefix tuning.
            Only a table of learned positions can be shifted.
    """

    num_virtual_tokens: int
    init_std: float = field(default=0.02)
    reparameterised: bool = field(default=False)
    reparameterisation_width: int = field(default=512)
    fold_on_save: bool = field(default=True)
    first_position: int = field(default=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = LORA_BENCH_PREFIX
        self.refuse_below(1, "num_virtual_tokens", "reparameterisation_width")
        self.refuse_below(0, "first_position")

    def mark_folded(self) -> None:
        """Record that the prefix is plain."""
        self.reparameterised = False


class PrefixLayer(TunerLayer):
    """An attention module with the prefixes that its queries see; *width* is that of its keys, all heads together.

    *siblings* are the prefix layers at the same place of each layer of a stack, in order; a list that they share. This one is
    appended.
    """

    adapter_layer_names: tuple[str, ...] = (
        "prefix_key",
        "prefix_value",
        "prefix_embedding",
        "prefix_hidden",
        "prefix_projection",
    )
    other_param_names: tuple[str, ...] = ("first_positions",)

    def __init__(self, base_layer: nn.Module, kind: PrefixKind, width: int, siblings: list["PrefixLayer"]) -> None:
        super().__init__(base_layer)
        self.kind = kind
        self.width = width
        self.siblings = siblings  # a plain list, so that no layer is a part of another
        siblings.append(self)
        self.prefix_key = nn.ParameterDict()
        self.prefix_value = nn.ParameterDict()
        self.prefix_embedding = nn.ParameterDict()
        self.prefix_hidden = nn.ModuleDict()
        self.prefix_projection = nn.ModuleDict()
        self.first_positions: dict[str, int] = {}

    def update_layer(self, adapter_name: str, config: PrefixConfig, device: torch.device) -> None:
        """Add a prefix, drawn on *device*."""
        self.first_positions[adapter_name] = config.first_position
        if not config.reparameterised:
            for container in (self.prefix_key, self.prefix_value):
                fresh = torch.empty(config.num_virtual_tokens, self.width, device=device)
                container[adapter_name] = nn.Parameter(nn.init.normal_(fresh, std=config.init_std))
            return
        units = config.reparameterisation_width
        if not any(adapter_name in layer.prefix_embedding for layer in self.siblings):
            fresh = torch.empty(config.num_virtual_tokens, self.width, device=device)
            self.prefix_embedding[adapter_name] = nn.Parameter(nn.init.normal_(fresh))
            self.prefix_hidden[adapter_name] = nn.Linear(self.width, units, device=device)
        self.prefix_projection[adapter_name] = nn.Linear(units, 2 * self.width, device=device)

    def has(self, adapter_name: str) -> bool:
        """Return True if this layer has a prefix of this name."""
        return adapter_name in self.prefix_key or adapter_name in self.prefix_projection

    def sharer(self, adapter_name: str) -> "PrefixLayer":
        """Return the layer that owns the shared part of a reparameterisation."""
        return next(layer for layer in self.siblings if adapter_name in layer.prefix_embedding)

    def key_value(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return key and value of one prefix, each of shape (prefix_tokens, width)."""
        if adapter_name in self.prefix_key:
            return self.prefix_key[adapter_name], self.prefix_value[adapter_name]
        shared = self.sharer(adapter_name)
        hidden: Any = shared.prefix_hidden[adapter_name]
        projection: Any = self.prefix_projection[adapter_name]
        embedding = shared.prefix_embedding[adapter_name]
        return reparameterised_prefix(embedding, hidden.weight, hidden.bias, projection.weight, projection.bias)

    def joined(self, adapter_names: Sequence[str]) -> Prefix:
        """Return the prefixes of these adapters, one after the other."""
        keys, values = zip(*(self.key_value(name) for name in adapter_names), strict=True)
        return Prefix(torch.cat(keys), torch.cat(values))

    def mixed(self, adapter_names: Sequence[str]) -> Prefix:
        """Return the prefix of each row's adapter, padded to the longest; rows with another name, as `__base__`, have none."""
        own = {name: self.key_value(name) for name in dict.fromkeys(adapter_names) if self.has(name)}
        first, _ = next(iter(own.values()))
        none = first.new_zeros(0, first.shape[-1])
        rows = [own.get(name, (none, none)) for name in adapter_names]
        keys, values = (pad_sequence([row[part] for row in rows], batch_first=True) for part in (0, 1))
        lengths = torch.tensor([len(key) for key, _ in rows], device=none.device)
        return Prefix(keys, values, torch.arange(keys.shape[1], device=none.device) < lengths[:, None])

    def forward(
        self, hidden_states: Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any
    ) -> Any:
        """Return the attention module's result with the active prefixes, or each row's own, in front of the keys."""
        attend = ATTENTIONS[self.kind]
        if adapter_names is not None and not self.disable_adapters:
            check_rows(adapter_names, hidden_states)
            if not any(map(self.has, adapter_names)):
                return self.base_layer(hidden_states, *args, **kwargs)
            return attend(self.base_layer, self.mixed(adapter_names), hidden_states, *args, **kwargs)
        live = self.live_adapters()
        if not live:
            return self.base_layer(hidden_states, *args, **kwargs)
        return attend(self.base_layer, self.joined(live), hidden_states, *args, **kwargs)


class FoldingTuner(BaseTuner):
    """A tuner of a `FoldingConfig`, which saves a reparameterised prefix as plain keys and values, and loads these."""

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor], *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Return the weights to save, those of a prefix computed from *state_dict*, which may have been gathered."""
        kept: dict[str, Tensor] = super()._get_adapter_state_dict(
            model, config, adapter_name, state_dict, *args, **kwargs
        )
        layers = [(path, layer) for path, layer in prefix_layers(model) if adapter_name in layer.prefix_projection]
        if not layers or not config.fold_on_save:
            return kept
        sharers = {layer: path for path, layer in layers if adapter_name in layer.prefix_embedding}
        folded: dict[str, Tensor] = {}
        trained: set[str] = set()
        with torch.no_grad():
            for path, layer in layers:
                shared = sharers[layer.sharer(adapter_name)]
                linear = (f"{shared}.prefix_hidden.{adapter_name}", f"{path}.prefix_projection.{adapter_name}")
                weights = [f"{module}.{part}" for module in linear for part in ("weight", "bias")]
                names = (f"{shared}.prefix_embedding.{adapter_name}", *weights)
                key, value = reparameterised_prefix(*(kept[name] for name in names))
                trained.update(names)
                folded[f"{path}.prefix_key.{adapter_name}"] = key.contiguous()
                folded[f"{path}.prefix_value.{adapter_name}"] = value.contiguous()
        return {name: weight for name, weight in kept.items() if name not in trained} | folded

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the file's weights, after folding a reparameterised prefix of the model if the file has a plain one."""
        computed = any(adapter_name in layer.prefix_projection for _, layer in prefix_layers(model))
        if any(".prefix_key" in name for name in state_dict):
            fold(model, adapter_name)
        elif not computed and any(".prefix_projection" in name for name in state_dict):
            raise LoraBenchError(
                "the file holds a reparameterised prefix and the model a plain one: load it into the base model"
            )
        remapped: dict[str, Tensor] = super()._remap_adapter_state_dict_for_load(
            model, config, adapter_name, state_dict
        )
        return remapped


class PrefixModel(FoldingTuner, Tuner):
    """A base model with key/value prefixes, from `get_peft_model(model, PrefixConfig(...))`."""

    prefix = "prefix_"
    tuner_layer_cls: type[PrefixLayer] = PrefixLayer
    title = "a key/value prefix"

    def site_pattern(self, config: PrefixConfig, family: Family, model_config: dict[str, Any]) -> str:
        """Return the pattern of attention modules. Raise UnsupportedPair if prefixes cannot enter these or the kernel."""
        if prefix_kind(family) in ("cache", "t5"):
            refuse_kernel(getattr(self.model.config, "_attn_implementation", None))
        if model_config.get("talking_head"):
            # Talking heads (a DeBERTa v1 option) mix the heads before and after the softmax that a prefix joins.
            raise UnsupportedPair("no key/value prefix is written for attention with talking heads")
        return family.pattern(*self.attentions(family))

    def attentions(self, family: Family) -> tuple[str, ...]:
        """Return the attention modules of a layer that get a prefix."""
        return tuple(path for path in (family.self_attention, family.cross_attention) if path is not None)

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        prepared = super()._prepare_adapter_config(peft_config, model_config)
        if getattr(peft_config, "first_position", 0):
            shift_positions(self.model)
        return prepared

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Refuse batches of several adapters if one of them shifts positions, which are those of the whole batch."""
        shifted = any(getattr(config, "first_position", 0) for config in self.peft_config.values())
        if shifted and kwargs.get("adapter_names") is not None:
            raise LoraBenchError("adapter_names mixes adapters in one batch, and a prefix with first_position is alone")
        with super()._enable_peft_forward_hooks(*args, **kwargs):
            yield

    def new_layer(
        self, base_layer: nn.Module, config: PrefixConfig, family: Family, model_config: dict[str, Any], path: str
    ) -> PrefixLayer:
        """Wrap one attention module of the base model."""
        place = _without_index(path)
        siblings = next((layer.siblings for at, layer in prefix_layers(self.model) if _without_index(at) == place), [])
        return PrefixLayer(base_layer, prefix_kind(family), family.key_width(model_config), siblings)


def _without_index(path: str) -> str:
    return re.sub(r"\.\d+\.", ".", path, count=1)


def prefix_layers(model: nn.Module) -> list[tuple[str, PrefixLayer]]:
    """Return path and module of every attention with prefixes, in the model's order."""
    return [(path, module) for path, module in model.named_modules() if isinstance(module, PrefixLayer)]


POSITION_TABLES = ("wpe", "position_embeddings")
"""Names of the tables of learned positions, in GPT-2 and in models of the BERT line."""


def position_table(model: nn.Module) -> nn.Module:
    """Return the table of learned positions. Raise UnsupportedPair for a model with relative or rotated positions."""
    named = model.named_modules()
    tables = [module for path, module in named if path.rpartition(".")[2] in POSITION_TABLES]
    if len(tables) != 1 or not isinstance(tables[0], nn.Embedding):
        raise UnsupportedPair(
            "first_position shifts a table of learned positions, as GPT-2, BERT and RoBERTa have, and "
            f"{type(model).__name__} has none"
        )
    return tables[0]


def shift_positions(model: nn.Module) -> None:
    """Let learned positions begin where the active prefix says, or as they are. Raise as `position_table` does."""
    table = position_table(model)
    if not any(isinstance(hook, partial) and hook.func is _shifted for hook in table._forward_pre_hooks.values()):
        table.register_forward_pre_hook(partial(_shifted, model))


def _shifted(model: nn.Module, table: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    layer = next((layer for _, layer in prefix_layers(model)), None)
    first = {layer.first_positions.get(name, 0) for name in layer.live_adapters()} if layer is not None else set()
    if len(first) > 1:
        raise LoraBenchError(f"active prefixes must agree on first_position, got {sorted(first)}")
    return (args[0] + next(iter(first), 0), *args[1:])


@torch.no_grad()
def fold(model: nn.Module, adapter_name: str = "default") -> None:
    """Replace a reparameterised prefix by its plain keys and values, in place; others stay as they are."""
    layers = [layer for _, layer in prefix_layers(model) if adapter_name in layer.prefix_projection]
    plain = [layer.key_value(adapter_name) for layer in layers]
    for layer, (key, value) in zip(layers, plain, strict=True):
        trained = layer.prefix_projection[adapter_name].weight.requires_grad
        layer.prefix_key[adapter_name] = nn.Parameter(key.clone(), requires_grad=trained)
        layer.prefix_value[adapter_name] = nn.Parameter(value.clone(), requires_grad=trained)
        for container in (layer.prefix_embedding, layer.prefix_hidden, layer.prefix_projection):
            if adapter_name in container:
                del container[adapter_name]
    configs: Any = getattr(model, "peft_config", {})
    if layers and adapter_name in configs:
        configs[adapter_name].mark_folded()


def prefix_kind(family: Family) -> PrefixKind:
    """Return the way of a prefix into the attention of a family. Raise UnsupportedPair if none is written for it."""
    if family.prefix_kind is None:
        raise UnsupportedPair(f"no key/value prefix is written for the attention of {family.name}")
    return family.prefix_kind


LORA_BENCH_PREFIX = register("LORA_BENCH_PREFIX", PrefixConfig, PrefixModel)
