"""An attempt at a run: its known facts, its progress, and the record of an end that is not `ok`."""

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

from lora_bench.errors import Diverged, LoraBenchError, UnsupportedPair, first_line, typed_line
from lora_bench.methods import Method
from lora_bench.records.environment import describe_environment
from lora_bench.records.outcomes import DISK_FULL, is_disk_full, is_out_of_memory
from lora_bench.records.record import CurvePoint, DataSummary, Parameters, Record, Status, WentOn
from lora_bench.training.callbacks import Interrupted
from lora_bench.training.distributed.ranks import WorkerRank
from lora_bench.training.job import Job, Notify
from lora_bench.util.failpoints import reach
from lora_bench.util.heartbeat import beat
from lora_bench.util.redaction import without_secrets

# Characters that may follow a path in a sentence: a full stop ends it, unless a letter follows.
_PATH_BEGINS = r"(?<![\w.\\/-])"
_PATH_ENDS = r"(?![\w-]|\.\w)"


class Apart(BaseException):
    """A failure of several runs: each is repeated alone. Other errors become records, so this one is a `BaseException`."""


@dataclass
class Facts:
    """The known facts of a run; a run that fails leaves those it had.

    *phase* is such as "step 12", *batch* the rows and tokens of the last that its model saw. *in_company* says that other runs
    use memory of this process.
    """

    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    parameters: Parameters | None = None
    data: DataSummary | None = None
    curve: list[CurvePoint] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    resumed: bool = False
    went_on: WentOn | None = None
    phase: str = "starting"
    batch: tuple[int, int] | None = None
    packed_with: tuple[str, ...] = ()
    in_company: bool = False
    stepped: bool = False

    def known(self) -> dict[str, Any]:
        """Return the facts as fields of a record."""
        return {
            "started_at": self.started_at,
            "parameters": self.parameters,
            "data": self.data,
            "curve": tuple(self.curve),
            "warnings": tuple(self.warnings),
            "resumed": self.resumed,
            "went_on": self.went_on,
            "packed_with": self.packed_with,
            "environment": describe_environment("cuda" if torch.cuda.is_available() else "cpu"),
        }

    def enter(self, phase: str) -> None:
        """Record that the run enters another phase."""
        self.phase = phase
        beat()

    @contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """Record another phase for this block."""
        before = self.phase
        self.enter(phase)
        yield
        self.enter(before)

    def begin(self, step: int) -> None:
        """Record the step after so many others; the first of a process is named apart: the optimiser takes its memory in it."""
        self.phase = f"step {step + 1}" if self.stepped else "the first step"
        self.stepped = True
        reach("run.step")

    def watch(self, model: nn.Module) -> None:
        """Record the shape of each batch that *model* sees."""

        def note(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            ids = named.get("input_ids", inputs[0] if inputs else None)
            if isinstance(ids, torch.Tensor) and ids.ndim == 2:
                self.batch = (ids.shape[0], ids.shape[1])
            reach("run.forward")

        model.register_forward_pre_hook(note, with_kwargs=True)

    @property
    def place(self) -> str:
        """Phase of the run, with the current batch of its model."""
        shape = f", on a batch of {self.batch[0]} rows of {self.batch[1]} tokens" if self.batch is not None else ""
        return f"in {self.phase}{shape}"


@dataclass(frozen=True)
class Setup:
    """A run in preparation. *facts* receives what is found, *seed* is that of everything random, *packed* says "in a pack"."""

    job: Job
    facts: Facts
    method: Method
    seed: int
    notify: Notify | None
    packed: bool
    rank: WorkerRank | None


def ended(job: Job, facts: Facts, error: Exception) -> Record:
    """Return the record of an attempt that failed. Raise Apart if memory ran out while other runs used some of it."""
    if facts.in_company and is_out_of_memory(error):
        raise Apart(typed_line(error)) from error
    named: dict[type[Exception], Status] = {
        Interrupted: "interrupted", Diverged: "diverged", UnsupportedPair: "unsupported",
    }  # fmt: skip
    status: Status = next((named[kind] for kind in named if isinstance(error, kind)), "failed")
    if status != "failed":
        reason = str(error)
    elif is_disk_full(error):
        reason = DISK_FULL
    elif is_out_of_memory(error):
        said = first_line(error, "the machine has no memory left")
        status, reason = "out_of_memory", f"{facts.place}: {said}"
    else:
        # A bug in a method or a library becomes a row of the report, and its traceback is kept.
        reason = _reason(error, job)
        try:
            _keep_traceback(job, error)
        except OSError as full:
            if not is_disk_full(full):
                raise
            reason = DISK_FULL
    return job.record(status, reason, **facts.known())


def _reason(error: Exception, job: Job) -> str:
    """Return the error in a line, without the folders of this machine."""
    message = first_line(error, "") if isinstance(error, LoraBenchError) else typed_line(error)
    for folder, name in ((job.folder.path, "RUN"), (job.base_model.folder, "MODEL"), (job.task_base, "SUITE")):
        message = without_folder(message, folder, name)
    return message


def without_folder(message: str, folder: Path, name: str) -> str:
    """Return a message with *name* for a folder's path. A relative one of one part counts only before another part."""
    absolute, relative = str(folder.absolute()), str(folder)
    if absolute == folder.absolute().anchor:
        return message  # the root says nothing of a machine, and begins every path
    message = re.sub(rf"{_PATH_BEGINS}{re.escape(absolute)}{_PATH_ENDS}", lambda found: name, message)
    if folder.is_absolute() or relative == ".":
        return message
    ends = r"(?=[\\/])" if len(folder.parts) == 1 else _PATH_ENDS
    return re.sub(rf"{_PATH_BEGINS}{re.escape(relative)}{ends}", lambda found: name, message)


def _keep_traceback(job: Job, error: Exception) -> None:
    job.folder.path.mkdir(parents=True, exist_ok=True)
    text = without_secrets("".join(traceback.format_exception(error)))
    (job.folder.path / "traceback.txt").write_text(text, encoding="utf-8")
