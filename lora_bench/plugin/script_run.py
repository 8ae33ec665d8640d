"""One training of a user's own script: its known facts, and its outcome."""

import logging
import sys
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from lora_bench.errors import typed_line
from lora_bench.metrics import higher_is_better as known_direction
from lora_bench.metrics import known_metrics
from lora_bench.plugin.token_counter import TokenCounter
from lora_bench.plugin.trainer_log import Evaluation, evaluations, why_diverged
from lora_bench.records.record import Parameters, Record
from lora_bench.records.spec import RunSpec, TrainingSpec
from lora_bench.records.store import RunFolder
from lora_bench.training.measure.measure_callback import WorkDone

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class OwnRun:
    """The known facts of one training.

    Args:
        model: The model that trains; a weak reference, so that an exception does not keep a device full.
        counter: Counts examples and tokens, or None if they cannot be counted.
        earlier: Seconds, examples and tokens before the checkpoint of a resumed run; None if unknown.
        done: Counts of all steps of this process, and after `add_up` of all processes.
        finite: True if every trained weight was finite after the last step; None if unknown.
        ended_at: Length of the log history when training ended, or None before.
        predicted: Scores of predictions after training, which the Trainer does not log.
    """

    spec: RunSpec
    parameters: Parameters
    model: weakref.ref[nn.Module]
    device: torch.device
    processes: int
    writes: bool
    counter: TokenCounter | None
    history: list[dict[str, Any]]
    examples: dict[str, int]
    warnings: list[str]
    earlier: Mapping[str, float | None] | None
    first_step: int
    command: str | None
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    warmup: Tensor | None = None
    done: Tensor | None = None
    stopped: bool = False
    finite: bool | None = None
    best_step: int | None = None
    written: Record | None = None
    ended_at: int | None = None
    predicted: list[Evaluation] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Return True if training finished."""
        return self.ended_at is not None

    def end_warmup(self) -> None:
        """End the warm-up: steps are timed from now on."""
        if self.counter is not None:
            self.warmup = self.counter.now()

    def stop(self) -> None:
        """Stop counting."""
        self.stopped = True
        if self.counter is not None:
            self.counter.stop()
            if self.counter.fault is not None:
                self.warnings.append(f"examples and tokens cannot be counted: {self.counter.fault}")
            self.done = self.counter.now()
            self.warmup = self.done if self.warmup is None else self.warmup

    def add_up(self) -> None:
        """Sum the counts of all processes; all of them call this, because training has ended for all."""
        if self.processes > 1 and self.done is not None and self.warmup is not None:
            both = torch.stack([self.done, self.warmup])
            torch.distributed.all_reduce(both)
            self.done, self.warmup = both.unbind()

    def work_so_far(self) -> WorkDone:
        """Return the examples and tokens so far; unknown if several processes train."""
        counted = self.counter.now() if self.counter is not None and self.processes == 1 else None
        return self._with_earlier(counted)

    def work_done(self) -> WorkDone:
        """Return the examples and tokens of the whole run."""
        return self._with_earlier(self._known(self.done))

    def work_timed(self) -> WorkDone:
        """Return the examples and tokens of the steps after the warm-up."""
        done, warmup = self._known(self.done), self._known(self.warmup)
        if done is None or warmup is None:
            return WorkDone(None, None)
        examples, tokens = (done - warmup)[:2].tolist()
        flattened, no_tokens = done[2:].tolist()
        return WorkDone(None if flattened else examples, None if no_tokens else tokens)

    def _known(self, counted: Tensor | None) -> Tensor | None:
        return counted if self.processes == 1 or self.ended else None

    def _with_earlier(self, counted: Tensor | None) -> WorkDone:
        earlier = self.earlier or {}
        before_examples, before_tokens = earlier.get("examples"), earlier.get("tokens")
        if counted is None:
            return WorkDone(None, None)
        examples, tokens, flattened, no_tokens = counted.tolist()
        return WorkDone(
            examples=None if before_examples is None or flattened else int(before_examples) + examples,
            tokens=None if before_tokens is None or no_tokens else int(before_tokens) + tokens,
        )

    def outcome(
        self, args: TrainingArguments, last_step: int, metric: str | None, higher_is_better: bool | None
    ) -> dict[str, Any]:
        """Return the outcome of training up to its last step: fields of its record, and the seconds of its evaluation.

        The scores are those of the last evaluation in training, or of the best weights' evaluation if these are loaded at the
        end, and of every evaluation and prediction after training. *metric* is the main one by the script's author, or None.
        """
        during = evaluations(self.history[: self.ended_at])
        during = [one for one in during if self.best_step in (None, one.step) and one.scores]
        after = [*evaluations(self.history[self.ended_at :]), *self.predicted]
        chosen = [*during[-1:], *after]
        scores = {name: value for one in chosen for name, value in one.scores.items()}
        warnings = list(self.warnings)
        steps = self.spec.training.steps
        if steps is not None and last_step < steps:
            warnings.append(f"training stopped after step {last_step} of {steps}")
        if self.best_step is None and not after and during and during[-1].step < last_step:
            warnings.append(f"the scores are of the weights after step {during[-1].step} of {last_step}")
        name = _metric(metric, scores, args)
        if scores and name is not None and name not in scores:
            warnings.append(f"no evaluation gave the score {name}; known scores are {', '.join(sorted(scores))}")
        direction = _direction(name, higher_is_better, args)
        task = self.spec.task.model_copy(update={"metric": name, "higher_is_better": direction})
        diverged = why_diverged(self.history[: self.ended_at], scaled=bool(args.fp16))
        if diverged is None and self.finite is False:
            diverged = f"trained weights are not finite after step {last_step}"
        return {
            "status": "ok" if diverged is None else "diverged",
            "reason": diverged,
            "spec": self.spec.model_copy(update={"task": task, "training": self._training()}),
            "scores": scores if scores and diverged is None else None,
            "evaluation_seconds": chosen[-1].seconds if chosen else None,
            "warnings": warnings,
        }

    def _training(self) -> TrainingSpec:
        """Return the recipe; where the data tell no length, with the number of examples seen."""
        recipe = self.spec.training
        if recipe.train_examples is not None:
            return recipe
        return recipe.model_copy(update={"train_examples": self.work_done().examples})

    def write(self, folder: Path, record: Record) -> None:
        """Publish the record of this training; an error of the disk is logged and never ends the script.

        A finished training replaces the record in the folder, which stays as an attempt. An unfinished one never does: it
        becomes an attempt itself.
        """
        of_run = RunFolder(folder / record.run_id)
        try:
            standing = of_run.record()
            if self.written is not None and standing == self.written:
                self.written = record.model_copy(update={"attempts": self.written.attempts})
                of_run.renew(self.written)
                return
            if self.ended:
                of_run.retry()
                # A stream's number of examples is known now and in the id; a record of lacking memory has the id without.
                RunFolder(folder / self.spec.run_id).retry()
            self.written = record.model_copy(update={"attempts": of_run.attempts() + 1})
            if self.ended or standing is None:
                of_run.publish(self.written)
            else:
                of_run.put_aside(self.written)
        except OSError as error:
            logger.warning("lora_bench could not write its record to %s: %s", of_run.path, error)


# Numbers that an evaluation logs about the model's outputs, of which neither more nor less is better; TRL logs them.
_DIAGNOSTICS = ("entropy",)


def _metric(told: str | None, scores: Sequence[str] | Mapping[str, float], args: TrainingArguments) -> str | None:
    """Return the author's metric, the Trainer's for the best weights, or the first score that is no loss and no diagnostic."""
    if told is not None:
        return told
    best_by = (args.metric_for_best_model or "").removeprefix("eval_")
    named = [best_by] if best_by in scores else []
    judged = [name for name in scores if name.split("_")[-1] not in _DIAGNOSTICS]
    return next((name for name in (*named, *judged) if "loss" not in name), None)


def _direction(metric: str | None, told: bool | None, args: TrainingArguments) -> bool | None:
    if told is not None or metric is None:
        return told
    if (args.metric_for_best_model or "").removeprefix("eval_") == metric and args.greater_is_better is not None:
        return bool(args.greater_is_better)
    if metric.split("_")[-1] == "loss":
        return False
    # The name of an evaluated set may stand before it, or words such as `mean_token`.
    known = next((name for name in known_metrics() if f"_{metric}".endswith(f"_{name}")), None)
    return known_direction(known) if known is not None else None


def why_training_ended() -> BaseException | None:
    """Return the exception that left `Trainer.train()`: the one being handled, or the one that ended this process."""
    error = sys.exc_info()[1] or getattr(sys, "last_value", None)
    trace = error.__traceback__ if error is not None else None
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "_inner_training_loop":
            return error
        trace = trace.tb_next
    return None


def said(error: BaseException) -> str:
    """Return an exception in a line, without the folders of this machine."""
    message = typed_line(error)
    for folder, name in ((Path.cwd(), "."), (Path.home(), "~")):
        message = message.replace(str(folder), name)
    return message
