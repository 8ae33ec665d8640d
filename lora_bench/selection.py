"""Scores on the selection split while a run trains, and the best weights by them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_bench.checkpoint import trained_weights
from lora_bench.meter import MeasureCallback
from lora_bench.record import CurvePoint


@dataclass(frozen=True)
class Best:
    """The best point on the selection split so far."""

    step: int
    score: float
    weights: dict[str, Tensor]


class SelectionScores(TrainerCallback):
    """Scores on the selection split every few steps, and keeps the best weights in memory where they are wanted."""

    def __init__(
        self,
        *,
        every: int,
        score: Callable[[nn.Module], dict[str, float]],
        metric: str,
        higher_is_better: bool,
        curve: list[CurvePoint],
        keep_best: bool,
        measure: MeasureCallback,
    ) -> None:
        self.every = every
        self.score = score
        self.metric = metric
        self.sign = 1 if higher_is_better else -1
        self.curve = curve
        self.keep_best = keep_best
        self.measure = measure
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
        if model is None or (state.global_step % self.every and not control.should_training_stop):
            return
        with self.measure.left_out():
            scores = self.score(model)
            self.curve.append(CurvePoint(step=state.global_step, scores=scores))
            value = scores.get(self.metric)
            better = value is not None and (self.best is None or self.sign * (value - self.best.score) > 0)
            if self.keep_best and value is not None and better:
                self.best = Best(state.global_step, value, trained_weights(model))
