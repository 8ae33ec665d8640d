"""Scores on the selection split while a run trains, and the best weights by them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_bench.records.record import CurvePoint
from lora_bench.training.checkpoint import trained_weights
from lora_bench.training.distributed.ranks import WorkerRank
from lora_bench.training.measure.measure_callback import MeasureCallback


@dataclass(frozen=True)
class Best:
    """The best point on the selection split so far."""

    step: int
    score: float
    weights: dict[str, Tensor]


class SelectionScores(TrainerCallback):
    """Scores on the selection split every few steps, and keeps the best weights in memory where they are wanted.

    As a callback it asks its run's model by itself; a pack asks its members together, and has it `take` the answers.

    Args:
        every: Steps between scores; the last step has some too.
        score: The scores of a model, from its answers where they are known.
        metric: The one that says which weights are the best.
        higher_is_better: Whether more of it is better.
        curve: Where the scores are noted.
        keep_best: Whether the best weights are wanted.
        measure: The clock, which leaves this out.
        rank: Which of several processes this is, where all of them score: the first says what is better.
    """

    def __init__(
        self,
        *,
        every: int,
        score: Callable[[nn.Module, list[Any] | None], dict[str, float]],
        metric: str,
        higher_is_better: bool,
        curve: list[CurvePoint],
        keep_best: bool,
        measure: MeasureCallback,
        rank: WorkerRank | None = None,
    ) -> None:
        self.every = every
        self.score = score
        self.metric = metric
        self.sign = 1 if higher_is_better else -1
        self.curve = curve
        self.keep_best = keep_best
        self.measure = measure
        self.rank = rank
        self.best: Best | None = None

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **inside: Any,
    ) -> None:
        """Score where it is time to."""
        if model is not None and self.is_due(state.global_step, last=control.should_training_stop):
            self.take(state.global_step, model)

    def is_due(self, step: int, *, last: bool) -> bool:
        """Whether there are scores after a step."""
        return step % self.every == 0 or last

    def take(self, step: int, model: nn.Module, answers: list[Any] | None = None) -> None:
        """Note the scores after a step, of answers where they are known, and keep the weights where they are the best."""
        with self.measure.left_out():
            scores = self.score(model, answers)
            self.curve.append(CurvePoint(step=step, scores=scores))
            value = scores.get(self.metric)
            better = value is not None and (self.best is None or self.sign * (value - self.best.score) > 0)
            if self.rank is not None:
                # Weights in parts come together only where every process asks for them.
                _, better = self.rank.agreed(None, better)
            if self.keep_best and better:
                self.best = Best(step, math.nan if value is None else value, trained_weights(model))
