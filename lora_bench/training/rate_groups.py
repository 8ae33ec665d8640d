"""Learning rates of some weights' own: those that a method gives, such as LoRA+ to its B, and that of the head.

The Trainer's own groups of weights are split, so that decay, schedule and checkpoints stay its own. A pack takes the rates from
the same groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import Trainer

from lora_bench.methods import Method, rate_factors
from lora_bench.tuners.trial import is_in


def set_rates(
    trainer: Trainer, method: Method, model: nn.Module, head: Sequence[str] = (), head_rate: float | None = None
) -> None:
    """Make the optimiser of a run with rates of its own; without any, the Trainer makes it when training begins.

    The *head* has the modules of these names, and *head_rate* is its rate; None for that of the method.
    """
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
