"""Scores on the selection split during training, and the best weights by them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from lora_bench.kinds.exercises.base_exercise import Replies
from lora_bench.records.record import CurvePoint
from lora_bench.training.checkpoint import trained_weights
from lora_bench.training.distributed.ranks import WorkerRank
from lora_bench.training.measure.measure_callback import MeasureCallback


@dataclass(frozen=True)
class Best:
    """Best weights on the selection split so far."""

    step: int
    score: float
    weights: dict[str, Tensor]


@dataclass(kw_only=True, eq=False)
class SelectionScores(TrainerCallback):
    """Scores the run on the selection split every few steps and at the end, and keeps the best weights in memory if wanted.

    As a callback it evaluates its run's model alone; a pack evaluates its members together and passes the answers to `take`.
    The scores of a model, from its answers if they are known, are added to *curve*, and *metric* chooses the best weights;
    *measure* excludes this work. If several processes score, the first *rank* decides which weights are better.
    """

    every: int
    score: Callable[[nn.Module, Replies | None], dict[str, float]]
    metric: str
    higher_is_better: bool
    curve: list[CurvePoint]
    keep_best: bool
    measure: MeasureCallback
    rank: WorkerRank | None = None
    best: Best | None = None

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        if self.is_due(state.global_step, last=control.should_training_stop):
            self.take(state.global_step, inside["model"])

    def is_due(self, step: int, *, last: bool) -> bool:
        """Return True if scores are due after a step."""
        return step % self.every == 0 or last

    def take(self, step: int, model: nn.Module, answers: Replies | None = None) -> None:
        """Add the scores after a step, from answers if known, and keep the weights if they are the best."""
        self.measure.score_seconds.append(self.measure.seconds_so_far())
        with self.measure.left_out():
            scores = self.score(model, answers)
            self.curve.append(CurvePoint(step=step, scores=scores))
            value = scores.get(self.metric)
            sign = 1 if self.higher_is_better else -1
            better = value is not None and (self.best is None or sign * (value - self.best.score) > 0)
            if self.rank is not None:
                # Gathering sharded weights needs a call in every process.
                _, better = self.rank.agreed(None, better)
            if self.keep_best and better:
                self.best = Best(step, math.nan if value is None else value, trained_weights(model))
