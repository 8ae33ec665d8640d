"""How a suite's scores are to be judged, declared before its runs: each record carries it, so a later change shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from lora_bench.documents import Strict
from lora_bench.metrics import default_margin

# Where nobody names a reference: what most readers ask first, and else the method that is known best.
REFERENCES = ("full", "lora")


Margin = Annotated[float, Field(gt=0)]


class Analysis(Strict):
    """How scores are judged.

    Args:
        reference: Label of the method that all others are held against.
        margin: The difference that nobody should care about, in the unit of the metric; by task where it is a mapping. None:
            the metric's own default, and no margin of a metric without one.
        alpha: Probability that any verdict of better or worse is false, over all comparisons of a report.
    """

    reference: str
    margin: Margin | dict[str, Margin] | None = None
    alpha: float = Field(default=0.05, gt=0, lt=0.5)

    def margin_of(self, task: str, metric: str | None) -> float | None:
        """The margin for a task, whose part before a slash names a metric of a part of its examples; None for none."""
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
    """How scores are judged where nobody declared it, or None where there is nothing to hold against anything.

    Args:
        labels: Of the methods, in the order of the suite.
    """
    reference = next((label for label in REFERENCES if label in labels), labels[0] if labels else "")
    return Analysis(reference=reference) if len(set(labels)) > 1 else None
