"""A job: a run spec with one machine's facts about it. Plans make jobs, executors carry them, `run` does them."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.models.registry import BaseModel
from lora_bench.records.analysis import Analysis
from lora_bench.records.budget import Budget
from lora_bench.records.record import Record, Status
from lora_bench.records.spec import PlannedSpec
from lora_bench.records.store import RunFolder
from lora_bench.tasks import Task
from lora_bench.util.regular_files import MIB, read_regular


@dataclass(frozen=True)
class RetentionData:
    """Data for a run's `retention` on this machine: a text, or the task of sentence pairs with the folder of its paths."""

    text: Path | None = None
    sentences: tuple[Task, Path] | None = None

    def paragraphs(self) -> tuple[list[str], str]:
        """Return the paragraphs of its text, one a line, and its hash. Raise LoraBenchError if it is empty or no text."""
        assert self.text is not None
        try:
            content = read_regular(self.text, MAX_TEXT_BYTES)
            found = [line.strip() for line in content.decode("utf-8").splitlines() if line.strip()]
        except OSError as error:
            raise LoraBenchError(f"the text {self.text.name!r} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise LoraBenchError(f"the text {self.text.name!r} is not in UTF-8") from None
        if not found:
            raise LoraBenchError(f"the text {self.text.name!r} is empty")
        return found, hashlib.sha256(content).hexdigest()


# The longest text for retention; only its first paragraphs are scored.
MAX_TEXT_BYTES = 64 * MIB


@dataclass(frozen=True)
class Event:
    """Progress of a run: it began (step 0), or finished a step."""

    run_id: str
    step: int
    steps: int | None
    loss: float | None = None


@dataclass(frozen=True)
class Note:
    """A sentence for the user on a unit of work, with the id of one of its jobs, or on the workers, with an empty one."""

    run_id: str
    text: str


Word = Event | Note
"""What is told of runs while they are done."""

# Receives each step of a run: its number, the number of steps, and the latest training loss.
Notify = Callable[[int, int, float | None], None]


def telling_of(run_id: str, tell: Callable[[Event], None]) -> Notify:
    """Return a function that tells of each step of a run."""
    return lambda step, steps, loss: tell(Event(run_id, step, steps, loss))


@dataclass(frozen=True)
class Job:
    """A run spec with this machine's facts about it.

    Args:
        task_base: Folder that the task's paths are relative to.
        command: Command that makes the record again.
        exclusive: True if nothing else runs on the device or machine meanwhile.
        trial: True if the run chooses a learning rate, and is no result.
        after: Id of the shorter trial that it goes on from, if that left its state; None to begin from nothing.
        whole_steps: Steps of the trial with all of the work that may go on from it; None if none may.
        at_once: Greatest number of runs of its unit of work in a pack at once; the others follow. None for all.
        alone_because: Reason why it is done outside of the pack that it was planned for, or None.
        cut: Restrict DeBERTa's relative positions to those that rows reach, if that changes no score.
        adapter: Folder of the adapter that the run starts from, if it starts from one.
        retention: Data for the spec's retention, if it has one.
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
    after: str | None = None
    whole_steps: int | None = None
    analysis: Analysis | None = None
    rung: int | None = None
    extended: bool = False
    at_once: int | None = None
    alone_because: str | None = None
    cut: bool = True
    adapter: Path | None = None
    retention: RetentionData | None = None

    @functools.cached_property
    def run_id(self) -> str:
        """Id of its spec."""
        return self.spec.run_id

    @property
    def fold(self) -> int | None:
        """Fold that it tests; None if its task has no folds."""
        return self.task.fold_of(self.spec.seed)

    @property
    def steps(self) -> int | None:
        """Optimiser steps of the run, or None if only its data tell."""
        return self.spec.training.steps

    def record(self, status: Status, reason: str | None = None, **found: Any) -> Record:
        """Return the record of this job, with *found* as its other fields; any status but `ok` has a reason."""
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
            extended=self.extended,
            warnings=warnings,
            **found,
        )


Fields = Mapping[str, Any]
"""Fields of a spec as pydantic's `exclude` takes them: a name to True, or to the fields inside it."""

MAY_DIFFER: Fields = {
    # The number of labels and the kind of task decide the head: `in_common` adds them.
    "task": {"name": True, "definition": True, "data_sha256": True, "labels": True, "metric": True, "higher_is_better": True},
    "method": {"label": True, "chosen": True},  # `chosen` repeats a part of `options`
    "training": {
        "train_examples": True, "train_tokens": True, "train_flops": True, "caps": True, "steps": True,
        "learning_rate": True, "schedule": True, "warmup": True, "warmup_steps": True, "weight_decay": True,
        "max_grad_norm": True, "distinct_examples": True, "distinct_seed": True, "distinct_draw": True,
    },
    "seed": True, "series": True, "protocol": True, "rules": True, "score_on": True, "selection_every": True,
    "keep_weights": True, "decoding": True, "start": True, "retention": True,
}  # fmt: skip
"""Fields free to differ everywhere: neither the base model nor the shape of a training step depends on them."""


def in_common(job: Job, may_differ: Fields) -> str:
    """Return every field of a run that *may_differ* does not name, as JSON; runs may share if it is equal."""
    spec = job.spec.model_dump(mode="json", exclude=dict(may_differ))
    return json.dumps([spec, job.task.kind, len(job.spec.task.labels), job.cut], sort_keys=True)
