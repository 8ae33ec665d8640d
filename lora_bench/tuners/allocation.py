"""AdaLoRA's schedule as a callback for the Trainer: its ranks are given out anew at every step."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_bench.errors import LoraBenchError


class AllocateRanks(TrainerCallback):
    """AdaLoRA's schedule: after each optimiser step, and before its gradients are dropped, ranks are given out anew.

    Args:
        sets_total: Whether the schedule ends with the run, and not where the suite says.
    """

    def __init__(self, *, sets_total: bool) -> None:
        self.sets_total = sets_total

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **inside: Any
    ) -> None:
        """Let the schedule end with the run."""
        for config in inside["model"].peft_config.values():
            if self.sets_total:
                config.total_step = state.max_steps
            if config.tinit >= config.total_step - config.tfinal:
                raise LoraBenchError(
                    f"AdaLoRA's tinit ({config.tinit}) and tfinal ({config.tfinal}) leave none of the "
                    f"{config.total_step} steps of the run to reduce ranks in"
                )

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **inside: Any
    ) -> None:
        """Give the ranks out anew."""
        inside["model"].base_model.update_and_allocate(state.global_step)
