"""The comparison of records whose suite declared none, and that which a reader asks for in place of a declared one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lora_bench.errors import LoraBenchError, unknown
from lora_bench.metrics import default_margin
from lora_bench.records.analysis import REFERENCES, Analysis, default_analysis
from lora_bench.records.record import Record
from lora_bench.report.model.comparison import Comparison
from lora_bench.report.model.rows import Row
from lora_bench.report.text import natural


def undeclared_analysis(comparison: Comparison) -> Analysis | None:
    """Return the default comparison of records that carry none, or None if they have fewer than two methods.

    Labels need not be the usual ones. Then the table with the most scored methods gives the reference: full fine-tuning if it
    is there, else the LoRA with the shortest label, else the method that trains the most weights.
    """
    labels = sorted({row.label for setting in comparison.settings for row in setting.rows})
    tables = [table.rows for setting in comparison.results if not setting.search for table in setting.tables]
    scored = max(([row for row in rows if row.score is not None] for rows in tables), key=len, default=[])
    if len(labels) < 2 or not scored or any(label in REFERENCES for label in labels):
        return default_analysis(labels)
    return Analysis(reference=min(scored, key=_rank).label)


def _rank(row: Row) -> tuple[object, ...]:
    """Return a sort key: the smallest is the one to compare with."""
    trained = row.parameters.trained if row.parameters is not None else None
    # By the method's name, or by its label's first word, as in "lora/llama-rank32" or "LoRA r=8".
    named = [row.method == name or re.match(rf"{name}(?![a-z])", row.label, re.IGNORECASE) for name in REFERENCES]
    usual = next((place for place, own in enumerate(named) if own), len(REFERENCES))
    plain = len(row.label) if usual < len(REFERENCES) else -(trained or 0)
    return usual, plain, natural(row.label)


def with_reference(analysis: Analysis | None, label: str, records: Sequence[Record]) -> Analysis:
    """Return a comparison with the reference that a user names, or raise LoraBenchError if no record has such a label."""
    labels = sorted({record.spec.method.label for record in records})
    if label not in labels:
        raise unknown("method of these records", label, labels)
    return Analysis(reference=label) if analysis is None else analysis.model_copy(update={"reference": label})


@dataclass(frozen=True)
class Question:
    """A reader's own margin and error level, asked when scores are known; None for the declared one."""

    margin: float | None = None
    alpha: float | None = None

    def of(self, analysis: Analysis, comparison: Comparison) -> tuple[Analysis, "Question"]:
        """Return a comparison with what is asked, and what of that is new; LoraBenchError for a margin in points."""
        tasks = [setting.spec.task for setting in comparison.results]
        shares = all(default_margin(task.metric) is not None for task in tasks)
        if shares and self.margin is not None and self.margin >= 1:
            near = self.margin / 100 if self.margin < 100 else 0.01
            raise LoraBenchError(
                f"a margin must be below 1 for these scores, which are shares of 1, got {self.margin:g}; did you mean {near:g}?"
            )
        other = any(analysis.margin_of(task.name, task.metric) != self.margin for task in tasks)
        margin = self.margin if other else None
        alpha = self.alpha if self.alpha != analysis.alpha else None
        asked = {name: value for name, value in (("margin", margin), ("alpha", alpha)) if value is not None}
        return analysis.model_copy(update=asked), Question(margin, alpha)


NOTHING_ASKED = Question()
