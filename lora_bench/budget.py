"""What all methods of a suite are held equal to.

The parameter axis counts what a method adds or frees, the head apart; `full` is exempt from it and marked as the reference
line. The work axis is the number of training examples seen. A method's size is found by counting, never by formula: see
`lora_bench.plan`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import Field, model_validator

from lora_bench.documents import Strict
from lora_bench.errors import BudgetUnreachable

MAX_SIZE = 1 << 20


class Budget(Strict):
    """What all methods are held equal to.

    Args:
        adapter_parameters: Trainable parameters without the head, or None to take every method as it is given.
        tolerance: Share of the target by which a method may miss it.
        train_examples: Examples seen by every run.
        epochs: Passes over the training split, in place of `train_examples`.
        trials: Learning rates tried by every method, or None where the suite does not say.
    """

    adapter_parameters: int | None = Field(default=None, gt=0)
    tolerance: float = Field(default=0.05, ge=0, lt=1)
    train_examples: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    trials: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_measure_of_work(self) -> Budget:
        if (self.train_examples is None) == (self.epochs is None):
            raise ValueError("give exactly one of train_examples and epochs")
        return self

    def within(self, count: int) -> bool:
        """Whether *count* adapter parameters keep the budget."""
        target = self.adapter_parameters
        return target is None or abs(count - target) <= self.tolerance * target


@dataclass(frozen=True)
class Fit:
    """A size, and the adapter parameters that it gives."""

    size: int
    count: int


def fit_size(count: Callable[[int], int], target: int, tolerance: float) -> Fit:
    """The size whose count is nearest to *target*; the smaller of two equally near ones.

    Args:
        count: Adapter parameters for a size of at least 1; must grow with it.
        target: Adapter parameters wanted.
        tolerance: Share of the target by which the nearest may miss it.

    Raises:
        BudgetUnreachable: If the nearest count misses the target by more than the tolerance.
    """
    high = 1
    while count(high) < target and high < MAX_SIZE:
        high *= 2
    low = max(1, high // 2)
    while low < high:
        middle = (low + high) // 2
        if count(middle) < target:
            low = middle + 1
        else:
            high = middle
    # `low` is the first size at or above the target: the nearest is it or the one below.
    fits = [Fit(size, count(size)) for size in (low - 1, low) if size >= 1]
    nearest = min(fits, key=lambda fit: abs(fit.count - target))
    if abs(nearest.count - target) > tolerance * target:
        raise BudgetUnreachable(
            f"no size meets {target:,} adapter parameters within {tolerance:.0%}: "
            f"the nearest is size {nearest.size} with {nearest.count:,}"
        )
    return nearest
