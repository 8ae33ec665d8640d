"""A report as one object: what it is made of, and what follows from that, computed when first asked for and once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from typing import Literal, get_args

from lora_bench.records.probe_record import ProbeRecord
from lora_bench.records.record import Record
from lora_bench.records.spec import RunSpec, TaskSpec
from lora_bench.records.weight_analysis import WeightAnalysis
from lora_bench.report.blocks import Block
from lora_bench.report.figures.plan import Form
from lora_bench.report.model.choose_method import STORAGE, choices_of
from lora_bench.report.model.comparison import Comparison, compare
from lora_bench.report.model.given_answers import GivenByRow, given_answers
from lora_bench.report.model.judged import Judged, judge_comparison
from lora_bench.report.model.overview import DECIDED, SHOWN, Line, Overview, overview
from lora_bench.report.model.plateaus import SweepFindings, sweep_findings
from lora_bench.report.model.pool import SuitePool, pool
from lora_bench.report.model.reference import NOTHING_ASKED, Question
from lora_bench.report.model.searches import Beside, GivenCosts, beside
from lora_bench.report.model.seed_scores import AnswersOf, no_answers
from lora_bench.report.sections.improving import unfinished_runs
from lora_bench.stats.apart import least_p
from lora_bench.stats.verdict import FEWEST_PAIRS, Grade
from lora_bench.stats.verdict import grade as grade_of

# From a task, the right answers to its test items and the seeds of their folds, if any: the id and the texts of each item, or
# None if they may not be shown.
TextsOf = Callable[[TaskSpec, Sequence[int], Sequence[int | None]], Sequence[tuple[str, ...]] | None]

# "partly": some comparisons are decided.
Level = Grade | Literal["partly", "undecided"]
Why = Literal["seeds", "collapses"] | None


def no_texts(task: TaskSpec, references: Sequence[int], seeds: Sequence[int | None] = ()) -> None:
    """Give no texts."""


def no_data(report: "Report") -> dict[str, bytes]:
    """Give no files."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The decision of a report, without words: the headline, the next step and `Outcome.winner` read it.

    Args:
        level: Strength of what is shown; None where nothing was judged.
        taken: The method to take; None where nothing was judged, runs learned nothing, or tables share no methods.
        why: Reason that nothing is shown: too few seeds for a verdict, or collapses; None for neither.
        improving: Number of runs that were still improving when their budget ended, of those that ended with a score.
        capped: Number of runs that were trained until a plateau, and ended by their cap before they reached one.
    """

    level: Level | None = None
    taken: Line | None = None
    why: Why = None
    improving: int
    capped: int
    ended: int

    @property
    def winner(self) -> str | None:
        """Label of the method to take, or None."""
        return None if self.taken is None else self.taken.label

    @property
    def all_shown(self) -> bool:
        """Whether every comparison is decided."""
        return self.level in get_args(Grade)

    @property
    def share_unfinished(self) -> float:
        """Share of the runs that were still improving, or ended by their cap."""
        return (self.improving + self.capped) / max(self.ended, 1)


def _decide(overview: Overview) -> Decision:
    improving, capped, ended = unfinished_runs(overview.comparison)
    nothing = Decision(improving=improving, capped=capped, ended=ended)
    if overview.judged is None or not overview.contrasts:
        return nothing
    label = overview.taken.label if overview.taken is not None else None
    taken = next((line for line in overview.methods if line.label == label), None)
    if not any(contrast.shown in SHOWN for contrast in overview.contrasts):
        verdicts = [contrast.verdict for contrast in overview.contrasts]
        few = max(verdict.pairs for verdict in verdicts) < FEWEST_PAIRS
        # Collapsed runs keep the least p after Holm's procedure above the error level in every comparison.
        out_of_reach = all(one.apart and one.family * least_p(one.pairs) > one.alpha for one in verdicts)
        why: Why = "seeds" if few else "collapses" if out_of_reach else None
        return replace(nothing, level="undecided", taken=taken, why=why)
    decided = [contrast.shown in DECIDED for contrast in overview.contrasts]
    grade = grade_of(min(contrast.verdict.pairs for contrast in overview.contrasts))
    level: Level = grade if all(decided) else "partly" if any(decided) else "undecided"
    return replace(nothing, level=level, taken=taken)


@dataclass(frozen=True, eq=False)
class Report:
    """All that the renderings of one report are made of.

    Args:
        records: Records of its runs; none where it shows probes alone.
        name: Name of its page, and of the folder beside it that has its figures.
        probes: Costs of single methods, of which a report may consist.
        answers: Gives the predictions of a run, where they are stored: `lora_bench.records.store.answers_in`.
        undone: Specs of runs that were planned or begun and have no record: the work was stopped before their end.
        reference: Label of the method to compare with, in place of the declared or the default one.
        asked: A reader's margin and error level, in place of the declared ones.
        about: Purpose of the suite, as the suite's file beside the records has it.
        sections: Further sections, such as that of a published table, after the costs.
        data: Gives the files that lie beside the figures, by name: `lora_bench.exchange.data_files`.
        texts: Gives the texts of test items, where they may be shown.
        analysis: Changes of the weights that these runs kept.
        reload_seconds: Seconds after which its page loads itself again, while runs go on; 0 for never.
        given_costs: Costs of runs of which nothing but scores is known else.
        latex: Whether its tables are written as LaTeX too.
        figures: Format of its figures; beside PDF stands SVG, which a page shows.
        beside: Reports in the same folder, by the name of their pages; this one may be among them.
    """

    records: Sequence[Record]
    _: KW_ONLY
    name: str = "report"
    probes: Sequence[ProbeRecord] = ()
    answers: AnswersOf = no_answers
    undone: Sequence[RunSpec] = ()
    reference: str | None = None
    asked: Question = NOTHING_ASKED
    about: str = ""
    sections: Sequence[Sequence[Block]] = ()
    data: Callable[["Report"], Mapping[str, bytes]] = no_data
    texts: TextsOf = no_texts
    analysis: WeightAnalysis | None = None
    beside: Mapping[str, "Report"] = field(default_factory=dict)
    given_costs: GivenCosts | None = None
    reload_seconds: int = 0
    latex: bool = False
    figures: Form = "svg"

    @cached_property
    def comparison(self) -> Comparison:
        """The rows, by setting and base model; LoraBenchError if two different records have the same run id."""
        return compare(self.records)

    @cached_property
    def judged(self) -> Judged | None:
        """The verdicts, or None where nothing can be compared; LoraBenchError as `judge_comparison`."""
        return judge_comparison(self.comparison, self.records, self.answers, reference=self.reference, asked=self.asked)

    @cached_property
    def costs(self) -> Beside:
        """Costs beside the rows."""
        return beside(self.comparison, self.probes, self.given_costs)

    @cached_property
    def overview(self) -> Overview:
        """Each method over all its tasks and base models."""
        choose = self.judged is not None and not self.judged.no_result and not self.comparison.single_runs
        margin, prefer = self.asked.margin, self.given_costs or STORAGE
        choices = (
            choices_of(self.comparison, self.records, self.answers, margin=margin, prefer=prefer) if choose else ()
        )
        if self.comparison.scores_alone:
            # In a stranger's table a method may stand alone on a task, which is no choice.
            choices = tuple(choice for choice in choices if len(choice.rows) > 1)
        return overview(self.comparison, self.judged, self.costs, choices)

    @cached_property
    def decision(self) -> Decision:
        """The decision of its verdicts."""
        return _decide(self.overview)

    @cached_property
    def pooled(self) -> SuitePool | None:
        """Each method less the reference on new tasks, where nothing but scores is known; None without such a claim.

        Tasks on which all agree to the last digit are copies of one, and speak for no others.
        """
        if not self.comparison.scores_alone or self.judged is None:
            return None
        found = pool([self], reference=self.judged.analysis.reference, alpha=self.judged.analysis.alpha)
        return found if any(len({*claim.found.tasks.values()}) > 1 for claim in found.claims) else None

    @cached_property
    def given_answers(self) -> GivenByRow:
        """The answers of rows whose predictions are stored."""
        return given_answers(self.comparison, self.answers)

    @cached_property
    def along(self) -> SweepFindings:
        """Findings along sweeps."""
        return sweep_findings(self.comparison, self.answers, self.judged.analysis if self.judged is not None else None)
