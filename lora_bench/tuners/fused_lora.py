"""LoRA on chosen slices of a weight that computes query, key and value together.

y_s = W_s x + scaling * B_s A_s x for each adapted slice s of the output, with A_s of shape (rank, in_features) and B_s of shape
(width, rank). Other slices stay as they are. GPT-2's `c_attn` and DeBERTa v1's `in_proj` are such weights. PEFT's LoRA on one
has one A and a B as high as all three slices. That has as many weights as the paper's query and value, but is another method:
the key moves, and A is shared. `lora_bench.methods.lora` names the papers.

A is drawn as in PEFT. A weight that is not fused is one slice, so one adapter may name both kinds. Where heads share keys, as
in Phi-4, the query is several slices with one A.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from peft.utils.other import get_pattern_key
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from lora_bench.errors import LoraBenchError, UnsupportedPair, unknown
from lora_bench.families import ROLES, Family, Part, parts_of
from lora_bench.tuners.mixed_batches import EachRow, by_row, each_row, factors_of
from lora_bench.tuners.registration import register
from lora_bench.tuners.sites import Tuner, TunerConfig, TunerLayer
from lora_bench.tuners.slices import joined_slices, slices_of


def sliced_update(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Return the low-rank updates of several slices of one output, or of several members at once, each on its own rows.

    Args:
        x: Inputs, shape (..., in_features), or (member, ..., in_features).
        A: Shape (slices, rank, in_features), or with a leading member dimension.
        B: Shape (slices, width, rank), or with a leading member dimension.

    Returns:
        B_s A_s x for each slice s, shape (slices, ..., width), or (slices, member, ..., width).
    """
    if A.dim() == 4:
        rows = x.reshape(len(x), -1, x.shape[-1])
        hidden = torch.bmm(rows, A.flatten(1, 2).transpose(1, 2)).unflatten(-1, A.shape[1:3])
        updates = hidden.permute(2, 0, 1, 3) @ B.transpose(0, 1).transpose(-1, -2)
        return updates.reshape(*updates.shape[:2], *x.shape[1:-1], -1)
    if len(A) == 1:
        return F.linear(F.linear(x, A[0]), B[0]).unsqueeze(0)
    hidden = F.linear(x, A.flatten(0, 1)).unflatten(-1, A.shape[:2])
    rows = hidden.movedim(-2, 0).reshape(len(A), -1, A.shape[1])
    return torch.bmm(rows, B.transpose(1, 2)).reshape(len(A), *x.shape[:-1], -1)


def dora_gain(weight: Tensor, delta: Tensor, magnitude: Tensor) -> Tensor:
    """Return DoRA's factor on each row of the updated weight: its learned length divided by its current one.

    No gradient flows through the current length (section 4.3 of the paper).

    Args:
        weight: Rows of the frozen weight, shape (..., width, in_features).
        delta: Their update, of the same shape.
        magnitude: Learned lengths, shape (..., width).

    Returns:
        Shape (..., width).
    """
    return magnitude / torch.linalg.vector_norm(weight + delta, dim=-1).detach()


