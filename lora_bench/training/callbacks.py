"""Callbacks of a run: they seed dropout, end the run at its budget, watch the loss, and write checkpoints."""

import functools
import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainerCallback, TrainerControl, TrainerState

from lora_bench.errors import Diverged, LoraBenchError
from lora_bench.records.budget import Axis
from lora_bench.records.record import CurvePoint, PlateauEnd, WentOn
from lora_bench.training.best_weights import Best, SelectionScores
from lora_bench.training.checkpoint import Checkpoint, save_checkpoint
from lora_bench.training.distributed.ranks import WorkerRank
from lora_bench.training.job import Notify
from lora_bench.training.measure.measure_callback import MeasureCallback
from lora_bench.training.step_plan import Course, UntilNoRise
from lora_bench.training.trainer import rate_factor
from lora_bench.util.failpoints import reach
from lora_bench.util.seeding import seed_for

# Work that a killed run may lose; a checkpoint of a small adapter takes milliseconds.
CHECKPOINT_SECONDS = 60.0

# Approximate number of points of a learning curve.
CURVE_POINTS = 50


class Interrupted(LoraBenchError):
    """The run was asked to stop, and wrote a checkpoint."""


class AtEachStep(TrainerCallback):
    """Calls functions at the begin of each step, with the number of steps before it."""

    def __init__(self, *begins: Callable[[int], None]) -> None:
        self.begins = begins

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        for begin in self.begins:
            begin(state.global_step)


def seed_dropout(seed: int, rank: int, step: int) -> None:
    """Seed torch's generators by (seed, step), so that a resumed run draws the same masks, and each worker rank its own."""
    torch.manual_seed(seed_for("dropout", seed, step, *([rank] if rank else [])))


@dataclass(eq=False)
class FollowBudget(TrainerCallback):
    """Ends the run with the step that uses up its budget, and sets the learning rate by the used share.

    It runs before the callbacks that restore the schedule, and before those that act at the last step. *clock* returns the
    seconds of training until now, with those before a resumption; *rule* ends the run at a plateau, if it has one.
    """

    course: Course
    clock: Callable[[], float]
    rule: UntilNoRise | None = None
    # The last step done, and the axis that ended the run with it.
    step: int = 0
    ended_by: Axis | None = None

    def end_after(self, step: int, seconds: float) -> bool:
        """Record a step done after so many seconds. Return True if the run ends with it."""
        self.step, self.ended_by = step, self.course.ended_by(step, seconds)
        if self.plateau is not None and step >= self.plateau.step:
            self.ended_by = self.course.target
        return self.ended_by is not None

    @property
    def plateau(self) -> PlateauEnd | None:
        """Return where a run until a plateau decays and ends, if that is known after the last step done."""
        return None if self.rule is None else self.rule.end(self.step)

    @property
    def last_step(self) -> int | None:
        """Return the latest possible last step, or None if only a clock ends the run."""
        return self.course.last_step if self.plateau is None else self.plateau.step

    @property
    def progress(self) -> float:
        """Return the progress of the run, from 0 to 1."""
        return self.course.progress(self.step, self.clock()) if self.ended_by is None else 1.0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        """Give the Trainer's own schedule the used share of the target in place of the number of steps, or the plateau."""
        recipe, schedule = self.course.recipe, inside["lr_scheduler"]
        if self.rule is not None:
            of_step = self.rule.factor
        elif recipe.warmup is not None:
            factor = rate_factor(recipe, args)

            def of_step(step: int) -> float:
                return factor(self._share(step))
        else:
            return

        # Called once for each group of weights; the factor is the same for all.
        at_step = functools.lru_cache(1)(of_step)
        schedule.lr_lambdas = [lambda step: at_step(step) for _ in schedule.lr_lambdas]
        # The rate of the first step was set when the schedule was made.
        schedule._last_lr = [rate * at_step(0) for rate in schedule.base_lrs]
        for group, rate in zip(inside["optimizer"].param_groups, schedule._last_lr, strict=True):
            group["lr"] = rate

    def _share(self, step: int) -> float:
        """Return the used share of the target after a step; with a clock, after the last step."""
        if self.course.shares is not None:
            return self.course.shares[step]
        return min(1.0, self.clock() / self.course.recipe.target[1]) if step else 0.0

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        if self.end_after(state.global_step, self.clock()):
            control.should_training_stop = True


