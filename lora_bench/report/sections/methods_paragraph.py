"""What a paper says of a report's comparisons: the rules in a sentence, for the note below a table."""

from __future__ import annotations

from lora_bench.report.model.judged import Judged
from lora_bench.report.sections.answer import margin_words, rules_words, scope_words, seeds_words
from lora_bench.report.text import plural


def table_note(judged: Judged | None) -> str:
    """Return the rules of the comparisons: seeds, error level, margin, kind of interval, and when they were declared."""
    if judged is None:
        return "Nothing was tested; bold marks nothing."
    comparisons = plural(len(judged.held), "comparison")
    confidence = f"{100 * (1 - judged.analysis.alpha):g} %"
    return (
        f"Rules: {seeds_words(judged.held)} a method, paired by seed; error level {judged.analysis.alpha:g} over {comparisons} "
        f"(Holm); {margin_words(judged.held)}; intervals of differences at {confidence} for all together (Bonferroni), "
        f"those of single scores Student's t over seeds. Of differences, {scope_words(judged.held)}. Judged "
        f"{rules_words(judged)}. Bold marks what is shown."
    )