@dataclass(kw_only=True)
class FusedLoraConfig(TunerConfig):
    """Config of LoRA by role, also on slices of fused weights.

    Args:
        r: Rank, at least 1.
        lora_alpha: The update is multiplied by `lora_alpha / r`.
        lora_dropout: Probability of zeroing an input of A, in [0, 1); the slices of one weight share the mask.
        use_rslora: Multiply by `lora_alpha / sqrt(r)` instead.
        use_dora: Also learn the length of each adapted row of the weight.
        roles: Roles to adapt: query, key, value, output, ffn or all.
        initialisation: Draw of A, kaiming or gaussian.
        rank_pattern: Other ranks than *r*, by regular expressions over whole paths, as PEFT reads them. The factor on the
            update stays as with *r*, or as *use_rslora* says.
        trainable_token_indices: Rows of embeddings that are trained too, by the path of their module, as PEFT reads them.
    """

    r: int = field(default=8)
    lora_alpha: float = field(default=8)
    lora_dropout: float = field(default=0.0)
    use_rslora: bool = field(default=False)
    use_dora: bool = field(default=False)
    roles: list[str] = field(default_factory=lambda: ["query", "value"])
    initialisation: str = field(default="kaiming")
    rank_pattern: dict[str, int] = field(default_factory=dict)
    trainable_token_indices: dict[str, list[int]] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = LORA_BENCH_FUSED_LORA
        for role in self.roles:
            if role not in ROLES:
                raise unknown("role", role, ROLES)
        if not self.roles:
            raise LoraBenchError("roles must name something to adapt, got none")
        self.refuse_below(1, "r")
        if self.initialisation not in ("kaiming", "gaussian"):
            raise unknown("initialisation", self.initialisation, ("kaiming", "gaussian"))
        if not 0 <= self.lora_dropout < 1:
            raise LoraBenchError(f"lora_dropout must be in [0, 1), got {self.lora_dropout}")

    def at(self, path: str) -> "FusedLoraConfig":
        """Return the config of the module at *path*, which may have another rank."""
        rank = self.rank_pattern.get(get_pattern_key(list(self.rank_pattern), path), self.r)
        alpha = self.lora_alpha if self.use_rslora else self.lora_alpha * rank / self.r
        return replace(self, r=rank, lora_alpha=alpha, rank_pattern={})

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of a layer that the roles stand for."""
        return parts_of(self.roles)  # type: ignore[arg-type]  # checked when the config was made

    @property
    def scaling(self) -> float:
        """The factor on the update."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


