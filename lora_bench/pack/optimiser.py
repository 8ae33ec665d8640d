"""AdamW over stacked weights: each member with its own rate, decay, step and gradient norm, as in torch's AdamW."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.optim import AdamW

from lora_bench.pack.stack import Stack, side_by_side, slice_of

_MEANS = ("exp_avg", "exp_avg_sq")


class StackedAdamW:
    """One step for all members of a stack.

    The members' own optimisers, in order, never step. They supply each member's rates and weight decay, in which alone they
    differ, and their state is views of the stacked state, so that a checkpoint of a member is made from its own optimiser.
    """

    def __init__(self, stack: Stack, optimizers: Sequence[AdamW]) -> None:
        self.stack = stack
        self.optimizers = list(optimizers)
        self.restack()

    def restack(self) -> None:
        """Stack the members' states anew; needed after the stack of weights was."""
        self._states: dict[str, dict[str, Tensor]] = {}
        self._groups: dict[str, int] = {}
        named = [dict(member.named_parameters()) for member in self.stack.members]
        for name, weight in self.stack.weights.items():
            own = [parameters[name] for parameters in named]
            for optimizer, parameter in zip(self.optimizers, own, strict=True):
                state = optimizer.state[parameter]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state.update({mean: torch.zeros_like(parameter) for mean in _MEANS})
            states = [optimizer.state[parameter] for optimizer, parameter in zip(self.optimizers, own, strict=True)]
            self._states[name] = {}
            for mean in _MEANS:
                stacked = side_by_side([state[mean].to(weight.device) for state in states])
                self._states[name][mean] = stacked
                for index, (state, parameter) in enumerate(zip(states, own, strict=True)):
                    state[mean] = slice_of(stacked, index, parameter.shape)
            self._groups[name] = next(
                number
                for number, group in enumerate(self.optimizers[0].param_groups)
                if any(parameter is own[0] for parameter in group["params"])
            )
        self._steps = [[state["step"] for state in optimizer.state.values()] for optimizer in self.optimizers]

    @torch.no_grad()
    def step(self, max_norms: Sequence[float]) -> None:
        """Clip each member's gradients to its greatest norm, 0 for no clipping, step, and drop the gradients."""
        gradients = {name: weight.grad for name, weight in self.stack.weights.items() if weight.grad is not None}
        device = next(iter(self.stack.weights.values())).device
        clip = self._clip(gradients, max_norms, device)
        for steps in self._steps:
            for step in steps:
                step += 1
        done = [float(steps[0]) for steps in self._steps]
        beta1, beta2 = self.optimizers[0].param_groups[0]["betas"]
        eps = self.optimizers[0].param_groups[0]["eps"]

        def each(values: Iterable[float]) -> Tensor:
            # A copy that blocks would wait for all that the device still has to do.
            return torch.tensor(list(values), dtype=torch.float64).to(device, non_blocking=True)

        root2 = each((1 - beta2**count) ** 0.5 for count in done)
        rates: dict[int, tuple[Tensor, Tensor]] = {}
        for number in set(self._groups.values()):
            groups = [optimizer.param_groups[number] for optimizer in self.optimizers]
            decay = each(1 - group["lr"] * group["weight_decay"] for group in groups)
            rate = each(group["lr"] / (1 - beta1**count) for group, count in zip(groups, done, strict=True))
            rates[number] = decay, rate
        for name, gradient in gradients.items():
            weight, state = self.stack.weights[name], self._states[name]
            shape = (-1, *[1] * (weight.dim() - 1))
            decay, rate = (one.to(weight.dtype).view(shape) for one in rates[self._groups[name]])
            gradient *= clip.to(gradient.dtype).view(shape)
            mean, square = state["exp_avg"], state["exp_avg_sq"]
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            below = (square.sqrt() / root2.to(weight.dtype).view(shape)).add_(eps)
            weight.mul_(decay).sub_(rate * mean / below)
            weight.grad = None

    @staticmethod
    def _clip(gradients: dict[str, Tensor], max_norms: Sequence[float], device: torch.device) -> Tensor:
        squares = [gradient.flatten(1).square().sum(1) for gradient in gradients.values()]
        norms = torch.stack(squares).sum(0).sqrt()
        most = torch.tensor([norm or torch.inf for norm in max_norms], dtype=norms.dtype).to(device, non_blocking=True)
        return (most / (norms + 1e-6)).clamp(max=1.0)
