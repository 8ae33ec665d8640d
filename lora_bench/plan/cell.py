"""A cell of a plan: one run, its method's fit, and what is known of it before it is done."""

from __future__ import annotations

from dataclasses import dataclass

from lora_bench.plan.cost_estimate import CostEstimate
from lora_bench.plan.size_fitting import MethodFit
from lora_bench.records.record import Record
from lora_bench.training.job import Job


@dataclass(frozen=True)
class Cell:
    """One run of a plan.

    Args:
        job: What to run.
        fit: The method's size and counts.
        record: The record that is there already, or None.
        estimate: What the run is likely to cost.
        blocked: Why it cannot be done although the pair works: the run it starts from gave no score.
    """

    job: Job
    fit: MethodFit
    record: Record | None
    estimate: CostEstimate
    blocked: str | None = None

    @property
    def reason(self) -> str | None:
        """Why the run cannot be done, or None where it can."""
        return self.fit.reason or self.blocked

    @property
    def trial(self) -> bool:
        """Whether it chooses a learning rate, and is no result."""
        return self.job.trial

    @property
    def short(self) -> bool:
        """Whether it is a trial with a part of the work only: of any rung of a halving but the last."""
        return self.job.rung is not None and self.job.rung != self.job.budget.rungs
