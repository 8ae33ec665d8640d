"""The cells of a group: runs of one task, base model, method and budget that differ in their learning rate, rung and seed."""

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

from lora_bench.plan.cell import Cell
from lora_bench.plan.cost_estimate import BYTES_PER_WEIGHT, CostEstimate, estimate_run
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
        after, whole_steps = None, None
        # No shorter trial has a rate beyond the others.
        rungs = suite.content.rungs if not extended and fit.reason is None else ()
        if rung is not None and rung in rungs[1:]:
            shorter = self._spec(rate, rungs[rung.number - 2])[0]
            if shares_beginning(shorter, spec):
                after = shorter.model_copy(update={"seed": seed}).run_id
                estimate = _further(estimate, shorter, spec, RunFolder(self.runs / after))
        if rung is not None and rung in rungs[:-1]:
            whole = self._spec(rate, rungs[-1])[0]
            if shares_beginning(spec, whole):
                whole_steps = whole.training.steps
                # A state has the trained weights, and AdamW's two moments of each.
                trained = fit.parameters.trained if fit.parameters is not None else 0
                estimate = replace(estimate, disk_bytes=estimate.disk_bytes + 3 * BYTES_PER_WEIGHT * trained)
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
            after=after,
            whole_steps=whole_steps,
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


def shares_beginning(shorter: PlannedSpec, longer: PlannedSpec) -> bool:
    """Return True if two runs take the same steps until the rate of the shorter one falls, after its warm-up.

    They differ only in their length. Until a plateau neither warm-up nor constant rate depends on that. The shorter one is
    scored after its own decay: at a constant rate the scores of one run vary by 4 points, and after it those of seeds by 1.
    """
    recipe, whole = shorter.training, longer.training
    if recipe.plateau is None or recipe.steps is None or whole.steps is None:
        return False
    alike = recipe.model_copy(update={"train_examples": whole.train_examples, "steps": whole.steps})
    rises = recipe.warmup_steps or 0
    return rises <= recipe.plateau.latest(recipe.steps) and shorter.model_copy(update={"training": alike}) == longer


def _further(estimate: CostEstimate, shorter: PlannedSpec, longer: PlannedSpec, folder: RunFolder) -> CostEstimate:
    """Return the cost of the steps that follow those of a shorter trial, whose state will be or is in its folder."""
    rule, done, steps = longer.training.plateau, shorter.training.steps, longer.training.steps
    assert rule is not None and done is not None and steps is not None, "both end at a plateau"
    if not folder.handover.is_dir() and folder.record() is not None:
        return estimate
    return replace(estimate, seconds=(1 - rule.latest(done) / steps) * estimate.seconds)


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
