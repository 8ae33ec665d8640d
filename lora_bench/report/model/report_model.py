"""All that the renderings of one report are made of, computed once: verdicts with test items take most of a report's time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lora_bench.records.probe_record import ProbeRecord
from lora_bench.records.record import Record
from lora_bench.report.model.choose_method import choices_of
from lora_bench.report.model.comparison import Comparison, compare
from lora_bench.report.model.given_answers import GivenByRow, given_answers
from lora_bench.report.model.judged import Judged, judge_comparison
from lora_bench.report.model.overview import Overview, contrasts_of, overview
from lora_bench.report.model.plateaus import SweepFindings, sweep_findings
from lora_bench.report.model.seed_scores import AnswersOf, no_answers
from lora_bench.report.model.side_costs import Beside, beside


@dataclass(frozen=True, kw_only=True)
class ReportModel:
    """A report as data.

    Args:
        judged: The verdicts, or None where nothing can be compared.
        costs: What stands beside the rows.
        seen: The first screen.
        given: The answers of rows whose predictions are stored.
        along: What is shown along sweeps.
        others: The reports beside this one, by the name of their pages.
        about: The purpose of its suite, as the suite's file beside the records has it.
    """

    records: Sequence[Record]
    comparison: Comparison
    judged: Judged | None
    costs: Beside
    seen: Overview
    given: GivenByRow
    along: SweepFindings
    others: Mapping[str, ReportModel] = field(default_factory=dict)
    about: str = ""


def report_model(
    records: Sequence[Record],
    probes: Sequence[ProbeRecord] = (),
    answers: AnswersOf = no_answers,
    reference: str | None = None,
) -> ReportModel:
    """A report of *records*.

    Args:
        records: At least one.
        probes: Of the same methods; they give file sizes and costs.
        answers: Gives the predictions of a run, where they are stored.
        reference: Label of the method to compare with, in place of the declared or the default one.

    Raises:
        LoraBenchError: If two different records have the same run id, or no method has the label of *reference*.
    """
    comparison = compare(records)
    judged = judge_comparison(comparison, records, answers, reference=reference)
    costs = beside(comparison, probes)
    choices = choices_of(comparison, records, answers) if judged is not None and _decided(judged) else ()
    seen = overview(comparison, judged, costs, choices)
    given = given_answers(comparison, answers)
    along = sweep_findings(comparison, answers, judged.analysis if judged is not None else None)
    return ReportModel(
        records=records, comparison=comparison, judged=judged, costs=costs, seen=seen, given=given, along=along
    )


def side_by_side(models: Mapping[str, ReportModel]) -> dict[str, ReportModel]:
    """The models of pages in one folder, each with the others."""
    return {
        name: replace(model, others={other: of for other, of in models.items() if other != name})
        for name, model in models.items()
    }


def _decided(judged: Judged) -> bool:
    """Tell if enough is shown for a headline to name a method."""
    verdicts = [contrast.verdict for contrast in contrasts_of(judged)]
    return any(one.verdict != "inconclusive" or one.unless_collapse is not None for one in verdicts)
