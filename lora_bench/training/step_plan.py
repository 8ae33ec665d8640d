"""The steps of a run: the examples of each step, and the step that uses up the budget.

Batches and their order are a pure function of (seed, epoch). So the cost of a step in examples, tokens and FLOPs is known
before the first one; its seconds are known only afterwards. A run ends with the step that reaches the target of its budget, or
one of its caps. If the target is not a number of examples, the learning rate follows the used share of it, and not the number
of steps.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.records.budget import WORK, Axis, Batch, amount_of, rows_of, tokens_of
from lora_bench.records.record import CurvePoint, PlateauEnd
from lora_bench.records.spec import PlannedSpec, PlannedTraining, PlateauRule
from lora_bench.util.seeding import epoch_order, grouped_order

Example = Any
"""A mapping of its tokens, or the list of the windows of a question; see `lora_bench.records.budget.rows_of`."""

# More examples than any run reaches.
ENDLESS = 2**40


class InOrder(Sequence[Example]):
    """Examples epoch after epoch, *count* of them after the first *start*; *order* returns the indexes of an epoch."""

    def __init__(
        self, examples: Sequence[Example], order: Callable[[int], Sequence[int]], start: int = 0, count: int = ENDLESS
    ) -> None:
        self._examples, self._order, self._start, self._count = examples, order, start, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(f"example {index} of {self._count}")
        epoch, place = divmod(self._start + index, len(self._examples))
        return self._examples[self._order(epoch)[place]]

    def after(self, seen: int, count: int = ENDLESS) -> "InOrder":
        """Return the examples that follow the first *seen* ones, or *count* of them."""
        return InOrder(self._examples, self._order, self._start + seen, count)

    def changed(self, count: int, change: Callable[[Sequence[Any]], Sequence[Any]]) -> "InOrder":
        """Return the same order, where *change* makes other rows of those of the first *count*, examples of several rows."""
        examples, places = list(self._examples), self._order(0)[:count]
        rows = iter(change(rows_of([examples[place] for place in places])))
        for place in places:
            examples[place] = [next(rows) for _ in examples[place]]
        return InOrder(examples, self._order, self._start, self._count)


@dataclass(frozen=True, kw_only=True)
class Course:
    """The steps of a run.

    Args:
        ends: Step that reaches the target and each cap, by axis; without seconds.
        shares: Used share of the target after each number of steps, from 0 on; None if the learning rate follows the number
            of steps, or the clock.
        flops: Counts the FLOPs of a batch, if they are needed.
    """

    recipe: PlannedTraining
    examples: InOrder
    ends: Mapping[Axis, int]
    shares: tuple[float, ...] | None
    flops: Callable[[Batch], int] | None

    @property
    def target(self) -> Axis:
        """Axis of work that stops the run."""
        return self.recipe.target[0]

    @property
    def steps(self) -> int | None:
        """Steps up to the target, or None if a clock ends the run."""
        return self.ends.get(self.target)

    @property
    def last_step(self) -> int | None:
        """Latest possible last step, or None if only a clock ends the run."""
        return min(self.ends.values(), default=None)

    @property
    def seconds(self) -> float | None:
        """Greatest number of seconds of training, or None without a limit."""
        limits = [
            amount for axis, amount in (self.recipe.target, *self.recipe.caps.items()) if WORK[axis].of_batch is None
        ]
        return min(limits, default=None)

    def ended_by(self, step: int, seconds: float) -> Axis | None:
        """Return the axis whose target or cap ends the run after a step, the target first; None if it goes on."""
        reached: list[Axis] = [axis for axis, end in self.ends.items() if step >= end]
        if self.seconds is not None and seconds >= self.seconds:
            reached.append("train_seconds")
        return next(iter(sorted(reached, key=lambda axis: axis != self.target)), None)

    def progress(self, step: int, seconds: float) -> float:
        """Return the progress of the run after a step, from 0 to 1: the used share of the limit that will end it first."""
        shares = [] if self.last_step is None else [step / self.last_step]
        shares += [] if self.seconds is None else [seconds / self.seconds]
        return min(1.0, max(shares))

    def rest(self, step: int) -> Sequence[Example]:
        """Return the examples after a step, up to the target."""
        seen = self._seen_at(step)
        return self.examples.after(seen, ENDLESS if self.steps is None else self._seen_at(self.steps) - seen)

    def changed(self, change: Callable[[Sequence[Any]], Sequence[Any]]) -> "Course":
        """Return the course over the rows that *change* makes of those that its steps may read."""
        return dataclasses.replace(self, examples=self.examples.changed(len(self.rest(0)), change))

    def batch(self, step: int) -> list[Example]:
        """Return the examples of the step that follows *step* others."""
        return list(self.examples[self._seen_at(step) : self._seen_at(step + 1)])

    def said(self, step: int, axis: Axis, seconds: float) -> str:
        """Return a sentence that a cap ended the run after a step."""
        target, amount = self.recipe.target
        used = self.shares[step] if self.shares is not None else seconds / amount
        if target == "train_examples":
            used = self._seen_at(step) / amount
        cap = amount_of(axis, self.recipe.caps[axis])
        return (
            f"its cap of {cap} ended the run after step {step:,}, with {used:.0%} of {amount_of(target, amount)} used"
        )

    def _seen_at(self, step: int) -> int:
        seen = step * self.recipe.batch_size
        return seen if self.recipe.train_examples is None else min(seen, self.recipe.train_examples)


def plan_course(
    recipe: PlannedTraining,
    seed: int,
    examples: Sequence[Example],
    flops: Callable[[Batch], int] | None = None,
) -> Course:
    """Plan the steps of a run over its encoded training examples.

    *flops* counts the FLOPs of a batch; it is needed if the recipe's work or a cap is in FLOPs. Raise LoraBenchError if the
    examples have no tokens, so that no number of steps reaches an amount of tokens.
    """
    if recipe.train_examples is None and not any(map(tokens_of, examples)):
        raise LoraBenchError(
            "the training examples have no tokens, so no amount of work is ever reached; check the data"
        )
    in_order = InOrder(examples, _order_of(recipe, seed, examples))
    course = Course(recipe=recipe, examples=in_order, ends={}, shares=None, flops=flops)
    target, amount = recipe.target
    ends: dict[Axis, int] = {}
    shares: tuple[float, ...] | None = None
    used = _used(course, target, amount)
    if used is not None:
        ends[target] = len(used) - 1
        if target != "train_examples":
            shares = tuple(one / amount for one in used)
    steps = ends.get(target)
    for axis, cap in recipe.caps.items():
        used = _used(course, axis, cap, at_most=steps)
        if used is not None and used[-1] >= cap:
            ends[axis] = min(len(used) - 1, ends.get(axis, len(used)))
    return dataclasses.replace(course, ends=ends, shares=shares)


def _order_of(recipe: PlannedTraining, seed: int, examples: Sequence[Example]) -> Callable[[int], Sequence[int]]:
    # Two epochs are kept, because a batch may span the end of one.
    if recipe.order == "shuffled":
        return functools.lru_cache(2)(lambda epoch: epoch_order(seed, epoch, len(examples)))
    lengths = [max(len(row["input_ids"]) for row in rows_of([example])) for example in examples]
    return functools.lru_cache(2)(lambda epoch: grouped_order(seed, epoch, lengths, recipe.batch_size))


def _used(course: Course, axis: Axis, amount: float, at_most: int | None = None) -> list[int] | None:
    """Return the work used after each number of steps, from 0 to an amount or *at_most* steps; None if only a clock tells."""
    of_batch = WORK[axis].of_batch
    if of_batch is None:
        return None
    used = [0]
    while used[-1] < amount and len(used) - 1 != at_most:
        used.append(used[-1] + of_batch(course.batch(len(used) - 1), course.flops or _uncounted))
    return used


def _uncounted(batch: Batch) -> int:
    raise AssertionError("a run whose work is a number of FLOPs counts them")


@dataclass(frozen=True)
class UntilNoRise:
    """The end of a run that is trained until it stops improving, over the curve that it grows: warm-up, constant rate, decay.

    With best score b so far, a score v counts as a rise if v > b + rise. After `patience` scores in a row without one, or
    `first_patience` if nothing has risen above the first score, the rate falls in equal steps to 0. If that comes after step s,
    with a decay of share d, the run ends after step

        e = ⌈s / (1 − d)⌉

    Without a plateau the decay begins after step ⌊(1 − d) · N⌋ of the N steps of its greatest amount. Scores of the warm-up do
    not count. All of this is a function of the curve, so a checkpoint needs nothing more to resume.

    Hu et al. 2024, https://arxiv.org/abs/2404.06395; Hägele et al. 2024, https://arxiv.org/abs/2405.18392, for a decay of a
    fifth.
    """

    spec: PlannedSpec
    curve: Sequence[CurvePoint]

    def end(self, step: int) -> PlateauEnd | None:
        """Return where the run decays and ends, or None if its rate is still constant after *step* steps."""
        recipe = self.spec.training
        rule, steps = recipe.plateau, recipe.steps
        assert rule is not None and steps is not None, "only a number of examples has a plateau"
        latest = rule.latest(steps)
        found = self._plateau(rule, latest)
        if found is not None:
            return PlateauEnd(by="plateau", decay_after=found, step=min(steps, math.ceil(found / (1 - rule.decay))))
        return PlateauEnd(by="cap", decay_after=latest, step=steps) if step >= latest else None

    def factor(self, step: int) -> float:
        """Return the factor on the learning rate of the step that follows *step* others."""
        end = self.end(step)
        if end is not None:
            return max(0.0, (end.step - step) / (end.step - end.decay_after))
        warmup = self.spec.training.warmup_steps or 0
        return step / warmup if step < warmup else 1.0

    def _plateau(self, rule: PlateauRule, latest: int) -> int | None:
        """Return the first step, up to *latest*, after whose score the rule finds a plateau."""
        sign = 1 if self.spec.task.higher_is_better else -1
        best, waited, rises = -math.inf, 0, 0
        for point in self.curve:
            if point.scores is None or not (self.spec.training.warmup_steps or 0) <= point.step <= latest:
                continue
            # Without a score, as of a constant answer's correlation, nothing has risen.
            value = sign * point.scores.get(self.spec.task.metric, -sign * math.inf)
            risen = value > best + rule.rise
            best, waited, rises = (value, 0, rises + 1) if risen else (best, waited + 1, rises)
            # The first score itself is the first rise.
            if waited == (rule.patience if rises > 1 else rule.first_patience or rule.patience):
                return point.step
        return None
