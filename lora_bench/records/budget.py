"""The budget: quantities held equal for all methods of a suite.

A parameter axis counts what a method adds or trains without the head, or what must be saved with it. `full` is exempt and
marked as the reference. A method's size is found by counting, never by formula: see `lora_bench.plan.size_fitting`. One axis
of work stops a run: examples (or epochs), real tokens, FLOPs or seconds. The others may cap it. `WORK` states the facts of
each, and `docs/budgets.md` defines them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from lora_bench.documents import Strict
from lora_bench.errors import BudgetUnreachable
from lora_bench.stats.rates import Search

MAX_SIZE = 1 << 20

# Named after the field of a record's `parameters` that they hold equal. A method without a size is exempt from both.
ParameterAxis = Literal["adapter_parameters", "stored_parameters"]
PARAMETER_AXES: tuple[ParameterAxis, ...] = get_args(ParameterAxis)

Batch = Sequence[Any]
"""Examples: each a mapping of its tokens, or the list of the windows of a question."""


@dataclass(frozen=True, kw_only=True)
class OneExample:
    """The expected cost of an example: tokens, FLOPs of its training, and seconds."""

    tokens: float
    flops: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class WorkAxis:
    """An amount of training work that may stop a run. `Work` and a run spec's training have a field of its name.

    Args:
        said: Text of an amount for readers, such as "48,000 real tokens".
        column: Head of its column in a report, beside what runs used.
        wanted: Its line in a report, beside what every run was held to.
        used: Field of a record's `speed` with what the run used.
        of_batch: Cost of a batch, from its examples and a counter of a batch's FLOPs; None if only a clock tells.
        of_example: Expected cost of an example.
        whole: True if it is counted in whole numbers, at least 1 for an example.
    """

    said: str
    column: str
    wanted: str
    used: str
    of_batch: Callable[[Batch, Callable[[Batch], int]], int] | None
    of_example: Callable[[OneExample], float]
    whole: bool = False


Axis = Literal["train_examples", "train_tokens", "train_flops", "train_seconds"]
WORK: dict[Axis, WorkAxis] = {
    "train_examples": WorkAxis(
        said="{:,.0f} examples",
        column="examples",
        wanted="examples seen by every run",
        used="train_examples",
        of_batch=lambda batch, flops: len(batch),
        of_example=lambda example: 1.0,
        whole=True,
    ),
    "train_tokens": WorkAxis(
        said="{:,.0f} real tokens",
        column="real tokens",
        wanted="real tokens seen by every run",
        used="train_real_tokens",
        of_batch=lambda batch, flops: sum(map(tokens_of, batch)),
        of_example=lambda example: example.tokens,
        whole=True,
    ),
    "train_flops": WorkAxis(
        said="{:.4g} FLOPs",
        column="FLOPs",
        wanted="FLOPs done by every run",
        used="train_flops",
        of_batch=lambda batch, flops: flops(batch),
        of_example=lambda example: example.flops,
    ),
    "train_seconds": WorkAxis(
        said="{:,g} s of training",
        column="training, s",
        wanted="seconds of training of every run",
        used="train_seconds",
        of_batch=None,
        of_example=lambda example: example.seconds,
    ),
}
AXES: tuple[Axis, ...] = tuple(WORK)

TARGETS = "targets"
"""Key of the text to write in an encoded example whose input an encoder reads apart."""


def rows_of(batch: Batch) -> list[Mapping[str, Any]]:
    """Return the rows that a model reads for a batch: one for each example, or one for each window of a question."""
    return [row for example in batch for row in (example if isinstance(example, list) else (example,))]


def tokens_of(example: Any) -> int:
    """Return the number of tokens of an encoded example: those of all its windows, and of its text to write."""
    return sum(len(row["input_ids"]) + len(row.get(TARGETS, ())) for row in rows_of([example]))


def amount_of(axis: Axis, amount: float) -> str:
    """Return an amount of work for readers, such as "48,000 real tokens"."""
    return WORK[axis].said.format(amount)


class UntilPlateau(Strict):
    """Work that ends when the score on the selection split stops rising: warm-up, constant rate, decay.

    Args:
        until: Always "plateau".
        at_most: Amount at which a run ends that reached no plateau.
        rise: Least rise of the best score that counts, in the metric's unit; by default half the metric's margin, or 0 for a
            metric without one.
        patience: Scores without such a rise after which the decay begins.
        first_patience: Those of a run whose score has not yet risen above its first; by default three times `patience`.
        decay: Share of a run over which the rate falls to 0.
    """

    until: Literal["plateau"]
    at_most: float = Field(gt=0, allow_inf_nan=False)
    rise: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    patience: int = Field(default=6, ge=1)
    first_patience: int | None = Field(default=None, ge=1)
    decay: float = Field(default=0.2, gt=0, lt=1)


class Work(Strict):
    """Amounts of training work, by axis.

    Args:
        train_examples: Examples seen; an example counts each time it is seen. A mapping ends a run when it stops improving.
        epochs: Passes over the training split, in place of `train_examples`; likewise.
        train_tokens: Real tokens seen, without padding.
        train_flops: FLOPs of the matrix products of forward and backward passes, with padding.
        train_seconds: Wall time of training, without evaluations and checkpoints.
    """

    train_examples: Annotated[int, Field(gt=0)] | UntilPlateau | None = None
    epochs: Annotated[float, Field(gt=0)] | UntilPlateau | None = None
    train_tokens: int | None = Field(default=None, gt=0)
    train_flops: float | None = Field(default=None, gt=0)
    train_seconds: float | None = Field(default=None, gt=0)

    @property
    def given(self) -> list[str]:
        """Names of the amounts that are given."""
        return [name for name in Work.model_fields if getattr(self, name) is not None]

    @property
    def amounts(self) -> dict[str, Any]:
        """The fields of a `Budget` that say this work: numbers, and the rule of a plateau beside its greatest amount."""
        found: dict[str, Any] = {"plateau": None}
        for name in Work.model_fields:
            amount = found[name] = getattr(self, name)
            if isinstance(amount, UntilPlateau):
                found |= {name: int(amount.at_most) if name == "train_examples" else amount.at_most, "plateau": amount}
        return found

    @model_validator(mode="after")
    def _whole_examples(self) -> Self:
        rule = self.train_examples
        if isinstance(rule, UntilPlateau) and not rule.at_most.is_integer():
            raise ValueError(f"train_examples is a whole number, got at_most: {rule.at_most:g}")
        return self


class Caps(Work):
    """Amounts of `Work` at which a run ends before its target, with the step that reaches the first of them."""

    train_examples: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_number_of_examples(self) -> Self:
        if self.train_examples is not None and self.epochs is not None:
            raise ValueError("give at most one of train_examples and epochs")
        return self


class HeldEqual(Work):
    """Quantities held equal beside the number of parameters.

    One amount of `Work` is the target: it stops a run, and the learning-rate schedule follows the share of it that is used.

    Args:
        tolerance: Share of the target by which a method may miss it.
        caps: Amounts of work at which a run ends before its target.
        peak_memory_bytes: Limit of a training step's tensors, predicted from shapes; a batch is split into as few parts as
            fit.
        trials: Learning rates tried for every method.
        tuned_in: Suite of these trials, where the suite at hand gives the best rate of each.
    """

    tolerance: float = Field(default=0.05, ge=0, lt=1)
    caps: Caps | None = None
    peak_memory_bytes: int | None = Field(default=None, gt=0)
    trials: int | None = Field(default=None, gt=0)
    tuned_in: str | None = Field(default=None, min_length=1)

    def uses(self, axis: Axis) -> bool:
        """Return True if an axis of work stops a run or may end it early."""
        return any(work is not None and getattr(work, axis) is not None for work in (self, self.caps))

    @model_validator(mode="after")
    def _one_measure_of_work(self) -> Self:
        if len(self.given) != 1:
            names = [*Work.model_fields]
            raise ValueError(f"give exactly one of {', '.join(names[:-1])} and {names[-1]}")
        return self


class Budget(HeldEqual):
    """The budget of a run: one parameter target, and what `HeldEqual` and `Work` hold.

    Args:
        adapter_parameters: Trainable parameters without the head; None keeps the sizes given.
        stored_parameters: Parameters that must be saved beside the public base model, with the head; in place of
            `adapter_parameters`.
        plateau: Rule that ends a run before its amount of examples; None for a run that does all of them.
        halving: Factor of the successive halving of trials; None if each trial had all of the work.
        rungs: Number of steps of the halving.
        search: The seeds that each rate was tried with.
    """

    adapter_parameters: int | None = Field(default=None, gt=0)
    stored_parameters: int | None = Field(default=None, gt=0)
    train_examples: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    plateau: UntilPlateau | None = None
    halving: int | None = None
    rungs: int | None = None
    search: Search = "all_seeds"

    @property
    def parameter_target(self) -> tuple[ParameterAxis, int] | None:
        """The parameter axis that sizes are fitted to, with its target; None if methods keep the sizes given."""
        amounts = ((axis, getattr(self, axis)) for axis in PARAMETER_AXES)
        return next(((axis, amount) for axis, amount in amounts if amount is not None), None)

    def within(self, count: int) -> bool:
        """Return True if a method with *count* parameters on this axis keeps the budget."""
        goal = self.parameter_target
        return goal is None or abs(count - goal[1]) <= self.tolerance * goal[1]


def fit_size(
    count: Callable[[int], int], target: int, tolerance: float, axis: ParameterAxis = "adapter_parameters"
) -> int:
    """Return the size whose count is nearest to *target*; the smaller of two equally near ones.

    *count* gives the parameters of a size of at least 1, and must grow with it. *axis* is for the message. Raise
    BudgetUnreachable if the nearest count misses the target by more than *tolerance*, a share of it.
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
    counts = {size: count(size) for size in (low - 1, low) if size >= 1}
    nearest = min(counts, key=lambda size: abs(counts[size] - target))
    if abs(counts[nearest] - target) > tolerance * target:
        raise BudgetUnreachable(
            f"no size meets {target:,} {axis.replace('_', ' ')} within {tolerance:.0%}: "
            f"the nearest is size {nearest} with {counts[nearest]:,}"
        )
    return nearest
