"""Translate the recipe of a run spec into `transformers.TrainingArguments`, in this one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import JsonValue
from torch import nn
from transformers import TrainingArguments, get_scheduler
from transformers.utils import is_torch_tf32_available

from lora_bench.records.spec import PlannedSpec, PlannedTraining

# A schedule of transformers counts steps; one that follows a share counts millionths of it.
WHOLE = 1_000_000

# Torch's switches of the precision of float32 products, as (module, name), in the order in which they can be set back.
# The last ones are those that transformers sets. Releases before 2.9 have other switches.
_NEW = hasattr(torch.backends, "fp32_precision")
_LEGACY: tuple[Any, str] = (torch.backends.cuda.matmul, "allow_tf32")  # accelerate sets it for compiled models
_SWITCHES: list[tuple[Any, str]] = (
    [_LEGACY, (torch.backends.cuda.matmul, "fp32_precision"), (torch.backends, "fp32_precision")]
    if _NEW
    else [_LEGACY, (torch.backends.cudnn, "allow_tf32")]
)
_BEFORE_ANY_RUN = [getattr(place, name) for place, name in _SWITCHES]


def training_arguments(spec: PlannedSpec, output_dir: str, steps: int = 1) -> TrainingArguments:
    """Return the arguments of a run; *steps* are those up to the target of the budget, if the spec does not give them.

    Raises:
        ValueError: If transformers refuses arguments that the suite passes through.
    """
    recipe = spec.training
    ours: dict[str, Any] = {
        "output_dir": output_dir,
        "max_steps": recipe.steps if recipe.steps is not None else steps,
        # A worker rank takes its share of a batch as one; see `lora_bench.training.distributed.ranks`.
        "per_device_train_batch_size": recipe.batch_size // recipe.accumulation if recipe.processes == 1 else 1,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": recipe.warmup_steps or 0,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "label_smoothing_factor": recipe.label_smoothing,
        "optim": "adamw_torch_fused",
        "bf16": recipe.precision == "bfloat16",
        "seed": spec.seed,
        # The examples are already in their training order.
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


@contextmanager
def products_of(recipe: PlannedTraining) -> Iterator[None]:
    """Set the precision of float32 products that a run asks for, for this block.

    transformers sets it for the whole process, and only at the first of several equal requests.
    """
    _set_products(_BEFORE_ANY_RUN)
    tf32 = _tf32(recipe.arguments)
    if tf32 is not None and is_torch_tf32_available():
        if _NEW:
            torch.backends.fp32_precision = "tf32" if tf32 else "ieee"
        else:
            _set_products([tf32, tf32])
    try:
        yield
    finally:
        _set_products(_BEFORE_ANY_RUN)


def _set_products(values: Sequence[Any]) -> None:
    for (place, name), value in zip(_SWITCHES, values, strict=True):
        setattr(place, name, value)


def _tf32(arguments: Mapping[str, JsonValue]) -> bool | None:
    """Return whether float32 products are to use tf32, or None for torch's default; as transformers reads its arguments."""
    if arguments.get("tf32") is not None:
        return bool(arguments["tf32"])
    compiled = any(arguments.get(name) for name in ("torch_compile", "torch_compile_backend", "torch_compile_mode"))
    return True if compiled else None


def rate_factor(recipe: PlannedTraining, arguments: TrainingArguments) -> Callable[[float], float]:
    """Return the factor on the learning rate by the used share of the budget, from 0 to 1 and a step beyond.

    It is transformers' own schedule of that name, over the share instead of the steps.
    """
    assert recipe.warmup is not None, "a recipe whose work is no number of examples says its warm-up as a share"
    # Some schedules need the learning rate itself.
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=recipe.learning_rate)
    schedule = get_scheduler(
        recipe.schedule,
        optimizer,
        num_warmup_steps=round(recipe.warmup * WHOLE),
        num_training_steps=WHOLE,
        scheduler_specific_kwargs=dict(arguments.lr_scheduler_kwargs or {}),
    )
    (at_step,) = schedule.lr_lambdas
    return lambda share: float(at_step(share * WHOLE))
