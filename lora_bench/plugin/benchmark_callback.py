"""The plug-in for a user's own script: a callback that writes the same record as a run of the harness.

    Trainer(..., callbacks=[BenchmarkCallback("runs/mine")])

Nothing else in the script changes, and `lora-bench report runs/mine` reads its records like any others. The callback changes
no batch, no random number and no weight of the Trainer.

The record is written when training ends, to `FOLDER/RUN_ID/record.json`, and again when a later `evaluate` or `predict`
adds scores. If the same script runs again with the same arguments, its record replaces the earlier one, which stays as an
attempt. Training that an exception, Ctrl-C or SIGTERM ends leaves an attempt and no record.
"""

import atexit
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from lora_bench.plugin.infer_spec import parameters_of, script_command, spec_of
from lora_bench.plugin.script_run import OwnRun, said, why_training_ended
from lora_bench.plugin.token_counter import TokenCounter
from lora_bench.plugin.trainer_log import curve_of, evaluated_set, evaluation_of
from lora_bench.records.environment import describe_environment
from lora_bench.records.record import DataSummary, Parameters, Record, Speed
from lora_bench.records.spec import RunSpec
from lora_bench.training.measure.counters import PeakMemory, a_model_is_there, allocated_beside, plain_tensors
from lora_bench.training.measure.measure_callback import WARMUP_STEPS, MeasureCallback
from lora_bench.util.signals import BeforeTermination

NO_START = (
    "the memory in use before the base model was loaded is unknown, so there is no peak above it; create the callback before "
    "the model is loaded"
)
# Key among the callback states of a checkpoint. No class has this name: the Trainer restores callbacks by class name, and fails
# to save a callback if it resumes from a checkpoint made without it.
NOTE = "lora_bench"

UNCOUNTED = Parameters(total=None, adapter=None, head=None, trained=None, stored=None)

SEVERAL_DEVICES = "one process used several devices by DataParallel, where examples and tokens are not counted"


