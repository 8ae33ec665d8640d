"""The plug-in for one's own script: a callback that leaves the same record as a run of the harness.

    Trainer(..., callbacks=[BenchmarkCallback("runs/mine")])

Nothing else of the script changes, and `lora-bench report runs/mine` takes its records like any others. The Trainer is
hooked and never touched: no batch, no random number and no weight is another one with the callback.

The record is written when training ends, to `FOLDER/RUN_ID/record.json`, and again when a later `evaluate` or `predict`
brings scores. The same script with the same arguments, run again, takes the place of its earlier record, which stays beside
it as an attempt. Training that an exception, Ctrl-C or SIGTERM ends leaves an attempt and no record.
"""

from __future__ import annotations

import atexit
import sys
import weakref
from collections.abc import Mapping, Sized
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from lora_bench.plugin.infer_spec import parameters_of, script_command, spec_of
from lora_bench.plugin.script_run import OwnRun, ScriptOutcome, said, why_training_ended
from lora_bench.plugin.token_counter import TokenCounter
from lora_bench.plugin.trainer_log import curve_of, evaluation_of
from lora_bench.records.environment import describe_environment
from lora_bench.records.record import DataSummary, Record, Speed
from lora_bench.training.measure.counters import PeakMemory, a_model_is_there, allocated_beside
from lora_bench.training.measure.measure_callback import WARMUP_STEPS, MeasureCallback
from lora_bench.util.signals import BeforeTermination

if TYPE_CHECKING:
    from torch.optim import Optimizer

NO_START = (
    "what the process held before the base model was loaded is not known, so there is no peak above it; a callback that is "
    "made before the model is loaded knows"
)
# Among the states of callbacks that a checkpoint keeps. No class has this name: the Trainer restores callbacks by theirs, and
# fails to save one that a checkpoint made without it is resumed with.
NOTE = "lora_bench"

SEVERAL_DEVICES = "one process used several devices by DataParallel, where examples and tokens are not counted"


