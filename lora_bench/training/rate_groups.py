"""Learning rates that a method gives to some weights, such as LoRA+ to its B.

The Trainer's own groups of weights are split by their factor, so that decay, schedule and checkpoints stay its own. A pack
takes the rates from the same groups.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.optim import Optimizer
from transformers import Trainer

from lora_bench.methods import Method, rate_factors


def set_rates(trainer: Trainer, method: Method, model: nn.Module) -> None:
    """Make the optimiser of a run with the method's rates; without any, the Trainer makes it when training begins."""
    names = {weight: name for name, weight in model.named_parameters() if weight.requires_grad}
    factors = rate_factors(method, names.values())
    if factors:
        split_by_rate(trainer.create_optimizer(), {weight: factors.get(name, 1.0) for weight, name in names.items()})


def split_by_rate(optimizer: Optimizer, factors: Mapping[nn.Parameter, float]) -> None:
    """Split the groups of an optimiser, in place, so that each has one learning rate."""
    for group in list(optimizer.param_groups):
        weights = group["params"]
        for factor in sorted({factors[weight] for weight in weights} - {1.0}):
            apart = [weight for weight in weights if factors[weight] == factor]
            group["params"] = [weight for weight in group["params"] if factors[weight] != factor]
            optimizer.add_param_group({**group, "params": apart, "lr": group["lr"] * factor})
