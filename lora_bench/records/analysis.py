"""The declared comparison of a suite's scores. Each record carries it, so a later change shows."""

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, PrivateAttr, model_validator
from pydantic.fields import FieldInfo

from lora_bench.documents import Strict
from lora_bench.metrics import default_margin
from lora_bench.stats.looks import looks_between, share_of

# The default reference is the one that most readers ask for first, else the best-known method.
REFERENCES = ("full", "lora")

LEAST_MARGIN = 1e-9
"""Smallest margin: far below any score's, and far above where its square is no number."""

Margin = Annotated[float, Field(ge=LEAST_MARGIN)]


class UntilDecided(Strict):
    """Seeds that are added until every comparison with the reference is decided.

    Args:
        until: Always "decided".
        at_least: Seeds of every method before the first look.
        at_most: Seeds of a comparison that stays undecided.
        minutes: Time of all scored runs, one after the other, beyond which no seeds are added; None for as long as it takes.
    """

    until: Literal["decided"]
    at_least: int = Field(default=4, ge=3, le=1_000)
    at_most: int = Field(default=20, le=1_000)
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.at_most < self.at_least:
            raise ValueError(f"at_most ({self.at_most}) must be no less than at_least ({self.at_least})")
        return self

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds after which scores are judged."""
        return looks_between(self.at_least, self.at_most)


# A suite gives these and a record keeps them: a field added here is in both. It needs a default that leaves verdicts as they
# were before the field existed; at it the field leaves the hash of a declaration alone.
class AnalysisSettings(Strict):
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


class Analysis(AnalysisSettings):
    """The comparison of scores that a record keeps.

    Args:
        seeds: How seeds were added, from the suite's `seeds`; None where their number was fixed.
        fixed_seeds: That number, from the suite's `seeds`; no part of the hash, as older records do not know it.

    The others are those of `AnalysisSettings`.
    """

    seeds: UntilDecided | None = None
    fixed_seeds: int | None = None
    _looks: int = PrivateAttr(default=1)

    def share(self, pairs: int) -> float:
        """Return the share of alpha that a comparison of this many seeds has."""
        planned = 1.0 if self.seeds is None else share_of(pairs, self.seeds.looks)
        return planned / self._looks

    def paying(self, looks: int) -> Self:
        """Return the comparison with the error level of the last of so many looks that no rule planned."""
        paid = self.model_copy()
        paid._looks = looks
        return paid

    def margin_of(self, task: str, metric: str | None) -> float | None:
        """Return the margin for a task and metric, or None. A metric `subset/name` is *name* on a subset of the examples."""
        if isinstance(self.margin, dict):
            given = self.margin.get(task)
            if given is not None:
                return given
        elif self.margin is not None:
            return self.margin
        return default_margin(metric.rpartition("/")[2]) if metric is not None else None

    @property
    def sha256(self) -> str:
        """Hash of the declaration, without what is as by default."""
        content = _declared(self, always={"reference", "margin", "alpha"})
        content.pop("fixed_seeds", None)
        if self.seeds is not None:
            content["seeds"] = _declared(self.seeds, always={"until", "at_least", "at_most"})
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _declared(part: Strict, always: Collection[str]) -> dict[str, JsonValue]:
    """Return a part of the hash: the fields of the first records, and later ones that are not at their defaults."""
    fields: dict[str, FieldInfo] = type(part).model_fields
    content = part.model_dump(mode="json")
    return {name: content[name] for name in fields if name in always or getattr(part, name) != fields[name].default}


def default_analysis(labels: Sequence[str]) -> Analysis | None:
    """Return the comparison of a suite that declares none, from its labels in order; None for fewer than two."""
    reference = next((label for label in REFERENCES if label in labels), labels[0] if labels else "")
    return Analysis(reference=reference) if len(set(labels)) > 1 else None
