"""Several of PEFT's and our adapters on one model, as one adapter that is trained, saved and loaded together.

A part acts as it does alone, on what the parts inside it make of its site. The inner parts are put on first (weights, then
blocks, then attention, then the stack of layers), because a wrapped module has another path. A reparameterised prefix is folded
when saving, as alone. `lora_bench.methods.combined` names combinations of papers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from torch import nn

from lora_bench.errors import LoraBenchError, unknown
from lora_bench.tuners.prefix import FoldingConfig, FoldingTuner
from lora_bench.tuners.registration import known_configs, register
from lora_bench.tuners.sites import OnlyTuner

ORDER = (
    ("LORA", "LORA_BENCH_FUSED_LORA"),
    ("BOTTLENECK_ADAPTER",),
    ("LORA_BENCH_PREFIX", "LORA_BENCH_PREFIX_LAYER"),
    ("LORA_BENCH_PREFIX_EMBEDDING",),
)
"""PEFT types that can be combined, from the innermost; types of a row have the same sites, so a combination has one of them."""


@dataclass(kw_only=True)
class CombinedConfig(FoldingConfig):
    """Config of several adapters that act together; *parts* are their configs as mappings, with `peft_type`, in any order."""

    parts: list[dict[str, Any]] = field()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = LORA_BENCH_COMBINED
        known = [name for row in ORDER for name in row]
        types = [str(getattr(part.get("peft_type"), "value", part.get("peft_type"))) for part in self.parts]
        for name in types:
            if name not in known:
                raise unknown("part of a combination", name, known)
        rows = [next(index for index, row in enumerate(ORDER) if name in row) for name in types]
        if len(set(rows)) < len(rows) or len(rows) < 2:
            raise LoraBenchError(
                f"a combination has two parts or more, each with sites of its own; got {', '.join(types) or 'none'}"
            )
        in_order = sorted(zip(rows, types, self.parts, strict=True), key=lambda part: part[0])
        self.parts = [{**part, "peft_type": name} for _, name, part in in_order]

    @property
    def fold_on_save(self) -> bool:
        """True if saving folds a reparameterised prefix among the parts."""
        return all(part.get("fold_on_save", True) for part in self.parts)

    def mark_folded(self) -> None:
        """Record that a prefix among the parts is plain."""
        self.parts = [
            {**part, "reparameterised": False} if part.get("reparameterised") else part for part in self.parts
        ]

    def configs(self) -> list[PeftConfig]:
        """Return the config of each part, the innermost first."""
        known, parts = known_configs(), [dict(part) for part in self.parts]
        return [known[part.pop("peft_type")](**part) for part in parts]


class CombinedModel(FoldingTuner, OnlyTuner):
    """A base model with several adapters, from `get_peft_model(model, CombinedConfig(...))`."""

    prefix = "combined_"
    alone = "a combination is"

    def put_on(self, model: nn.Module, adapter_name: str, config: CombinedConfig) -> None:
        """Put every part on the model, and make all of them trainable. Raise UnsupportedPair if the model refuses one."""
        for part in config.configs():
            part.inference_mode = config.inference_mode
            PEFT_TYPE_TO_TUNER_MAPPING[part.peft_type](model, {adapter_name: part}, adapter_name)
            del model.peft_config  # the next part would take it for a second adapter of its own kind
        if config.inference_mode:
            for weight in model.parameters():
                weight.requires_grad_(False)

    def _check_merge_allowed(self) -> None:
        raise LoraBenchError("a combination cannot be merged: one of its parts at most is a change of weights")

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> nn.Module:
        if merge:
            self._check_merge_allowed()
        raise LoraBenchError("a combination cannot be unloaded: load the base model again, or use disable_adapter()")

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Refuse batches of several adapters: a combination is the only one of its model."""
        if kwargs.pop("adapter_names", None) is not None:
            raise LoraBenchError("adapter_names mixes adapters in one batch, and a combination is alone on its model")
        yield


LORA_BENCH_COMBINED = register("LORA_BENCH_COMBINED", CombinedConfig, CombinedModel)