class BenchmarkCallback(MeasureCallback):
    """Writes a record of a run of a `transformers.Trainer`, or of any class that inherits from it.

    Facts that the callback cannot see are null in the record, or arguments below. Memory and seconds are those of the first
    process, examples and tokens those of all.

    Args:
        folder: Folder of the records, one subfolder a run.
        suite: Heading of a report of the records; the folder's name by default.
        task: Name of the task; the folder's name by default. Runs of one task are compared in a report.
        label: Name of the method in reports; its own name by default.
        metric: Main score of the run; by default the first score of an evaluation that is not a loss.
        higher_is_better: Its direction; by default from the Trainer's `greater_is_better` or our metric of that name.
        exclusive: True if nothing else runs on the device or machine meanwhile, or None if unknown.
        warmup_steps: Number of untimed steps.
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

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        """Read the facts of the training, and start the clock."""
        model: nn.Module = inside["model"]
        self.close("training was started again before it ended")
        self._start_over()
        in_split = _examples_of(inside.get("train_dataloader"))
        warnings: list[str] = [SEVERAL_DEVICES] if args.n_gpu > 1 else []
        self._run = run = OwnRun(
            spec=spec_of(args, state, model, in_split, task=self.task, label=self.label),
            parameters=self.measured("numbers of weights", lambda: parameters_of(model, warnings)) or UNCOUNTED,
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
        if run.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
        self.earlier_seconds = (run.earlier or {}).get("seconds") or 0.0
        self._memory = PeakMemory(args.device)
        if args.device.type == "cuda":
            self.start_bytes = self.measured("the memory in use beside the model", lambda: allocated_beside(model))
        else:
            self.start_bytes = self._held if self._early else None
            warnings += [NO_START] if self.start_bytes is None else []
        super().on_train_begin(args, state, control, **inside)
        if self.start_bytes is None:
            self.peaks.clear()  # peaks of the process so far, which are not those of loading
        self._early = False  # the next training of this process starts with a model
        atexit.register(self.close)
        if run.writes:
            self._termination.watch()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        """Stop the clock of a step."""
        super().on_step_end(args, state, control, **inside)
        if self._run is not None and len(self.clock) == self.warmup_steps:
            self._run.end_warmup()
        if control.should_save:
            self._note(state)

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        """Stop the clock of training if an evaluation or a checkpoint follows."""
        super().on_epoch_end(args, state, control, **inside)
        if control.should_save:
            self._note(state)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        """Add our numbers to the Trainer's summary, after the last step and before it loads the best weights."""
        if self._run is None or self._run.stopped or "train_runtime" not in (inside.get("logs") or {}):
            return
        self._stop(self._run)
        ours = self._numbers(self._run)
        state.log_history.append({**ours, "step": state.global_step})
        handler = _handler()
        if handler is not None:
            handler.on_log(args, state, control, ours)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        """Write the record."""
        run = self._run
        if run is None:
            return
        self._stop(run)
        run.add_up()
        # The evaluation of the best weights.
        run.best_step = state.best_global_step if args.load_best_model_at_end else None
        run.ended_at = len(state.log_history)
        self._no_longer_watch()
        self._publish(run, args)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        """Record the peak of an evaluation; after training it also adds scores to the record."""
        run = self._run
        if run is None:
            return
        super().on_evaluate(args, state, control, **inside)
        examples = _examples_of(inside.get("eval_dataloader"))
        if examples is not None:
            run.examples["_".join(["evaluation", *evaluated_set(inside.get("metrics") or {})])] = examples
        if run.ended:
            self._publish(run, args)
        else:
            self._note(state)  # a checkpoint of the best weights is written after the evaluation

    def on_predict(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        """Record the peak of a prediction; after training its scores are scores of the run."""
        run = self._run
        if run is None:
            return
        super().on_evaluate(args, state, control, **inside)
        # The Trainer does not log predictions.
        predicted = evaluation_of(inside.get("metrics") or {}, state.global_step)
        if run.ended and predicted is not None:
            run.predicted.append(predicted)
            self._publish(run, args)

    def close(self, reason: str | None = None) -> None:
        """Record training that did not finish: as an attempt, or as a record if memory ran out.

        Called when the process ends, and when training begins again. A process that catches the exception of `train()` and goes
        on may call it.
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
        status = "out_of_memory" if isinstance(error, torch.OutOfMemoryError | MemoryError) else "interrupted"
        reason = f"{why} (after step {self._last_step(run)} of {run.spec.training.steps})"
        run.write(self.folder, self._record(run, spec=run.spec, status=status, reason=reason, warnings=run.warnings))

    def _no_longer_watch(self) -> None:
        atexit.unregister(self.close)
        self._termination.leave()

    def _note(self, state: TrainerState) -> None:
        """Store in the Trainer's state, which checkpoints keep, the facts that a resumed run needs."""
        run = self._run
        if run is not None and run.earlier is not None and not run.stopped:
            work = run.work_so_far()
            noted = {"seconds": self.seconds_so_far(), "examples": work.examples, "tokens": work.tokens}
            state.stateful_callbacks[NOTE] = {"step": state.global_step, **noted}

    def _stop(self, run: OwnRun) -> None:
        """Stop the clock of training, which excludes loading the best checkpoint at its end."""
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
        """Return the few numbers for the logs, without those that need other processes."""
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
        """Write the record of a finished training, or rewrite it with facts learnt since."""
        if run.writes:
            outcome = run.outcome(args, self._last_step(run), self.metric, self.higher_is_better)
            run.write(self.folder, self._record(run, **outcome))

    def _record(
        self,
        run: OwnRun,
        *,
        spec: RunSpec,
        warnings: Sequence[str],
        evaluation_seconds: float | None = None,
        scores: dict[str, float] | None = None,
        **ended: Any,
    ) -> Record:
        memory = self.memory(run.model())  # it may add to what is unmeasured
        return Record(
            **ended,
            run_id=spec.run_id,
            suite=self.suite,
            spec=spec,
            budget=None,
            parameters=run.parameters,
            memory=memory,
            speed=self._speed(run, evaluation_seconds),
            scores=scores,
            curve=curve_of(run.history[: run.ended_at]),
            data=DataSummary(examples=dict(run.examples), truncated_share=None, majority_score=None),
            warnings=(*warnings, *self.unmeasured),
            resumed=run.first_step > 1,
            command=run.command,
            started_at=run.started_at,
            environment=describe_environment("cuda" if run.device.type == "cuda" else "cpu"),
        )


def _examples_of(loader: Any) -> int | None:
    """Return the number of examples of a loader's dataset, or None if it has no length."""
    try:
        return len(loader.dataset)
    except (AttributeError, TypeError):
        return None


def _earlier(state: TrainerState) -> dict[str, float | None] | None:
    """Return the notes of an earlier process's callback at the checkpoint's step, or None without any."""
    noted: dict[str, float | None] | None = (state.stateful_callbacks or {}).get(NOTE)
    return noted if noted is not None and noted["step"] == state.global_step else None


def weights_are_finite(model: nn.Module | None) -> bool | None:
    """Return True if every trained weight is finite, or None if that cannot be checked."""
    if model is None:
        return None
    try:
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        # Of sharded weights only the share of this process: the others may not be asked at this moment.
        parts = [part for weight in trained for part in plain_tensors(weight.detach()) if part.is_floating_point()]
        return all(bool(torch.isfinite(part).all()) for part in parts)
    except Exception:  # weights of a special type
        return None


def _handler() -> CallbackHandler | None:
    """Return the handler, whose trackers get our numbers, from the call stack: a callback is passed everything but that."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, CallbackHandler):
            return caller
        frame = frame.f_back
    return None
