"""The declared comparison of a suite's scores. Each record carries it, so a later change shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from lora_bench.documents import Strict
from lora_bench.metrics import default_margin

# The default reference is the one that most readers ask for first, else the best-known method.
REFERENCES = ("full", "lora")


Margin = Annotated[float, Field(gt=0)]


class Analysis(Strict):
    """The comparison of scores.

    Args:
        reference: Label of the method that all others are compared with.
        margin: Smallest difference that matters, in the metric's unit; a mapping gives one for each task. By default the
            metric's own, if it has one.
        alpha: Probability of any false verdict of better or worse, over all comparisons of a report.
    """

    reference: str
    margin: Margin | dict[str, Margin] | None = None
    alpha: float = Field(default=0.05, gt=0, lt=0.5)

    def margin_of(self, task: str, metric: str | None) -> float | None:
        """Return the margin for a task and metric, or None.

        A metric `subset/name` is *name* on a subset of the examples.
        """
        if isinstance(self.margin, dict):
            given = self.margin.get(task)
            if given is not None:
                return given
        elif self.margin is not None:
            return self.margin
        return default_margin(metric.rpartition("/")[2]) if metric is not None else None

    @property
    def sha256(self) -> str:
        """Hash of the declaration."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode("utf-8")).hexdigest()


def default_analysis(labels: Sequence[str]) -> Analysis | None:
    """Return the comparison of a suite that declares none, or None if it has fewer than two labels.

    Args:
        labels: Labels of the methods, in the suite's order.
    """
    reference = next((label for label in REFERENCES if label in labels), labels[0] if labels else "")
    return Analysis(reference=reference) if len(set(labels)) > 1 else None
