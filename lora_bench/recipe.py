"""What the recipe of a run spec means to the Trainer: one place where its words become `transformers.TrainingArguments`."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainingArguments

from lora_bench.spec import PlannedSpec


def training_arguments(spec: PlannedSpec, output_dir: str) -> TrainingArguments:
    """The arguments of a run.

    Raises:
        ValueError: If transformers refuses what the suite passes through.
    """
    recipe = spec.training
    accumulation = int(recipe.arguments.get("gradient_accumulation_steps", 1))  # type: ignore[arg-type]
    ours: dict[str, Any] = {
        "output_dir": output_dir,
        "max_steps": recipe.steps,
        "per_device_train_batch_size": recipe.batch_size // accumulation,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": recipe.warmup_steps,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "label_smoothing_factor": recipe.label_smoothing,
        "optim": "adamw_torch_fused",
        "bf16": recipe.precision == "bfloat16",
        "seed": spec.seed,
        # The examples are already in the order in which they are to be seen.
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    return TrainingArguments(**{**ours, **recipe.arguments})