@dataclass(eq=False)
class WatchLoss(TrainerCallback):
    """Records the training loss, reports each step, and stops a run with a non-finite loss.

    *curve* receives some fifty mean losses, each over the steps since the previous one. *follow* must be called before this
    callback. The curve of a short trial has the points of one of *whole_steps* steps, which goes on with it.
    """

    follow: FollowBudget
    curve: list[CurvePoint]
    notify: Notify | None
    whole_steps: int | None = None
    # Losses since the last point of the curve.
    losses: list[float] = field(default_factory=list)
    resumed_at: int = 0
    loss: float | None = None
    _points: int = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        self._points = int(CURVE_POINTS * self.follow.course.progress(self.resumed_at, self.follow.clock()))

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        """Record the loss; the Trainer logs at every step."""
        logs = inside["logs"]
        if "loss" not in logs:
            return
        reach("run.loss", logs)
        self.loss = float(logs["loss"])
        if self.resumed_at:
            # The Trainer divides the first loss of a resumed run by all the steps since 0.
            self.loss *= state.global_step / (state.global_step - self.resumed_at)
            self.resumed_at = 0
        if not math.isfinite(self.loss):
            raise Diverged(f"the training loss is {self.loss} at step {state.global_step}")
        self.losses.append(self.loss)
        if self._is_due(state.global_step) or control.should_training_stop:
            mean = sum(self.losses) / len(self.losses)
            self.curve.append(CurvePoint(step=state.global_step, loss=round(mean, 6)))
            self.losses.clear()

    def _is_due(self, step: int) -> bool:
        """Return True if a point of the curve is due: after some steps, or some share of the work under a clock."""
        course = self.follow.course
        if course.seconds is None and course.last_step is not None:
            return step % max(1, (self.whole_steps or course.last_step) // CURVE_POINTS) == 0
        points, self._points = self._points, int(CURVE_POINTS * self.follow.progress)
        return self._points > points

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        if self.notify is None:
            return
        steps = self.follow.last_step
        if self.follow.course.seconds is not None:
            steps = max(state.global_step, round(state.global_step / max(self.follow.progress, 1e-9)))
        self.notify(state.global_step, steps or state.global_step, self.loss)


@dataclass(eq=False)
class KeepCheckpoints(TrainerCallback):
    """Writes a checkpoint every minute and on a stop request, and resumes from one.

    It runs before the measuring callback, which then starts the clock of a step. All worker ranks call it at the same step, and
    the first writes. *company* gives the ids of the other runs in the pack. A short trial leaves its state in the folder
    *handover* when its rate begins to fall, for a longer one; *went_on* is the trial that this one went on from.
    """

    folder: Path
    watch: WatchLoss
    measure: MeasureCallback
    selection: SelectionScores | None
    resume_from: Checkpoint | None
    rank: WorkerRank | None = None
    company: Callable[[], Sequence[str]] = tuple
    handover: Path | None = None
    went_on: WentOn | None = None

    def __post_init__(self) -> None:
        self._last = time.monotonic()
        watch, before = self.watch, self.resume_from
        if before is not None:
            progress = before.progress
            watch.resumed_at = before.step
            watch.losses = progress["losses"]
            watch.curve[:] = [CurvePoint.model_validate_json(point) for point in progress["curve"]]
            self.measure.train_seconds = self.measure.earlier_seconds = progress["train_seconds"]
            self.measure.score_seconds = progress.get("score_seconds", [])  # none in those of runs begun before it
            watch.follow.step, watch.follow.ended_by = before.step, progress["ended_by"]
            if self.selection is not None and before.best is not None:
                self.selection.best = Best(**progress["best"], weights=before.best)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        self._last = time.monotonic()
        if self.resume_from is not None:
            self.resume_from.restore(inside["model"], inside["optimizer"], inside["lr_scheduler"])
            state.global_step = self.resume_from.step

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        """Write a checkpoint if one is due, or after a stop request, now that the loss of the last step has been logged."""
        step, end = state.global_step, self.watch.follow.plateau
        if self.handover is not None and end is not None and step == end.decay_after > 0:
            self._save(step, self.measure.seconds_so_far(), self.handover, **inside)
        stop, due = self._agreed(stop_requested())
        if stop or due:
            self._save(state.global_step, self.measure.seconds_so_far(), **inside)
        if stop:
            raise Interrupted(f"stopped by {stop} after step {state.global_step}; the same command resumes from there")

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        """Keep what a kill during a long evaluation would lose."""
        if self._agreed(None)[1]:
            self._save(state.global_step, self.measure.seconds_so_far(), **inside)

    def stop_evaluation(self, model: nn.Module) -> None:
        """End the evaluation of a trained model, whose weights are kept: raise Interrupted after a stop request."""
        stop = stop_requested()
        if self.rank is not None and self.rank.shards:
            stop, _ = self.rank.agreed(stop)
        if stop is None:
            return
        # No step follows, so the optimiser's state is not needed again.
        optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.0)
        schedule = LambdaLR(optimizer, lambda step: 1.0)
        # The clock of training goes on in an evaluation. It never started if a resumed run had no step left.
        seconds = self.measure.train_seconds
        self._save(self.watch.follow.step, seconds, model=model, optimizer=optimizer, lr_scheduler=schedule)
        raise Interrupted(f"stopped by {stop} in the evaluation; the same command resumes from there")

    def _agreed(self, stop: str | None) -> tuple[str | None, bool]:
        """Return the signal to stop by, and True if a checkpoint is due; all processes of a run return the same."""
        due = time.monotonic() - self._last > CHECKPOINT_SECONDS
        return (stop, due) if self.rank is None else self.rank.agreed(stop, due)

    def _save(
        self,
        step: int,
        train_seconds: float | None,
        to: Path | None = None,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        **_: Any,
    ) -> None:
        writes = self.rank is None or self.rank.first
        if self.rank is not None and not (writes or self.rank.shards):
            return
        best = self.selection.best if self.selection is not None else None
        progress = {
            "curve": [point.model_dump_json() for point in self.watch.curve],
            "losses": self.watch.losses,
            "train_seconds": train_seconds,
            "score_seconds": self.measure.score_seconds,
            "ended_by": self.watch.follow.ended_by,
            "packed_with": list(self.company()),
            "went_on": None if self.went_on is None else self.went_on.model_dump(),
            "best": {"step": best.step, "score": best.score} if best is not None else None,
        }
        weights = best.weights if best is not None else None
        with self.measure.left_out():
            folder = (to or self.folder) if writes else None
            run_id = self.folder.parent.name
            save_checkpoint(folder, step, model, optimizer, lr_scheduler, progress, best=weights, run_id=run_id)
        if to is None:
            self._last = time.monotonic()


_stop: str | None = None


def stop_requested() -> str | None:
    """Return the name of the signal that asked this process to stop, or None."""
    return _stop


def request_stop(reason: str | None) -> None:
    """Ask the run of this process to stop after its current step; None withdraws the request."""
    global _stop
    _stop = reason


def stop_on_signals() -> None:
    """Let SIGINT and SIGTERM ask the run of this process to stop after its current step, from now on."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: request_stop(signal.Signals(number).name))