class BenchmarkCallback(MeasureCallback):
    """Writes a record of a run of a `transformers.Trainer`, or of any class that inherits from it.

    What it cannot know is null in the record, and its arguments say what only the script's author knows. Memory and seconds
    are those of the first process, examples and tokens those of all.

    Args:
        folder: Where records go, one folder a run.
        suite: What a report of the records is headed with; the folder's name by default.
        task: What is learned, by name; the folder's name by default. Runs of one task stand side by side in a report.
        label: What the method is called in reports; its name by default.
        metric: The score that the run is about; by default the first of an evaluation that is no loss.
        higher_is_better: Its direction. By default what the Trainer's `greater_is_better` or our metric of that name says.
        exclusive: Whether nothing else runs on the device or machine meanwhile, or None where nobody says.
        warmup_steps: Steps that are not timed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        suite: str | None = None,
        task: str | None = None,
        label: str | None = None,
        metric: str | None = None,
        higher_is_better: bool | None = None,
        exclusive: bool | None = None,
        warmup_steps: int = WARMUP_STEPS,
    ) -> None:
        super().__init__(exclusive=exclusive, warmup_steps=warmup_steps)
        self.folder = Path(folder)
        self.suite = suite or self.folder.resolve().name
        self.task = task or self.folder.resolve().name
        self.label = label
        self.metric = metric.removeprefix("eval_") if metric is not None else None
        self.higher_is_better = higher_is_better
        self._held: int | None = None
        self._early = not a_model_is_there()
        if self._early:
            resident = PeakMemory(torch.device("cpu"))
            resident.take()
            self._held = resident.now()
        self._run: OwnRun | None = None
        self._termination = BeforeTermination(lambda name: self.close(f"{name} ended the process"))

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        train_dataloader: Any = None,
        **inside: Any,
    ) -> None:
        """Look at what is to be trained, and start the clock."""
        assert model is not None, "the Trainer hands its model to every callback"
        self.close("training began again before it had come to an end")
        self._start_over()
        dataset = getattr(train_dataloader, "dataset", None)
        in_split = len(dataset) if isinstance(dataset, Sized) else None
        warnings: list[str] = [SEVERAL_DEVICES] if args.n_gpu > 1 else []
        run = OwnRun(
            spec=spec_of(args, state, model, in_split, task=self.task, label=self.label),
            parameters=parameters_of(model, warnings),
            model=weakref.ref(model),
            device=args.device,
            processes=args.world_size,
            writes=state.is_world_process_zero,
            counter=TokenCounter(model, args.device) if args.n_gpu <= 1 else None,
            history=state.log_history,
            examples={} if in_split is None else {"train": in_split},
            warnings=warnings,
            earlier=_earlier(state) if state.global_step else {"seconds": 0.0, "examples": 0, "tokens": 0},
            first_step=state.global_step + 1,
            command=script_command(),
        )
        self._run = run
        if run.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
        self.earlier_seconds = (run.earlier or {}).get("seconds") or 0.0
        self._memory = PeakMemory(args.device)
        if args.device.type == "cuda":
            self.start_bytes = allocated_beside(model, args.device)
        elif self._early:
            self.start_bytes = self._held
        if self.start_bytes is None:
            warnings.append(NO_START)
        super().on_train_begin(args, state, control, **inside)
        if self.start_bytes is None:
            self.peaks.clear()  # of the process since it began, and not of loading
        self._early = False  # the next training of this process finds a model
        atexit.register(self.close)
        if run.writes:
            self._termination.watch()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Optimizer | None = None,
        **inside: Any,
    ) -> None:
        """Stop the clock of a step."""
        super().on_step_end(args, state, control, optimizer, **inside)
        if self._run is not None and len(self.clock) == self.warmup_steps:
            self._run.end_warmup()
        if control.should_save:
            self._note(state)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **inside: Any
    ) -> None:
        """Stop training where an evaluation or a checkpoint comes next."""
        super().on_epoch_end(args, state, control, **inside)
        if control.should_save:
            self._note(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **inside: Any,
    ) -> None:
        """Add our numbers to the logs when the Trainer sums training up, after the last step and before the best weights."""
        if self._run is None or self._run.stopped or not logs or "train_runtime" not in logs:
            return
        self._stop(self._run)
        ours = self._numbers(self._run)
        state.log_history.append({**ours, "step": state.global_step})
        handler = _handler()
        if handler is not None:
            handler.on_log(args, state, control, ours)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **inside: Any
    ) -> None:
        """Write the record."""
        run = self._run
        if run is None:
            return
        self._stop(run)
        run.add_up()
        # The evaluation after which the weights were the best.
        run.best_step = state.best_global_step if args.load_best_model_at_end else None
        run.ended_at = len(state.log_history)
        self._no_longer_watch()
        self._publish(run, args)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, Any] | None = None,
        eval_dataloader: Any = None,
        **inside: Any,
    ) -> None:
        """Note the peak of an evaluation; one after training brings scores to the record."""
        run = self._run
        if run is None:
            return
        super().on_evaluate(args, state, control, **inside)
        dataset = getattr(eval_dataloader, "dataset", None)
        if isinstance(dataset, Sized):
            run.examples["evaluation"] = len(dataset)
        if run.ended:
            self._publish(run, args)
        else:
            self._note(state)  # a checkpoint of the best weights is asked for after the evaluation

    def on_predict(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, Any] | None = None,
        **inside: Any,
    ) -> None:
        """Note the peak of a prediction; the scores of one after training are scores of the run."""
        run = self._run
        if run is None:
            return
        super().on_evaluate(args, state, control, **inside)
        predicted = evaluation_of(metrics or {}, state.global_step)  # which the Trainer does not log
        if run.ended and predicted is not None:
            run.predicted.append(predicted)
            self._publish(run, args)

    def close(self, reason: str | None = None) -> None:
        """Write down training that has not come to its end: an attempt, or a record where memory ran out.

        Called when the process ends, and when training begins again. Whoever catches the exception of `train()` in a process
        that lives on may call it.
        """
        run = self._run
        self._no_longer_watch()
        if run is None or run.ended:
            return
        error = why_training_ended()
        self._stop(run)
        self._run = None
        if not run.writes:
            return
        why = said(error) if error is not None else reason or "the process ended before training did"
        outcome = ScriptOutcome(
            status="out_of_memory" if isinstance(error, torch.OutOfMemoryError | MemoryError) else "interrupted",
            reason=f"{why} (after step {self._last_step(run)} of {run.spec.training.steps})",
            spec=run.spec,
            scores=None,
            evaluation_seconds=None,
            warnings=tuple(run.warnings),
        )
        run.write(self.folder, self._record(run, outcome))

    def _no_longer_watch(self) -> None:
        atexit.unregister(self.close)
        self._termination.leave()

    def _note(self, state: TrainerState) -> None:
        """Leave in the Trainer's state, which checkpoints keep, what a resumed run has to know of this one."""
        run = self._run
        if run is not None and run.earlier is not None and not run.stopped:
            work = run.work_so_far()
            noted = {"seconds": self.seconds_so_far(), "examples": work.examples, "tokens": work.tokens}
            state.stateful_callbacks[NOTE] = {"step": state.global_step, **noted}

    def _stop(self, run: OwnRun) -> None:
        """Stop the clock of training: loading the best checkpoint at its end is no part of it."""
        if run.stopped:
            return
        self.train_seconds = self.seconds_so_far() if run.earlier is not None else None
        if self._in_training and len(self.clock) > 1:
            self.take("steady")
        self._in_training = False
        run.finite = weights_are_finite(run.model())
        run.stop()

    def _speed(self, run: OwnRun, evaluation_seconds: float | None = None) -> Speed:
        return self.speed(
            done=run.work_done(),
            timed=run.work_timed(),
            steps=self._last_step(run),
            load_seconds=None,
            evaluation_seconds=evaluation_seconds,
        )

    def _last_step(self, run: OwnRun) -> int:
        return run.first_step - 1 + len(self.clock)

    def _numbers(self, run: OwnRun) -> dict[str, float]:
        """The few numbers that go into the logs, without those for which other processes would have to be asked."""
        speed, memory = self._speed(run), self.memory(run.model())
        named: dict[str, float | None] = {
            "benchmark_adapter_parameters": run.parameters.adapter,
            "benchmark_trained_parameters": run.parameters.trained,
            "benchmark_stored_parameters": run.parameters.stored,
            "benchmark_step_seconds_median": speed.step_seconds_median,
            "benchmark_examples_per_second": speed.examples_per_second,
            "benchmark_real_tokens_per_second": speed.real_tokens_per_second,
            "benchmark_first_step_bytes": memory.first_step_bytes,
            "benchmark_steady_bytes": memory.steady_bytes,
            "benchmark_train_peak_bytes": memory.train_peak_bytes,
        }
        return {name: value for name, value in named.items() if value is not None}

    def _publish(self, run: OwnRun, args: TrainingArguments) -> None:
        """Write the record of a training that came to its end, or write it anew with what is known since."""
        if run.writes:
            outcome = run.outcome(args, self._last_step(run), self.metric, self.higher_is_better)
            run.write(self.folder, self._record(run, outcome))

    def _record(self, run: OwnRun, outcome: ScriptOutcome) -> Record:
        return Record(
            run_id=outcome.spec.run_id,
            suite=self.suite,
            status=outcome.status,
            reason=outcome.reason,
            spec=outcome.spec,
            budget=None,
            parameters=run.parameters,
            memory=self.memory(run.model()),
            speed=self._speed(run, outcome.evaluation_seconds),
            scores=outcome.scores,
            curve=curve_of(run.history[: run.ended_at]),
            data=DataSummary(examples=dict(run.examples), truncated_share=None, majority_score=None),
            warnings=outcome.warnings,
            resumed=run.first_step > 1,
            command=run.command,
            started_at=run.started_at,
            environment=describe_environment("cuda" if run.device.type == "cuda" else "cpu"),
        )


def _earlier(state: TrainerState) -> dict[str, float | None] | None:
    """What the callback of an earlier process noted at the step of the checkpoint, or None where there was none."""
    noted: dict[str, float | None] | None = (state.stateful_callbacks or {}).get(NOTE)
    return noted if noted is not None and noted["step"] == state.global_step else None


def weights_are_finite(model: nn.Module | None) -> bool | None:
    """Return whether every trained weight is a finite number, or None where that cannot be looked at."""
    if model is None:
        return None
    try:
        trained = [weight for weight in model.parameters() if weight.requires_grad and weight.is_floating_point()]
        return all(bool(torch.isfinite(weight.detach()).all()) for weight in trained)
    except (RuntimeError, NotImplementedError):  # weights in shards, or of a type of their own
        return None


def _handler() -> CallbackHandler | None:
    """The handler that is calling this callback.

    The Trainer passes what is logged to trackers such as TensorBoard and W&B through its handler, and hands a callback
    everything but that: whoever wants to log has to ask who is calling.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, CallbackHandler):
            return caller
        frame = frame.f_back
    return None
