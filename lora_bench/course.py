"""The course of a run: which examples each step sees, and after which step the budget is used up.

Batches and their order are a pure function of (seed, epoch), so what a step costs in examples and tokens is known before the
first one. A run ends with the step that reaches the target of its budget, or one of its caps. Where the target is not a number
of examples, the learning rate follows the share of it that is used, and not the number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Any

from lora_bench.budget import Axis
from lora_bench.errors import LoraBenchError
from lora_bench.randomness import epoch_order
from lora_bench.spec import PlannedTraining

Example = Mapping[str, Any]


@dataclass(frozen=True)
class Course:
    """The steps of a run.

    Args:
        batches: The examples of each step up to the target, whatever caps there are.
        target: The axis of work that stops the run.
        ends: For the target and each cap, the step that reaches it.
        shares: The share of the target that is used after so many steps, from 0 on; None where the learning rate follows the
            number of steps.
    """

    batches: list[list[Example]]
    target: Axis
    ends: Mapping[Axis, int]
    shares: tuple[float, ...] | None = field(default=None, repr=False)

    @property
    def steps(self) -> int:
        """Steps up to the target."""
        return self.ends[self.target]

    @property
    def last_step(self) -> int:
        """The step with which the run ends."""
        return min(self.ends.values())

    @property
    def ended_by(self) -> Axis:
        """The axis whose target or cap ends the run; where several are reached at once, the target."""
        return min(self.ends, key=lambda axis: (self.ends[axis], axis != self.target))

    @property
    def warnings(self) -> list[str]:
        """What a reader of the run should know of its end."""
        if self.ended_by == self.target:
            return []
        return [f"the cap of {self.ended_by} ends the run at step {self.last_step:,}, before {self.target} is reached"]


def plan_course(recipe: PlannedTraining, seed: int, examples: list[Any]) -> Course:
    """The course of a run.

    Args:
        recipe: Its work and the size of its batches.
        seed: Which the order is drawn from.
        examples: Those of the training split, encoded, each of its own length.

    Raises:
        LoraBenchError: If the examples have no token, so that no number of steps reaches an amount of tokens.
    """
    target, amount = recipe.target
    if target != "train_examples" and not any(map(_tokens, examples)):
        raise LoraBenchError("the training examples have no tokens, so no amount of them is ever reached")
    batches = _until(_batches(seed, examples, recipe.batch_size), _COST[target], amount)
    if target == "train_examples":
        # The last batch may be a part of one.
        batches[-1] = batches[-1][: int(amount) - recipe.batch_size * (len(batches) - 1)]
    ends: dict[Axis, int] = {target: len(batches)}
    for axis, cap in recipe.caps.items():
        step = next((step for step, used in enumerate(_used(batches, axis)) if used >= cap), None)
        if step is not None:
            ends[axis] = min(step, ends.get(axis, step))
    shares = tuple(used / amount for used in _used(batches, target)) if target != "train_examples" else None
    return Course(batches, target, ends, shares)


def _batches(seed: int, examples: list[Any], batch_size: int) -> Iterator[list[Any]]:
    """Full batches, epoch after epoch without end; a batch may go on from one epoch into the next."""

    def in_order() -> Iterator[Any]:
        epoch = 0
        while True:
            yield from (examples[index] for index in epoch_order(seed, epoch, len(examples)))
            epoch += 1

    seen = in_order()
    while True:
        yield list(islice(seen, batch_size))


def _until(batches: Iterator[list[Any]], cost: Callable[[list[Any]], int], amount: float) -> list[list[Any]]:
    """The batches up to the one with which their costs reach an amount."""
    taken: list[list[Any]] = []
    used = 0
    while used < amount:
        taken.append(next(batches))
        used += cost(taken[-1])
    return taken


def _used(batches: list[list[Any]], axis: Axis) -> Iterator[int]:
    """What is used of an axis after so many steps, from 0 on."""
    return accumulate((_COST[axis](batch) for batch in batches), initial=0)


def _tokens(example: Example) -> int:
    return len(example["input_ids"])


_COST: dict[Axis, Callable[[list[Any]], int]] = {
    "train_examples": len,
    "train_tokens": lambda batch: sum(map(_tokens, batch)),
}