class FusedLoraLayer(TunerLayer):
    """A linear layer, or GPT-2's `Conv1D`, which keeps its weight transposed, with low-rank updates of slices of its output.

    *parts* has the part of each slice, as `Family.slices_at` gives it, and *groups* is that of `slices_of`.
    """

    adapter_layer_names = ("fused_lora_A", "fused_lora_B", "fused_lora_magnitude")
    other_param_names = ("configs", "merged_gains")

    def __init__(self, base_layer: nn.Module, parts: tuple[Part, ...], groups: int, path: str = "") -> None:
        super().__init__(base_layer)
        self.parts = parts
        self.groups = groups
        self.path = path
        self.fused_lora_A = nn.ParameterDict()
        self.fused_lora_B = nn.ParameterDict()
        self.fused_lora_magnitude = nn.ParameterDict()
        self.configs: dict[str, FusedLoraConfig] = {}
        self.merged_gains: dict[str, Tensor] = {}

    def update_layer(self, adapter_name: str, config: FusedLoraConfig, device: torch.device) -> None:
        """Add an adapter without effect yet, its A drawn on *device*. Raise UnsupportedPair for DoRA on a quantised weight."""
        config = config.at(self.path)
        self.configs[adapter_name] = config
        weight = self.get_base_layer().weight
        if config.use_dora and not weight.is_floating_point():
            raise UnsupportedPair("DoRA on a fused weight needs the length of its rows, and this one is quantised")
        module: Any = self.get_base_layer()
        inputs, outputs = (module.nx, module.nf) if isinstance(module, Conv1D) else (
            module.in_features, module.out_features
        )  # fmt: skip
        slices = len(self.adapted(adapter_name))
        A = torch.empty(len(set(self.parts) & set(config.parts)), config.r, inputs, device=device)
        for matrix in A:  # as in PEFT
            if config.initialisation == "gaussian":
                nn.init.normal_(matrix, std=1 / config.r)
            else:
                nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))
        self.fused_lora_A[adapter_name] = nn.Parameter(A)
        self.fused_lora_B[adapter_name] = nn.Parameter(
            torch.zeros(slices, outputs // len(self.parts), config.r, device=device)
        )
        if config.use_dora:
            lengths = torch.linalg.vector_norm(self.rows(adapter_name), dim=-1)
            self.fused_lora_magnitude[adapter_name] = nn.Parameter(lengths.clone())

    def adapted(self, adapter_name: str) -> tuple[int, ...]:
        """Return the indexes of the slices that an adapter updates."""
        named = self.configs[adapter_name].parts
        return tuple(index for index, part in enumerate(self.parts) if part in named)

    def factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return A and B of each adapted slice, shapes (slices, rank, in_features) and (slices, width, rank)."""
        A, B = self.fused_lora_A[adapter_name], self.fused_lora_B[adapter_name]
        if len(A) < len(B):
            parts = [self.parts[index] for index in self.adapted(adapter_name)]
            A = A[[list(dict.fromkeys(parts)).index(part) for part in parts]]
        return A, B

    def rows(self, adapter_name: str) -> Tensor:
        """Return the frozen weight's rows of each adapted slice, shape (slices, width, in_features)."""
        slices = slices_of(self._weight().T, len(self.parts), self.groups)
        return torch.stack([slices[index].T for index in self.adapted(adapter_name)])

    def delta(self, adapter_name: str) -> Tensor:
        """Return the scaled update of `rows`."""
        A, B = self.factors(adapter_name)
        return B @ A * self.configs[adapter_name].scaling

    def gain(self, adapter_name: str) -> Tensor | None:
        """Return DoRA's factor on each row, shape (slices, width), or None for an adapter without DoRA."""
        if adapter_name not in self.fused_lora_magnitude:
            return None
        # The scaled update without its gradient: the length it goes into is a constant to DoRA.
        delta = self.delta(adapter_name).detach()
        return dora_gain(self.rows(adapter_name).to(delta.dtype), delta, self.fused_lora_magnitude[adapter_name])

    def updates(self, adapter_name: str, x: Tensor, parts: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return an adapter's addition to each of the slices *parts*, shape (..., width), for *x*, shape (..., in_features)."""
        config = self.configs[adapter_name]
        A, B = self.factors(adapter_name)
        dropped = F.dropout(x, config.lora_dropout, self.training)
        update = sliced_update(self._cast_input_dtype(dropped, A.dtype), A, B) * config.scaling
        adapted = self.adapted(adapter_name)
        gain = self.gain(adapter_name)
        if gain is None:
            return dict(zip(adapted, update, strict=True))
        if config.lora_dropout and self.training:
            parts = slices_of(self.base_layer(dropped), len(self.parts), self.groups)
        bias = getattr(self.get_base_layer(), "bias", None)
        if bias is not None:
            biases = slices_of(bias, len(self.parts), self.groups)
            parts = [part - own for part, own in zip(parts, biases, strict=True)]
        return {
            index: (factor - 1) * parts[index] + factor * own
            for index, factor, own in zip(adapted, gain, update, strict=True)
        }

    def forward(self, x: Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any) -> Tensor:
        """Return the module's output with the updates of the active adapters, or of each row's own.

        Raise LoraBenchError if rows name adapters while some are merged, or a DoRA adapter is not active alone.
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        if adapter_names is not None and self.merged and not self.disable_adapters:
            raise LoraBenchError(
                "adapter_names cannot be told apart while adapters are merged: unmerge_adapter() first"
            )
        y: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return y
        if adapter_names is not None:
            rows = each_row(x, adapter_names)
            mixed = self._mixed(adapter_names, rows, y.expand(*rows.shape[:-1], -1))
            return mixed if rows is x else mixed.as_subclass(EachRow)
        return self._with(self.live_adapters(), x, y)

    def _mixed(self, adapter_names: Sequence[str], x: Tensor, y: Tensor) -> Tensor:
        """Return the output *y* with the update of each row's own adapter."""
        own = {name: self.factors(name) for name in dict.fromkeys(adapter_names) if name in self.configs}
        adapted = {self.adapted(name) for name in own}
        if len(adapted) > 1 or own.keys() & set(self.fused_lora_magnitude):
            out = y.clone()
            for name in own:
                rows = [row for row, row_name in enumerate(adapter_names) if row_name == name]
                out[rows] = self._with([name], x[rows], y[rows])
            return out
        if not own:
            return y
        A, B = (by_row({name: factors[part] for name, factors in own.items()}, adapter_names) for part in (0, 1))
        update = sliced_update(self._cast_input_dtype(x, A.dtype), A, B)
        factors = factors_of({name: self.configs[name].scaling for name in own}, adapter_names, update[0])
        parts = list(slices_of(y, len(self.parts), self.groups))
        for index, change in zip(*adapted, update, strict=True):
            parts[index] = parts[index] + (change * factors).to(y.dtype)
        return joined_slices(parts, self.groups)

    def _with(self, adapter_names: Sequence[str], x: Tensor, y: Tensor) -> Tensor:
        """Return the output *y* with the updates of these adapters."""
        if not adapter_names:
            return y
        if len(adapter_names) > 1 and any(name in self.fused_lora_magnitude for name in adapter_names):
            raise LoraBenchError(f"a DoRA adapter is active alone, got {list(adapter_names)}")
        plain = slices_of(y, len(self.parts), self.groups)
        parts = list(plain)
        for name in adapter_names:
            for index, update in self.updates(name, x, plain).items():
                parts[index] = parts[index] + update.to(y.dtype)
        return joined_slices(parts, self.groups)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fold adapters into the base weight; the active ones by default.

        Raise LoraBenchError if the weight is quantised, or a DoRA adapter would not be merged alone; with *safe_merge*
        ValueError if a merged weight is not finite, which leaves the weight unchanged.
        """
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.configs:
                continue
            if self.merged and (name in self.fused_lora_magnitude or self.merged_gains):
                raise LoraBenchError(f"a DoRA adapter is merged alone, {self.merged_adapters} are merged already")
            gain = self.gain(name)

            def change(rows: Tensor, name: str = name, gain: Tensor | None = gain) -> Tensor:
                merged = rows + self.delta(name)
                return merged if gain is None else gain.unsqueeze(-1) * merged

            self._change_rows(name, change, safe_merge)
            self.merged_adapters.append(name)
            if gain is not None:
                self.merged_gains[name] = gain

    @torch.no_grad()
    def unmerge(self) -> None:
        """Remove every merged adapter from the base weight, up to rounding."""
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            gain = self.merged_gains.pop(name, None)

            def change(rows: Tensor, name: str = name, gain: Tensor | None = gain) -> Tensor:
                return (rows if gain is None else rows / gain.unsqueeze(-1)) - self.delta(name)

            self._change_rows(name, change, safe=False)

    def _weight(self) -> Tensor:
        """Return the base weight, shape (out_features, in_features)."""
        module: Any = self.get_base_layer()
        return module.weight.detach().T if isinstance(module, Conv1D) else module.weight.detach()

    def _change_rows(self, adapter_name: str, change: Callable[[Tensor], Tensor], safe: bool) -> None:
        """Write changed rows of the adapted slices into the base weight."""
        weight = self._weight()
        if not weight.is_floating_point():
            raise LoraBenchError("an adapter cannot be merged into a quantised fused weight")
        parts = [part.T for part in slices_of(weight.T, len(self.parts), self.groups)]
        changed = change(torch.stack([parts[index] for index in self.adapted(adapter_name)]))
        if safe and not torch.isfinite(changed).all():
            raise ValueError(f"merging {adapter_name!r} gives weights that are not finite")
        for index, rows in zip(self.adapted(adapter_name), changed, strict=True):
            parts[index] = rows.to(weight.dtype)
        weight.copy_(joined_slices([part.T for part in parts], self.groups).T)


class FusedLoraModel(Tuner):
    """A base model with LoRA by role, from `get_peft_model(model, FusedLoraConfig(...))`."""

    prefix = "fused_lora_"
    tuner_layer_cls = FusedLoraLayer
    title = "LoRA by role"

    def site_pattern(self, config: FusedLoraConfig, family: Family, model_config: dict[str, Any]) -> str:
        """Return a regular expression of the modules that compute the config's parts."""
        return family.targets(*config.parts)

    def new_layer(
        self, base_layer: nn.Module, config: FusedLoraConfig, family: Family, model_config: dict[str, Any], path: str
    ) -> FusedLoraLayer:
        """Wrap a linear module. Raise UnsupportedPair without one of the parts, or for slices of unequal widths by head."""
        parts = family.slices_at(path, model_config)
        if not set(parts) & set(config.parts):
            raise UnsupportedPair(f"{self.title} on {', '.join(config.roles)} has nothing to adapt in {path}")
        in_heads = len(parts) > 1 and family.fused_layout == "heads"
        return FusedLoraLayer(base_layer, parts, model_config[family.num_heads_key] if in_heads else 1, path)

    def _check_merge_allowed(self) -> None:
        """Allow every merge: LoRA is a change of weights."""


LORA_BENCH_FUSED_LORA = register("LORA_BENCH_FUSED_LORA", FusedLoraConfig, FusedLoraModel)
