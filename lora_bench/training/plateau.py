"""The end of a run that is trained until it stops improving: warm-up, constant rate, decay.

With best score b so far, a score v counts as a rise if v > b + rise. After `patience` scores in a row without one, the rate
falls in equal steps to 0. If that comes after step s, with a decay of share d, the run ends after step

    e = ⌈s / (1 − d)⌉

Without a plateau the decay begins after step ⌊(1 − d) · N⌋ of the N steps of its greatest amount. Scores of the warm-up do not
count. All of this is a function of the curve, so a checkpoint needs nothing more to resume.

Hu et al. 2024, https://arxiv.org/abs/2404.06395; Hägele et al. 2024, https://arxiv.org/abs/2405.18392, for a decay of a fifth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lora_bench.records.record import CurvePoint, PlateauEnd
from lora_bench.records.spec import PlannedSpec, PlateauRule


@dataclass(frozen=True)
class UntilNoRise:
    """The rule of one run, over the curve that it grows."""

    spec: PlannedSpec
    curve: Sequence[CurvePoint]

    def end(self, step: int) -> PlateauEnd | None:
        """Return where the run decays and ends, or None if its rate is still constant after *step* steps."""
        recipe = self.spec.training
        rule, steps = recipe.plateau, recipe.steps
        assert rule is not None and steps is not None, "only a number of examples has a plateau"
        latest = int((1 - rule.decay) * steps)
        found = self._plateau(rule, latest)
        if found is not None:
            return PlateauEnd(by="plateau", decay_after=found, step=min(steps, math.ceil(found / (1 - rule.decay))))
        return PlateauEnd(by="cap", decay_after=latest, step=steps) if step >= latest else None

    def factor(self, step: int) -> float:
        """Return the factor on the learning rate of the step that follows *step* others."""
        end = self.end(step)
        if end is not None:
            return max(0.0, (end.step - step) / (end.step - end.decay_after))
        warmup = self.spec.training.warmup_steps or 0
        return step / warmup if step < warmup else 1.0

    def _plateau(self, rule: PlateauRule, latest: int) -> int | None:
        """Return the first step, up to *latest*, after whose score the rule finds a plateau."""
        sign = 1 if self.spec.task.higher_is_better else -1
        best, waited = -math.inf, 0
        for point in self.curve:
            if point.scores is None or not (self.spec.training.warmup_steps or 0) <= point.step <= latest:
                continue
            # Without a score, as of a constant answer's correlation, nothing has risen.
            value = sign * point.scores.get(self.spec.task.metric, -sign * math.inf)
            best, waited = (value, 0) if value > best + rule.rise else (best, waited + 1)
            if waited == rule.patience:
                return point.step
        return None
