"""AdaLoRA's schedule as a Trainer callback: it allocates ranks at every step.

PEFT keeps the pattern of remaining ranks beside the weights, and leaves the others out of a saved file. That pattern is of the
last step. Weights of an earlier step, kept for the best score, have other ranks. So the pattern is read from the weights, where
a pruned rank has a singular value of zero, whenever weights are saved and where a run resumes.
"""

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from lora_bench.errors import LoraBenchError


def ranks_from_weights(model: Any, *_: Any) -> None:
    """Set the rank pattern of each AdaLoRA adapter of a `PeftModel` to the ranks that its weights have."""
    for name, config in model.peft_config.items():
        config.rank_pattern = {
            path: (weight != 0).flatten().tolist()
            for path, weight in model.base_model.model.named_parameters()
            if f"lora_E.{name}" in path
        }


class AllocateRanks(TrainerCallback):
    """AdaLoRA's schedule: ranks are allocated before gradients are dropped; with *sets_total* it ends with the run."""

    def __init__(self, *, sets_total: bool) -> None:
        self.sets_total = sets_total
        # Whether the number of steps must be known before the first.
        self.needs_steps = sets_total

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        """End the schedule with the run, which must leave steps to reduce ranks; one resumed behind its end keeps its ranks."""
        model = inside["model"]
        for config in model.peft_config.values():
            if self.sets_total:
                config.total_step = state.max_steps
            if config.tinit >= config.total_step - config.tfinal:
                raise LoraBenchError(
                    f"AdaLoRA's tinit ({config.tinit}) and tfinal ({config.tfinal}) leave none of the "
                    f"{config.total_step} steps of the run to reduce ranks in"
                )
            if state.global_step > config.total_step - config.tfinal:
                ranks_from_weights(model)

    def on_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        """Allocate ranks."""
        tuner = inside["model"].base_model
        config = tuner.peft_config[tuner.trainable_adapter_name]
        if state.global_step == config.total_step - config.tfinal and not tuner.rankallocator.ipt:
            # PEFT takes the importance from the steps before, which a run that goes on here does not have.
            tuner.rankallocator.update_ipt(tuner.model)
        tuner.update_and_allocate(state.global_step)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        """Save all later weights with their own ranks."""
        model: nn.Module = inside["model"]
        model.register_state_dict_pre_hook(ranks_from_weights)
