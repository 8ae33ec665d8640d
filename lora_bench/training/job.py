"""A job: a run spec with what one machine knows about it. Plans make jobs, executors carry them, `run` does them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_bench.models.registry import BaseModel
from lora_bench.records.analysis import Analysis
from lora_bench.records.budget import Budget
from lora_bench.records.record import Record, Status
from lora_bench.records.spec import PlannedSpec
from lora_bench.records.store import RunFolder
from lora_bench.tasks import Task


@dataclass(frozen=True)
class Job:
    """A run spec with what this machine knows about it.

    Args:
        spec: What to run.
        suite: Name of the suite, for the record.
        budget: The suite's budget, for the record.
        task: The task's declaration.
        task_base: The folder that the task's paths are seen from.
        base_model: The base model on this machine.
        folder: The folder of the run.
        command: What makes the record again.
        exclusive: Whether nothing else runs on the device or machine meanwhile.
        trial: Whether the run chooses a learning rate, and is no result.
        analysis: How the suite's scores are judged, for the record.
        rung: Of a trial of a halving, the number of its rung, for the record.
        at_once: How many runs of its unit of work are a pack at once, and the others follow them; None for all.
        cut: Whether DeBERTa's relative positions are cut to what rows reach, where that changes no score.
    """

    spec: PlannedSpec
    suite: str
    budget: Budget
    task: Task
    task_base: Path
    base_model: BaseModel
    folder: RunFolder
    command: str
    exclusive: bool = True
    trial: bool = False
    analysis: Analysis | None = None
    rung: int | None = None
    at_once: int | None = None
    cut: bool = True

    @functools.cached_property
    def run_id(self) -> str:
        """The id of its spec."""
        return self.spec.run_id

    @property
    def steps(self) -> int | None:
        """Optimiser steps of the run, or None where only its data tell."""
        return self.spec.training.steps

    def record(self, status: Status, reason: str | None = None, **found: Any) -> Record:
        """The record of this job.

        Args:
            status: How the run ended.
            reason: Why, for any status but `ok`.
            found: What is known of it: the other fields of a record.
        """
        warnings = (*self.base_model.warnings, *found.pop("warnings", ()))
        return Record(
            run_id=self.run_id,
            suite=self.suite,
            status=status,
            reason=reason,
            spec=self.spec,
            budget=self.budget,
            analysis=self.analysis,
            attempts=self.folder.attempts() + 1,
            command=self.command,
            rung=self.rung,
            warnings=warnings,
            **found,
        )
