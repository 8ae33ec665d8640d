"""Judge anybody's scores: a table of methods, tasks, seeds and scores becomes a report, by the statistics that reports have.

    from lora_bench import judge

    print(judge("scores.csv").answer)

Formats are in `score_files`. No torch is imported. Nothing but scores is known of such runs: reports are silent on all else.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lora_bench.errors import LoraBenchError, unknown
from lora_bench.exchange.scores.collect import Run, Scale, TaskFacts, collect
from lora_bench.exchange.scores.columns import AskedColumns
from lora_bench.exchange.scores.doubts import copies, equal_methods, unlike_training
from lora_bench.exchange.scores.score_files import sources_of
from lora_bench.exchange.scores.single_runs import single_runs_section
from lora_bench.records.record import DataSummary, Record
from lora_bench.records.spec import SCORES_ALONE, MethodSpec, ModelSpec, RunSpec, TaskSpec, TrainingSpec
from lora_bench.records.store import Answers
from lora_bench.report.blocks import Block, Heading, TextList, answers
from lora_bench.report.figures.plan import Form
from lora_bench.report.model.reference import Question
from lora_bench.report.model.report import Report
from lora_bench.report.model.searches import GivenCosts
from lora_bench.report.sections.first_screen import answer_card, answer_text
from lora_bench.report.text import natural, plural, prose, unmarked
from lora_bench.stats.power import ALPHA

if TYPE_CHECKING:
    import pandas

# The task of scores that name none.
NO_TASK = "scores"


@dataclass(frozen=True, eq=False, repr=False)
class Judgement:
    """What scores show; a notebook shows its answer. *said* has a sentence on each guess, and on what was left out."""

    report: Report
    said: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The first words of the report, as text."""
        before = [unmarked(found) for section in self.report.sections for found in answers(section)]
        return "\n\n".join([*before, answer_text(self.report)])

    @property
    def winner(self) -> str | None:
        """Label of the method to take, or None where none is, as with single runs."""
        return self.report.decision.winner

    @property
    def verdicts(self) -> pandas.DataFrame:
        """Scores, places and verdicts, one row a method on a task and base model."""
        from lora_bench.report.frames.verdict_frame import to_comparison_frame

        return to_comparison_frame(self.report.comparison, self.report.judged, self.report.costs)

    def write_report(self, folder: str | Path, *, latex: bool = False, figures: Form = "svg") -> list[Path]:
        """Write the report as Markdown and as a page, its tables also as LaTeX if asked for; return the files written."""
        from lora_bench.report import write_report

        return write_report(replace(self.report, latex=latex, figures=figures), Path(folder))

    def _repr_html_(self) -> str:
        return answer_card(self.report)


