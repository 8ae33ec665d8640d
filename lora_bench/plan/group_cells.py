"""The cells of a group: runs of one task, base model, method and budget that differ in their learning rate, rung and seed."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from lora_bench.plan.cell import Cell
from lora_bench.plan.cost_estimate import CostEstimate, estimate_run
from lora_bench.plan.resolve import RunGroup, run_spec
from lora_bench.plan.size_fitting import MethodFit
from lora_bench.records.budget import Budget
from lora_bench.records.spec import PlannedSpec, Start
from lora_bench.records.store import RunFolder
from lora_bench.suite.halving import Rung
from lora_bench.suite.load_suite import Suite
from lora_bench.suite.probe_suite import ProbeSuite
from lora_bench.training.job import Job, RetentionData


@dataclass(frozen=True, kw_only=True)
class GroupCells(RunGroup):
    """A group that makes its cells."""

    budget: Budget
    fit: MethodFit
    runs: Path
    data_dir: Path | None
    retained: RetentionData | None
    _of_any_seed: dict[tuple[float, Rung | None], tuple[PlannedSpec, CostEstimate]] = field(default_factory=dict)

    def at_rate(self, rate: float) -> list[Cell]:
        """Return the reported runs with a learning rate, one for each seed."""
        return [self.cell(rate, seed) for seed in self.suite.content.every_seed]

    def cell(
        self,
        rate: float,
        seed: int,
        *,
        rung: Rung | None = None,
        extended: bool = False,
        start: Start | None = None,
        blocked: str | None = None,
    ) -> Cell:
        """Return the run with a learning rate and a seed.

        *rung* is that of a trial, and None for a reported run; a rate may be *extended* beyond those of the suite. *blocked* is
        the reason why the run cannot be done although the pair works.
        """
        suite, loaded, fit = self.suite, self.loaded, self.fit
        spec, estimate = self._spec(rate, rung)
        spec = spec.model_copy(update={"seed": seed, "start": start})
        if fit.reason is not None or blocked is not None:
            several = len(suite.budgets(self.entry)) > 1
            spec = _not_to_be_run(spec, fit.reason or blocked or "", self.budget if several else None)
        run_id = spec.run_id
        folder = RunFolder(self.runs / run_id)
        adapter = suite.adapter if start is not None and start.run_id is None else None
        job = Job(
            spec=spec,
            suite=suite.name,
            budget=self.recipe.budget,
            task=loaded.task,
            task_base=loaded.base,
            base_model=self.base_model,
            folder=folder,
            command=_command(suite, spec.model.name, run_id, self.series, self.data_dir),
            trial=rung is not None,
            analysis=suite.analysis,
            rung=rung.number if rung is not None and suite.content.rungs else None,
            extended=extended,
            adapter=adapter.folder if adapter is not None else None,
            retention=self.retained if spec.retention is not None else None,
        )
        return Cell(job, fit, folder.record(), estimate, blocked)

    def _spec(self, rate: float, rung: Rung | None) -> tuple[PlannedSpec, CostEstimate]:
        """Return the spec of any seed and its cost: runs that differ only in their seed share both."""
        if (rate, rung) not in self._of_any_seed:
            spec = run_spec(self, rate, 0, trial=rung is not None, part=1 if rung is None else rung.part)
            self._of_any_seed[rate, rung] = spec, estimate_run(spec, self.fit, self.loaded.data)
        return self._of_any_seed[rate, rung]


def _not_to_be_run(spec: PlannedSpec, reason: str, budget: Budget | None) -> PlannedSpec:
    """Return a spec whose id has the reason why it cannot run, so that no old record is reused, and the target of *budget*."""
    chosen = {**spec.method.chosen, "unsupported": reason}
    if budget is not None and budget.parameter_target is not None:
        axis, target = budget.parameter_target
        chosen[axis] = target
    return spec.model_copy(update={"method": spec.method.model_copy(update={"chosen": chosen})})


def _command(suite: Suite, model: str, run_id: str, series: str | None, data_dir: Path | None) -> str:
    options = ["--series", series] if series is not None else []
    pickled = ["--allow-pickle", model] if model in suite.pickles else []
    return shlex.join(
        ["lora-bench", *suite.command, "--only", run_id, *options, *repeated_options(suite, data_dir, *pickled)]
    )


def repeated_options(suite: Suite | ProbeSuite, data_dir: Path | None, *between: str) -> list[str]:
    """Return the options of a command that its repetition needs too, without a path of this machine."""
    data = [] if data_dir is None else ["--data-dir", data_dir.name if data_dir.is_absolute() else str(data_dir)]
    return [*data, *between, *(part for permission in sorted(suite.code) for part in ("--allow-code", permission))]
