"""A cell of a plan: one run, its method's fit, and its existing record; and cells that wait for others."""

from dataclasses import dataclass

from lora_bench.plan.cost_estimate import CostEstimate
from lora_bench.plan.size_fitting import MethodFit
from lora_bench.records.budget import ParameterAxis
from lora_bench.records.record import Record
from lora_bench.training.job import Job


@dataclass(frozen=True)
class Cell:
    """One run of a plan; *blocked* says why it cannot be done although the pair works: what it starts from gave no score."""

    job: Job
    fit: MethodFit
    record: Record | None
    estimate: CostEstimate
    blocked: str | None = None

    @property
    def reason(self) -> str | None:
        """Reason why the run cannot be done, or None."""
        return self.fit.reason or self.blocked

    @property
    def place(self) -> tuple[str, str, str, tuple[ParameterAxis, int] | None, int | None]:
        """Its place in the suite, whatever the seed and rate: task, base model, label, target, and different rows."""
        spec = self.job.spec
        return (
            spec.task.name,
            self.job.base_model.name,
            spec.method.label,
            self.job.budget.parameter_target,
            spec.training.distinct_examples,
        )

    @property
    def short(self) -> bool:
        """Return True if it is a trial with a part of the work: of any rung of a halving but the last."""
        return self.job.rung is not None and self.job.rung != self.job.budget.rungs


@dataclass(frozen=True)
class Waiting:
    """Runs whose specs depend on missing records.

    Args:
        cells: The runs with the first learning rate, and started from the pretrained model, in place of these records.
        reason: The runs that they wait for, in words.
        start: Task of the run they start from, or None.
    """

    cells: tuple[Cell, ...]
    reason: str
    start: str | None

    @property
    def runs(self) -> int:
        """Number of these runs."""
        return len(self.cells)

    @property
    def seconds(self) -> float:
        """Estimated seconds of all of them."""
        return sum(cell.estimate.seconds for cell in self.cells)