def judge(
    *scores: Any,
    score: str | Sequence[str] | None = None,
    scale: Scale | None = None,
    reference: str | None = None,
    margin: float | None = None,
    alpha: float | None = None,
    **columns: Any,
) -> Judgement:
    """Judge scores of methods.

    Args:
        scores: Files, folders of them, data frames, lists of dicts or dicts of lists, with a row for each score, or for each
            result on a test item.
        score: Column of the score, or columns of several tasks; guessed by its name, as all columns that are not given.
        scale: "share" of 1, "percent", or "own" for a unit of its own.
        reference: Label of the method to compare with; full fine-tuning or LoRA, or the first, by default.
        margin: Difference that does not matter; half a point of shares by default, and none for other scores.
        alpha: Error level of each family of claims; 0.05 by default.
        columns: Names of the columns *method*, *task*, *base_model*, *seed*, *item* and *cost*, and whether *lower_is_better*.

    Raises:
        BadInput: With a line for each fault, with file, line and column.
        LoraBenchError: If there is no such column or method, or no column that can be meant.
    """
    if scale not in (None, *get_args(Scale)):
        raise unknown("scale", str(scale), get_args(Scale))
    if not scores:
        raise LoraBenchError("there is nothing to judge; give a file or a data frame")
    asked = AskedColumns(score=(score,) if isinstance(score, str) else tuple(score or ()), **columns)
    sources = sources_of(scores, asked)
    runs, facts, cost, folds, said = collect(sources, scale)
    name = Path(scores[0]).stem if isinstance(scores[0], str | Path) else ""
    name += f" and {plural(len(scores) - 1, 'other')}" if name and len(scores) > 1 else ""
    records = _records(runs, facts, folds, name or NO_TASK)
    doubts = [*unlike_training(sources), *copies(runs), *equal_methods(runs)]
    sections: list[list[Block]] = [
        single_runs_section(runs, facts, alpha or ALPHA),
        [Heading(2, "Where the scores come from"), *doubts, TextList([f"{prose(line)}." for line in said])],
    ]
    stored = {record.run_id: run for record, run in zip(records, runs, strict=True)}
    costs = {run_id: run.cost for run_id, run in stored.items() if run.cost is not None}

    def results(run_id: str) -> Answers | None:
        items, metric = stored[run_id].items, facts[stored[run_id].task].metric
        nothing = [""] * (0 if items is None else len(items))
        return None if items is None else Answers(nothing, nothing, item_scores={metric: items.tolist()})

    report = Report(
        records, name="judge", answers=results, reference=reference, asked=Question(margin, alpha), sections=sections,
        given_costs=GivenCosts(cost, costs) if costs else None,
    )  # fmt: skip
    return Judgement(report, tuple(said))


def _records(runs: Sequence[Run], facts: Mapping[str, TaskFacts], folds: int | None, name: str) -> list[Record]:
    """Return the records of runs, in which all is unknown but names and scores; those of one task share its spec.

    If each seed tests one of several *folds*, training rows overlap, and tests allow for it.
    """
    nothing = {key: None for key, of in TrainingSpec.model_fields.items() if of.is_required()}
    training = TrainingSpec.model_validate({**nothing, "arguments": {}})
    definition = None if folds is None else {"split": {"folds": folds}}
    unknown_task: dict[str, Any] = {"definition": definition, "data_sha256": None, "labels": None}
    of_fold = {"examples": {"train": (folds or 0) - 1, "test": 1}, "truncated_share": None, "majority_score": None}
    data = DataSummary.model_validate(of_fold) if folds is not None and folds > 1 else None
    tasks = {
        task: TaskSpec(name=task or NO_TASK, metric=of.metric, higher_is_better=of.higher_is_better, **unknown_task)
        for task, of in facts.items()
    }
    models = {
        shown: ModelSpec(name=shown, shown=shown, sha256=None, revision=None, model_type=None)
        for shown in {run.base_model for run in runs}
    }
    methods = {
        label: MethodSpec(name=label, label=label, size=None, options={}, chosen={})
        for label in {run.method for run in runs}
    }
    seeds = {run.seed for run in runs if run.seed is not None}
    seed_of: Callable[[str], int] = int
    if not all(name.removeprefix("-").isdecimal() for name in seeds):
        # Words have the numbers of their order.
        seed_of = {name: number for number, name in enumerate(sorted(seeds, key=natural))}.__getitem__

    def record(run: Run) -> Record:
        named = "\n".join([run.task, run.base_model, run.method, str(run.seed)])
        spec = RunSpec(
            task=tasks[run.task], model=models[run.base_model], method=methods[run.method], training=training,
            seed=None if run.seed is None else seed_of(run.seed), protocol=None, score_on=None, keep_weights=None, rules=None,
            source=SCORES_ALONE,
        )  # fmt: skip
        known = run.score is not None
        return Record(
            run_id=hashlib.sha256(named.encode()).hexdigest()[:16], suite=name, status="ok" if known else "failed",
            reason=None if known else "the table has no score", spec=spec, budget=None, command=None, data=data,
            scores={str(spec.task.metric): run.score} if run.score is not None else None,
        )  # fmt: skip

    # All records stay, so looking for garbage among them finds none, and took a third of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return [*map(record, runs)]
    finally:
        if collecting:
            gc.enable()
