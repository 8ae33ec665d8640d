"""A report as one object: what it is made of, and what follows from that, computed when first asked for and once.

Verdicts with test items take most of a report's time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property

from lora_bench.records.probe_record import ProbeRecord
from lora_bench.records.record import Record
from lora_bench.records.spec import TaskSpec
from lora_bench.records.weight_analysis import WeightAnalysis
from lora_bench.report.blocks import Block
from lora_bench.report.model.choose_method import choices_of
from lora_bench.report.model.comparison import Comparison, compare
from lora_bench.report.model.decision import Decision, decide
from lora_bench.report.model.given_answers import GivenByRow, given_answers
from lora_bench.report.model.judged import Judged, judge_comparison
from lora_bench.report.model.overview import Overview, overview
from lora_bench.report.model.plateaus import SweepFindings, sweep_findings
from lora_bench.report.model.seed_scores import AnswersOf, no_answers
from lora_bench.report.model.side_costs import Beside, beside

# From a task, the right answers to its test items and the seeds of their folds, if any: the id and the texts of each item, or
# None if they may not be shown.
TextsOf = Callable[[TaskSpec, Sequence[int], Sequence[int | None]], Sequence[tuple[str, ...]] | None]


def no_texts(task: TaskSpec, references: Sequence[int], seeds: Sequence[int | None] = ()) -> None:
    """Give no texts."""


def no_data(report: Report) -> dict[str, bytes]:
    """Give no files."""
    return {}


@dataclass(frozen=True, eq=False)
class Report:
    """All that the renderings of one report are made of.

    Args:
        records: Records of its runs; none where it shows probes alone.
        name: Name of its page, and of the folder beside it that has its figures.
        probes: Costs of single methods, of which a report may consist.
        answers: Gives the predictions of a run, where they are stored: `lora_bench.records.store.answers_in`.
        reference: Label of the method to compare with, in place of the declared or the default one.
        about: Purpose of the suite, as the suite's file beside the records has it.
        sections: Further sections, such as that of a published table, after the costs.
        data: Gives the files that lie beside the figures, by name: `lora_bench.exchange.data_files`.
        texts: Gives the texts of test items, where they may be shown.
        analysis: Changes of the weights that these runs kept.
        reload_seconds: Seconds after which its page loads itself again, while runs go on; 0 for never.
        beside: Reports in the same folder, by the name of their pages; this one may be among them.
    """

    records: Sequence[Record]
    _: KW_ONLY
    name: str = "report"
    probes: Sequence[ProbeRecord] = ()
    answers: AnswersOf = no_answers
    reference: str | None = None
    about: str = ""
    sections: Sequence[Sequence[Block]] = ()
    data: Callable[[Report], Mapping[str, bytes]] = no_data
    texts: TextsOf = no_texts
    analysis: WeightAnalysis | None = None
    beside: Mapping[str, Report] = field(default_factory=dict)
    reload_seconds: int = 0

    @cached_property
    def comparison(self) -> Comparison:
        """The rows, by setting and base model.

        Raises:
            LoraBenchError: If two different records have the same run id.
        """
        return compare(self.records)

    @cached_property
    def judged(self) -> Judged | None:
        """The verdicts, or None where nothing can be compared.

        Raises:
            LoraBenchError: If no method has the label of the reference.
        """
        return judge_comparison(self.comparison, self.records, self.answers, reference=self.reference)

    @cached_property
    def costs(self) -> Beside:
        """Costs beside the rows."""
        return beside(self.comparison, self.probes)

    @cached_property
    def overview(self) -> Overview:
        """Each method over all its tasks and base models."""
        choose = self.judged is not None and not self.judged.no_result
        choices = choices_of(self.comparison, self.records, self.answers) if choose else ()
        return overview(self.comparison, self.judged, self.costs, choices)

    @cached_property
    def decision(self) -> Decision:
        """The decision of its verdicts."""
        return decide(self.overview, self.records)

    @cached_property
    def given_answers(self) -> GivenByRow:
        """The answers of rows whose predictions are stored."""
        return given_answers(self.comparison, self.answers)

    @cached_property
    def along(self) -> SweepFindings:
        """Findings along sweeps."""
        return sweep_findings(self.comparison, self.answers, self.judged.analysis if self.judged is not None else None)
