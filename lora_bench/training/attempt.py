"""An attempt at a run: what is known of it so far, where it is, and the record of an end that is not `ok`."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_bench.errors import LoraBenchError, UnsupportedPair, first_line, typed_line
from lora_bench.records.environment import describe_environment
from lora_bench.records.outcomes import DISK_FULL, is_disk_full, is_out_of_memory
from lora_bench.records.record import CurvePoint, DataSummary, Parameters, Record, Status
from lora_bench.training.callbacks import Diverged, Interrupted
from lora_bench.training.job import Job
from lora_bench.util.failpoints import reach
from lora_bench.util.heartbeat import beat
from lora_bench.util.redaction import without_secrets

# What may stand beside a path in a sentence: a full stop ends it, and one before a letter does not.
_PATH_BEGINS = r"(?<![\w.\\/-])"
_PATH_ENDS = r"(?![\w-]|\.\w)"


class Apart(BaseException):
    """Something failed that several runs share, which says nothing of any of them: each is to be done by itself.

    It passes by the code that makes records of failures, since it is no run's failure.
    """


@dataclass
class Facts:
    """What is known of a run so far; a run that fails leaves what it had.

    Args:
        phase: What it is at, such as "loading the base model" or "step 12".
        batch: Rows and tokens of the last batch that its model saw.
        packed_with: The ids of the runs in whose company it takes its steps.
        in_company: Whether other runs hold memory of this process.
    """

    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    parameters: Parameters | None = None
    data: DataSummary | None = None
    curve: list[CurvePoint] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    resumed: bool = False
    phase: str = "starting"
    batch: tuple[int, int] | None = None
    packed_with: tuple[str, ...] = ()
    in_company: bool = False

    def known(self) -> dict[str, Any]:
        """As fields of a record."""
        return {
            "started_at": self.started_at,
            "parameters": self.parameters,
            "data": self.data,
            "curve": tuple(self.curve),
            "warnings": tuple(self.warnings),
            "resumed": self.resumed,
            "packed_with": self.packed_with,
            "environment": describe_environment("cuda" if torch.cuda.is_available() else "cpu"),
        }

    def enter(self, phase: str) -> None:
        """Note that the run is at something else now."""
        self.phase = phase
        beat()

    @contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """Note that the run is at something else within this block."""
        before = self.phase
        self.enter(phase)
        yield
        self.enter(before)

    def watch(self, model: nn.Module) -> None:
        """Note the shape of each batch that *model* sees."""

        def note(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            ids = named.get("input_ids", inputs[0] if inputs else None)
            if isinstance(ids, torch.Tensor) and ids.ndim == 2:
                self.batch = (ids.shape[0], ids.shape[1])
            reach("run.forward")

        model.register_forward_pre_hook(note, with_kwargs=True)

    @property
    def place(self) -> str:
        """Where the run is, with the batch that its model has at hand."""
        shape = f", on a batch of {self.batch[0]} rows of {self.batch[1]} tokens" if self.batch is not None else ""
        return f"in {self.phase}{shape}"


class NoteSteps(TrainerCallback):
    """Notes the step that a run is in."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.first = True

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **inside: Any
    ) -> None:
        """A step begins. The first of a process is told from the rest: in it the optimiser takes its memory."""
        self.facts.phase = "the first step" if self.first else f"step {state.global_step + 1}"
        self.first = False
        reach("run.step")


def ended(job: Job, facts: Facts, error: Exception) -> Record:
    """Return the record of an attempt that ended by an error.

    Raises:
        Apart: If memory ran out in the company of other runs, which had some of it.
    """
    if facts.in_company and is_out_of_memory(error):
        raise Apart(f"{type(error).__name__}: {error}") from error
    status: Status = "failed"
    if isinstance(error, Interrupted):
        status, reason = "interrupted", str(error)
    elif isinstance(error, Diverged):
        status, reason = "diverged", str(error)
    elif isinstance(error, UnsupportedPair):
        status, reason = "unsupported", str(error)
    elif is_disk_full(error):
        reason = DISK_FULL
    elif is_out_of_memory(error):
        said = first_line(error, "the machine has no memory left")
        status, reason = "out_of_memory", f"{facts.place}: {said}"
    else:
        # A bug in a method or a library is a row of the report, and its traceback is kept.
        reason = _reason(error, job)
        try:
            _keep_traceback(job, error)
        except OSError as full:
            if not is_disk_full(full):
                raise
            reason = DISK_FULL
    return job.record(status, reason, **facts.known())


def _reason(error: Exception, job: Job) -> str:
    """The error in a line, without the folders of this machine."""
    message = first_line(error, "") if isinstance(error, LoraBenchError) else typed_line(error)
    for folder, name in ((job.folder.path, "RUN"), (job.base_model.folder, "MODEL"), (job.task_base, "SUITE")):
        message = without_folder(message, folder, name)
    return message


def without_folder(message: str, folder: Path, name: str) -> str:
    """Return a message with *name* in the place of a folder, where it stands as a path and not as a part of a word.

    A relative folder of one part, such as `model`, is a path only where another part follows it.
    """
    absolute, relative = str(folder.absolute()), str(folder)
    message = re.sub(rf"{_PATH_BEGINS}{re.escape(absolute)}{_PATH_ENDS}", lambda found: name, message)
    if folder.is_absolute() or relative == ".":
        return message
    ends = r"(?=[\\/])" if len(folder.parts) == 1 else _PATH_ENDS
    return re.sub(rf"{_PATH_BEGINS}{re.escape(relative)}{ends}", lambda found: name, message)


def _keep_traceback(job: Job, error: Exception) -> None:
    job.folder.path.mkdir(parents=True, exist_ok=True)
    text = without_secrets("".join(traceback.format_exception(error)))
    (job.folder.path / "traceback.txt").write_text(text, encoding="utf-8")
