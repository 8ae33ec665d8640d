"""transformers' Trainer for a run: its arguments, learning rates of some weights' own, and weights of classes.

Weights to which a method gives a rate, such as LoRA+ to its B, have one of their own, and so may the head. The Trainer's own
groups of weights are split, so that decay, schedule and checkpoints stay its own; a pack takes the rates from the same groups.
"""

import gc
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PrinterCallback, Trainer, TrainingArguments, get_scheduler
from transformers.utils import is_torch_tf32_available

from lora_bench.kinds.exercises.base_exercise import cross_entropy
from lora_bench.kinds.exercises.predicting import quiet
from lora_bench.methods import Method, known_methods, rate_factors
from lora_bench.metrics import metric
from lora_bench.records.spec import PlannedSpec, PlannedTraining
from lora_bench.tuners.trial import is_in

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
    """Return a run's arguments; *steps* if the spec gives none. Raise ValueError if transformers refuses the suite's own."""
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
    """Set the precision of float32 products for this block; transformers sets it once, for the whole process."""
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
    """Return the factor on the learning rate by the used share of the budget: transformers' schedule, over shares for steps."""
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


def set_rates(
    trainer: Trainer, method: Method, model: nn.Module, head: Sequence[str] = (), head_rate: float | None = None
) -> None:
    """Make the optimiser of a run that has rates of its own: the method's by weight, and *head_rate* for the modules *head*."""
    names = {weight: name for name, weight in model.named_parameters() if weight.requires_grad}
    factors = rate_factors(method, names.values())
    if factors:
        split_by_rate(trainer.create_optimizer(), {weight: factors.get(name, 1.0) for weight, name in names.items()})
    if head_rate is not None:
        of_head = {weight for weight, name in names.items() if is_in(name, [*head])}
        optimizer = trainer.create_optimizer()
        for group in list(optimizer.param_groups):
            _set_apart(optimizer, group, of_head, head_rate)


def split_by_rate(optimizer: Optimizer, factors: Mapping[nn.Parameter, float]) -> None:
    """Split the groups of an optimiser, in place, so that each has one learning rate."""
    for group in list(optimizer.param_groups):
        for factor in sorted({factors[weight] for weight in group["params"]} - {1.0}):
            of_factor = {weight for weight in group["params"] if factors[weight] == factor}
            _set_apart(optimizer, group, of_factor, group["lr"] * factor)


def _set_apart(optimizer: Optimizer, group: dict[str, Any], weights: Set[nn.Parameter], rate: float) -> None:
    """Move the weights of a group that are among *weights* to a group of their own, if it has any."""
    apart = [weight for weight in group["params"] if weight in weights]
    if apart:
        group["params"] = [weight for weight in group["params"] if weight not in weights]
        optimizer.add_param_group({**group, "params": apart, "lr": rate})


def weigh_classes(trainer: Trainer, weights: Tensor, label_smoothing: float) -> None:
    """Make a Trainer weight the loss of each row by its class."""
    weights = weights.to(trainer.args.device)
    loss = cross_entropy(label_smoothing, weights=weights)

    def weighed(model: Any, inputs: dict[str, Any], return_outputs: bool = False, **options: Any) -> Any:
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        found = loss(outputs["logits"], inputs["labels"])
        return (found, outputs) if return_outputs else found

    trainer.compute_loss = weighed


def learn_by(trainer: Trainer, loss_of: Callable[[nn.Module, Mapping[str, Tensor]], Tensor]) -> None:
    """Make a Trainer take the loss of a batch from a function, in place of the model's own."""
    trainer.compute_loss = lambda model, inputs, **options: loss_of(model, inputs)


@cache
def warm_up() -> None:
    """Do a step and a prediction of a tiny model, so that the first run of a process pays no one-time costs.

    The objects of the libraries live as long as the process. A garbage collection of their half a million objects takes a
    quarter of a second, and a run does two, so they are frozen.
    """
    import datasets  # noqa: F401  # the imports that a run makes on its way
    from transformers import RobertaConfig, RobertaForSequenceClassification

    metric("accuracy").compute(predictions=[0], references=[0])
    config = RobertaConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, pad_token_id=1
    )
    examples = [{"input_ids": [2, 3, 4], "attention_mask": [1, 1, 1], "labels": 0}] * 2
    with tempfile.TemporaryDirectory() as folder, quiet():
        arguments = TrainingArguments(
            folder, max_steps=1, report_to="none", save_strategy="no", disable_tqdm=True, logging_strategy="no",
            use_cpu=not torch.cuda.is_available(),
        )  # fmt: skip
        model = known_methods()["lora"]().apply(RobertaForSequenceClassification(config), head=["classifier"])
        trainer = Trainer(model, args=arguments, train_dataset=examples)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trainer.predict(examples)
    del model, trainer
    gc.collect()
    gc.freeze()
