"""Fine-tuning of some of the base model's weights in place, as a PEFT method that stores only those.

BitFit (Ben Zaken et al. 2022, https://arxiv.org/abs/2106.10199) and the tuning of the top layers add nothing to a model: they
train a part of it. No module is wrapped, so a step costs what the part costs, and the file holds only the part. In return the
base weights change: the adapter cannot be disabled or unloaded, and a model has one at a time. `merge_and_unload` returns the
model as it is.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.tuners.registration import register
from lora_bench.tuners.sites import OnlyTuner, TunerConfig
from lora_bench.tuners.trial import is_in

PEFT_PREFIX = "base_model.model."
"""PEFT's prefix of a base model's names."""


@dataclass(kw_only=True)
class SelectedConfig(TunerConfig):
    """Config of fine-tuning the weights whose names match.

    Args:
        weights: Regular expression over whole names of weights, such as `.*bias`; empty for none. Modules in
            `modules_to_save` are always trained whole.
    """

    weights: str = field()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = LORA_BENCH_SELECTED
        try:
            re.compile(self.weights)
        except re.error as error:
            raise LoraBenchError(f"weights must be a regular expression, got {self.weights!r}: {error}") from error

    def chosen(self, name: str) -> bool:
        """Return True if this method trains the base model's weight *name*, and not as part of the head."""
        name = name.removeprefix(PEFT_PREFIX)
        return not is_in(name, self.modules_to_save or ()) and re.fullmatch(self.weights, name) is not None


class SelectedModel(OnlyTuner):
    """A base model with some weights trained in place, from `get_peft_model(model, SelectedConfig(...))`."""

    prefix = "selected_"
    alone = "weights trained in place are"

    def put_on(self, model: nn.Module, adapter_name: str, config: SelectedConfig) -> None:
        """Make the chosen weights trainable, and no others. Raise UnsupportedPair if none matches, or one is quantised."""
        weights = {name: weight for name, weight in model.named_parameters() if config.chosen(name)}
        chosen = weights.keys()
        if not chosen and config.weights:
            raise UnsupportedPair(f"no weight of {type(model).__name__} is named {config.weights!r}")
        whole = next((name for name, weight in weights.items() if not weight.is_floating_point()), None)
        if whole is not None:
            raise UnsupportedPair(f"a weight is trained in place in floating point, and {whole} is quantised")
        for name, weight in model.named_parameters():
            weight.requires_grad_(name in chosen and not config.inference_mode)

    def disable_adapter_layers(self) -> None:
        """Raise LoraBenchError: the base model's weights are overwritten."""
        raise LoraBenchError("weights trained in place cannot be disabled: load the base model again")

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> nn.Module:
        if not merge:
            raise LoraBenchError("weights trained in place cannot be unloaded: load the base model again")
        unloaded: nn.Module = super()._unload_and_optionally_merge(True, *args, **kwargs)
        return unloaded

    def _check_merge_allowed(self) -> None:
        """Allow every merge: the weights are already in place."""

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor], *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Return the weights to save: the chosen ones under the base model's names."""
        parameters = {name for name, _ in model.named_parameters()}
        return {name: tensor for name, tensor in state_dict.items() if name in parameters and config.chosen(name)}

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the file's weights, which must have all chosen ones, under the model's own names."""
        own = dict(model.named_parameters())
        plain = not any(name.startswith(PEFT_PREFIX) for name in own)
        wanted = {name.removeprefix(PEFT_PREFIX) for name in own if config.chosen(name)}
        missing = sorted(wanted - {name.removeprefix(PEFT_PREFIX) for name in state_dict})
        if missing:
            raise LoraBenchError(f"the file lacks {len(missing)} of the chosen weights, {missing[0]!r} among them")
        return {name.removeprefix(PEFT_PREFIX) if plain else name: tensor for name, tensor in state_dict.items()}


LORA_BENCH_SELECTED = register("LORA_BENCH_SELECTED", SelectedConfig, SelectedModel)
