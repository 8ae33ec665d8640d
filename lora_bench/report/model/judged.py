"""Verdicts from the rows of a comparison: each method against the reference, on each task and base model.

    Comparison + declaration → family of paired differences → [Held: a row, its reference, the verdict]

All comparisons are one family, those of means over tasks a second, and those of two methods other than the reference a third,
for ranks alone. Searches, and protocols that choose on the reported split, are left out: their own scores may have chosen
their runs.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

from lora_bench.records.analysis import Analysis
from lora_bench.records.layout import PREDICTIONS
from lora_bench.records.record import Record
from lora_bench.report.model import seed_scores
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting
from lora_bench.report.model.over_tasks import JudgedTable, OverTasks, judge_over_tasks
from lora_bench.report.model.ranking import Contest, Rank, rank_all
from lora_bench.report.model.reference import NOTHING_ASKED, Question, undeclared_analysis, with_reference
from lora_bench.report.model.rows import Row, fallen_runs, grouped
from lora_bench.report.model.searches import Searches
from lora_bench.report.model.seed_scores import AnswersOf, Scored, no_answers, scored
from lora_bench.stats import PairedDifference, Verdict
from lora_bench.stats.failures import excluded_rate
from lora_bench.stats.verdict import FEWEST_PAIRS

# The share of runs that learned nothing from which on more work comes before more seeds.
LEARNED_LITTLE = 0.25

Declared = Literal["before", "several", "added", "changed", "never"]


@dataclass(frozen=True, kw_only=True)
class Held:
    """A row compared with the reference; the difference is row less reference, as the metric has it.

    *at_floor* is the difference where every run that failed counts as the majority class; None where none failed.
    """

    setting: Setting
    table: ModelTable
    row: Row
    reference: Row
    difference: PairedDifference
    with_items: bool
    at_floor: float | None
    verdict: Verdict


class Ends(NamedTuple):
    """Numbers of runs that were judged: all, those that failed, those of them that diverged, and those that learned nothing.

    The score of the last is less than two standard errors better than a constant answer's.
    """

    runs: int = 0
    failed: int = 0
    diverged: int = 0
    fallen: int = 0

    @property
    def excluded(self) -> float:
        """The rate of collapses that these runs exclude."""
        return excluded_rate(self.diverged + self.fallen, max(1, self.runs - self.failed + self.diverged))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The verdicts of a report.

    Args:
        analysis: The declaration that they follow.
        declared: "before" where the records carry it, and nothing else. "several" where each suite carries one of its own,
            "added" where they carry several that differ in nothing but the seeds, or several fixed numbers of these, "changed"
            where they carry another one, "never" where they carry none.
        declarations: Number of different ones that the records carry.
        asked: A reader's margin and error level in place of theirs.
        ranks: Rank of every row that was held and of the references, among the rows of its table.
        over_tasks: Every base model and target over tasks, where there are several: a family of its own.
        left_out: Rows that are not judged, with the reason.
        lost: Runs whose stored predictions are missing, so that intervals do not cover new test items.
    """

    comparison: Comparison
    analysis: Analysis
    declared: Declared
    declarations: int
    asked: Question
    held: tuple[Held, ...]
    ranks: tuple[tuple[Row, Rank], ...]
    over_tasks: tuple[OverTasks, ...]
    left_out: tuple[str, ...]
    lost: tuple[str, ...] = ()

    def of(self, row: Row) -> Held | None:
        """Return the comparison of a row, or None for the reference and rows that are not judged."""
        return next((held for held in self.held if held.row is row), None)

    def rank_of(self, row: Row) -> Rank | None:
        """Return the rank of a row in its table, or None where it has none."""
        return next((rank for ranked, rank in self.ranks if ranked is row), None)

    def ranks_of(self, label: str, rows: Sequence[Row]) -> list[Rank]:
        """Return the ranks of a method over tasks on each base model, or without such those of its *rows*."""
        found = [one.rank for group in self.over_tasks for one in group.methods if one.label == label]
        return [rank for rank in (found if self.over_tasks else map(self.rank_of, rows)) if rank is not None]

    @property
    def learned_little(self) -> bool:
        """Whether so many runs learned nothing that more work helps before more seeds."""
        return self.all_ends.fallen >= LEARNED_LITTLE * max(1, self.all_ends.runs)

    @property
    def no_result(self) -> bool:
        """Whether so many runs learned nothing, some of every method, and nothing is decided: then no method is named."""
        sound = any(ends.runs > ends.failed and not ends.fallen for ends in self.ends.values())
        return self.learned_little and not sound and not any(verdict.decides for verdict in self.verdicts)

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdicts on which an answer rests: those on means over tasks where there are any."""
        across = [one.verdict for group in self.over_tasks for one in group.methods if one.verdict is not None]
        return tuple(across or (held.verdict for held in self.held))

    @cached_property
    def ends(self) -> dict[str, Ends]:
        """The ends of the runs of each method, by label; runs of a reference count once."""
        return ends_of((held.setting, row) for held in self.held for row in (held.row, held.reference))

    @cached_property
    def all_ends(self) -> Ends:
        """The ends of the runs of all methods."""
        return Ends(*map(sum, zip(*self.ends.values(), strict=True)))


def judge_comparison(
    comparison: Comparison,
    records: Sequence[Record],
    answers: AnswersOf = no_answers,
    analysis: Analysis | None = None,
    reference: str | None = None,
    asked: Question = NOTHING_ASKED,
) -> Judged | None:
    """Return the verdicts on a comparison, or None if nothing can be compared.

    *analysis* stands in place of the declaration of the records, *reference* of its label of the method to compare with,
    *asked* of its margin and error level. Raise LoraBenchError if no method has this label, or the margin cannot be one of
    these scores.
    """
    carried = {record.analysis.sha256: record.analysis for record in records if record.analysis is not None}
    number = Counter(record.analysis.sha256 for record in records if record.analysis is not None)
    most = max(sorted(carried), key=lambda sha256: number[sha256], default="")
    chosen = analysis or carried.get(most) or undeclared_analysis(comparison)
    if reference is not None:
        chosen = with_reference(chosen, reference, records)
    if chosen is None:
        return None
    declared = _declared(carried, chosen, records)
    declarations = max(len(carried), _fixed_numbers(records))
    chosen, asked = asked.of(chosen, comparison)
    if declared == "added":
        chosen = chosen.paying(declarations)
    left_out: dict[str, None] = {}
    tables = _tables(comparison, chosen, answers, left_out)
    if not any(table.found for table in tables):
        return None
    ends = ends_of((one.setting, one.scored[at].row) for one in tables for at in (one.reference, *one.found))
    excluded = {label: of.excluded for label, of in ends.items()}
    tables = _with_verdicts(tables, chosen, excluded)
    return Judged(
        comparison=comparison,
        analysis=chosen,
        declared=declared,
        declarations=declarations,
        asked=asked,
        held=tuple(_held(table, place) for table in tables for place in table.verdicts),
        ranks=tuple(_ranks(tables, chosen)),
        over_tasks=judge_over_tasks(tables, chosen, excluded),
        left_out=tuple(left_out),
        lost=_lost(tables, records, answers),
    )


def ends_of(places: Iterable[tuple[Setting, Row]]) -> dict[str, Ends]:
    """Return the ends of the runs of each method, by label; runs that are in several places count once."""
    rows = {row.run_ids: (setting, row) for setting, row in places}
    return {
        label: Ends(
            runs=sum(len(row.run_ids) for _, row in found),
            failed=sum(len(row.failures) for _, row in found),
            diverged=sum(failure.status == "diverged" for _, row in found for failure in row.failures),
            fallen=sum(fallen_runs(row, of.spec.task.higher_is_better, row.least_learned) for of, row in found),
        )
        for label, found in grouped(rows.values(), lambda one: one[1].label).items()
    }


def _declared(carried: Mapping[str, Analysis], chosen: Analysis, records: Sequence[Record]) -> Declared:
    if not carried:
        return "never"
    if chosen.sha256 in carried and all(r.analysis is not None for r in records if r.spec.score_on == "test"):
        of_suites = {(record.suite, record.analysis.sha256) for record in records if record.analysis is not None}
        if len(carried) > 1 and len({suite for suite, _ in of_suites}) == len(of_suites):
            return "several"
        if len(carried) == 1:
            return "before" if _fixed_numbers(records) < 2 else "added"
        if len({one.model_copy(update={"seeds": None}).sha256 for one in carried.values()}) == 1:
            return "added"
    return "changed"


def _fixed_numbers(records: Sequence[Record]) -> int:
    """Count the fixed numbers of seeds that one suite had and that are enough for a verdict: each was a look."""
    of_suite: dict[str, set[int]] = {}
    for record in records:
        number = record.analysis.fixed_seeds if record.analysis is not None else None
        if number is not None and number >= FEWEST_PAIRS:
            of_suite.setdefault(record.suite, set()).add(number)
    return max(map(len, of_suite.values()), default=0)


def _tables(
    comparison: Comparison, analysis: Analysis, answers: AnswersOf, left_out: dict[str, None]
) -> list[JudgedTable]:
    """Return the tables in which the reference was run; others go to *left_out* with the reason."""
    found = []
    searches = Searches(comparison)
    for setting in comparison.settings:
        if setting.search or setting.trials:
            continue  # trials, which choose and are no results
        if reason := not_judged(setting):
            left_out[f"{setting.spec.task.name}: {reason}"] = None
            continue
        for table in setting.tables:
            place = next((place for place, row in enumerate(table.rows) if row.label == analysis.reference), None)
            where = f"on {', '.join(filter(None, (table.model.shown, setting.spec.task.name)))}"
            if place is None:
                missing = (f"{row.label} {where}: {analysis.reference} was not run there" for row in table.rows)
                left_out.update(dict.fromkeys(missing))
                continue
            rows = [scored(row, setting, answers, searches.error(row, table, setting)) for row in table.rows]
            found.append(_compared(setting, table, rows, place, left_out, where))
    return found


def _compared(
    setting: Setting, table: ModelTable, rows: Sequence[Scored], reference: int, left_out: dict[str, None], where: str
) -> JudgedTable:
    differences = {}
    for place, one in enumerate(rows):
        difference = seed_scores.difference_of(one, rows[reference]) if place != reference else None
        if isinstance(difference, str):
            left_out[f"{one.row.label} {where}: {difference}"] = None
        elif difference is not None:
            differences[place] = difference
    return JudgedTable(setting=setting, table=table, scored=rows, reference=reference, found=differences)


def _lost(tables: Sequence[JudgedTable], records: Sequence[Record], answers: AnswersOf) -> tuple[str, ...]:
    """Return the runs of the tables whose record names predictions that *answers* does not have."""
    if answers is no_answers:
        return ()
    stored = {record.run_id: record.predictions for record in records}
    named = {run_id for run_id, kept in stored.items() if kept is not None and kept.file == PREDICTIONS}
    return tuple(
        score.run_id
        for table in tables
        if seed_scores.has_items(table.setting)
        for one in table.scored
        if one.items is None
        for score in one.row.scores
        if score.run_id in named and answers(score.run_id) is None
    )


def not_judged(setting: Setting) -> str | None:
    """Return the reason that the scores of a setting are not judged, or None where they are."""
    rules = setting.spec.rules
    if rules is not None and rules.choose_on != "selection":
        return "its protocol chooses on the split that it reports"
    if setting.spec.task.higher_is_better is None:
        return "no record says whether a higher or a lower score is better"
    return None


def _with_verdicts(
    tables: Sequence[JudgedTable], analysis: Analysis, excluded: Mapping[str, float]
) -> list[JudgedTable]:
    """Judge the whole family: comparisons with a margin and those without have one error level."""
    family = {(number, place): of for number, table in enumerate(tables) for place, of in table.found.items()}
    tasks = {key: of.one.setting.spec.task for key, of in family.items()}
    found = seed_scores.judge_rows(
        family,
        margin={key: analysis.margin_of(task.name, task.metric) for key, task in tasks.items()},
        settings=analysis,
        risks={
            key: seed_scores.both_risks(*(([side], excluded[side.row.label]) for side in (of.one, of.other)))
            for key, of in family.items()
        },
    )
    return [
        replace(table, verdicts={place: found[number, place] for place in table.found})
        for number, table in enumerate(tables)
    ]


def _held(table: JudgedTable, place: int) -> Held:
    of = table.found[place]
    return Held(
        setting=table.setting,
        table=table.table,
        row=of.one.row,
        reference=of.other.row,
        difference=of.difference,
        with_items=of.with_items,
        at_floor=seed_scores.at_floor(of.one.row, of.other.row),
        verdict=table.verdicts[place],
    )


def _ranks(tables: Sequence[JudgedTable], analysis: Analysis) -> Iterator[tuple[Row, Rank]]:
    """Yield the ranks of the judged rows and of the references, each among those of its table."""
    # Where the family of verdicts is one in which runs stand apart, that of the other pairs is too.
    apart = all(verdict.apart for table in tables for verdict in table.verdicts.values())
    entered = [[table.scored[place] for place in (table.reference, *table.found)] for table in tables]

    def contest(table: JudgedTable, rows: Sequence[Scored]) -> Contest:
        return Contest(
            means=[one.row.score.mean if one.row.score is not None else 0.0 for one in rows],
            sign=table.setting.sign,
            verdicts=[*table.verdicts.values()],
            compare=lambda: seed_scores.all_gains_and_p(rows[1:], analysis, apart=apart),
        )

    contests = [contest(table, rows) for table, rows in zip(tables, entered, strict=True)]
    for rows, ranks in zip(entered, rank_all(contests, analysis.alpha), strict=True):
        yield from ((one.row, rank) for one, rank in zip(rows, ranks, strict=False))
