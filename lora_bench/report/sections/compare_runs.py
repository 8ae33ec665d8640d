"""Two sets of runs side by side: the same methods on the same tasks and base models, before and after, or here and there.

    runs A, runs B → pairs of rows, what differs between them → one family of verdicts → Markdown

Scores of other data, another metric or another split are not compared. All else that differs between two rows is named beside
their verdict: it is what the verdict is about.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import JsonValue

from lora_bench.errors import LoraBenchError
from lora_bench.records.analysis import Analysis
from lora_bench.records.record import Record
from lora_bench.report.blocks import Block, Heading, SectionAnswer, TextList, wide_table
from lora_bench.report.model import seed_scores
from lora_bench.report.model.comparison import RowPlace, compare, conditions_of, rows_of
from lora_bench.report.model.judged import ends_of
from lora_bench.report.model.overview import SHOWN, shown_verdict, verdict_name
from lora_bench.report.model.rows import Row, canonical, grouped
from lora_bench.report.model.seed_scores import AnswersOf, Compared, Scored, difference_of, scored
from lora_bench.report.sections.method_tables import SHARED
from lora_bench.report.sections.verdicts import numbers, verdict_legend
from lora_bench.report.text import MISSING, change, code, inert, listed, plural, score
from lora_bench.stats import PairedDifference, Verdict
from lora_bench.stats.pooled import with_pooled_spread
from lora_bench.stats.verdict import FEWEST_PAIRS

# What makes two scores scores of the same thing.
SAME_SCORE = ("task.data_sha256", "task.metric", "task.higher_is_better", "score_on")

# The place of the verdict among the cells of `numbers`.
VERDICT = 3
# Of a change the spread is pooled over the comparisons, so that a seed less will do.
FEWEST_OF_A_CHANGE = 3

Place = tuple[str, str, str]


@dataclass(frozen=True)
class RunSet:
    """A set of runs, with its name as a reader should see it, and what gives the predictions of a run."""

    name: str
    records: Sequence[Record]
    answers: AnswersOf


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A row of both sets: second less first."""

    place: Place
    metric: str
    first: Row
    second: Row
    differs: tuple[str, ...]
    difference: PairedDifference
    by_items: bool
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class TwoSets:
    """Two sets side by side: pairs of rows, rows that cannot be compared, with the reason, and rows of one set alone."""

    first: RunSet
    second: RunSet
    pairs: tuple[Pair, ...]
    apart: tuple[str, ...]
    only_first: tuple[Place, ...]
    only_second: tuple[Place, ...]


def hold_against(
    first: RunSet, second: RunSet, settings: Analysis | None = None, *, of_change: bool = False
) -> TwoSets:
    """Compare every row of *second* with that of *first* that has the same task, base model and label.

    All are judged by *settings*, by default at the metrics' own margins, with the records' shares of the error level. With
    *of_change*, *second* is *first* after a change: the spread is pooled over the comparisons, and shares are those of
    *settings*. Raise LoraBenchError if the sets have no row in common.
    """
    rows, others = _rows(first.records), _rows(second.records)
    shared = [place for place in rows if place in others]
    if not shared:
        raise LoraBenchError(
            f"{first.name} and {second.name} share no task, base model and method; "
            f"the first has {_places(rows)}, the second {_places(others)}"
        )
    settings = settings or Analysis(reference=first.name)
    differs = {place: _differing(rows[place], others[place]) for place in shared}
    found: dict[Place, Compared] = {}
    apart: list[str] = []
    for place in shared:
        if unlike := [name for name in SAME_SCORE if name in differs[place]]:
            apart.append(f"{' · '.join(place)}: they differ in {listed(unlike)}")
            continue
        sides = (others[place].row, second.answers), (rows[place].row, first.answers)
        compared = difference_of(*(scored(row, others[place].setting, answers) for row, answers in sides))
        if isinstance(compared, str):
            apart.append(f"{' · '.join(place)}: {compared}")
        else:
            found[place] = compared
    tasks = {place: rows[place].setting.spec.task for place in found}
    if of_change:
        pooled = with_pooled_spread(
            {place: of.difference for place, of in found.items()},
            {place: str(task.metric) for place, task in tasks.items()},
        )
        found = {place: replace(of, difference=pooled[place]) for place, of in found.items()}
    shares = {place: _share(of.difference.pairs, (first, second)) for place, of in found.items()}
    verdicts = seed_scores.judge_rows(
        found,
        collapsed=[place for place, of in found.items() if seed_scores.collapse_seen(of.other, of.one)],
        margin={place: settings.margin_of(task.name, task.metric) for place, task in tasks.items()},
        settings=settings,
        shares=None if of_change else shares,
        risks={place: seed_scores.both_risks(_side(of.one), _side(of.other)) for place, of in found.items()},
        fewest=FEWEST_OF_A_CHANGE if of_change else FEWEST_PAIRS,
    )
    return TwoSets(
        first=first,
        second=second,
        pairs=tuple(
            Pair(
                place=place, metric=str(tasks[place].metric), first=rows[place].row, second=others[place].row,
                differs=differs[place], difference=of.difference, by_items=of.with_items, verdict=verdicts[place],
            )
            for place, of in found.items()
        ),
        apart=tuple(apart),
        only_first=tuple(place for place in rows if place not in others),
        only_second=tuple(place for place in others if place not in rows),
    )  # fmt: skip


def _side(of: Scored) -> tuple[list[Scored], float]:
    return [of], ends_of([(of.setting, of.row)])[of.row.label].excluded


def _share(pairs: int, sets: Sequence[RunSet]) -> float:
    """The share of the error level of so many pairs, where runs stopped at a look: the smaller, if the sets have two rules."""
    rules = {one.analysis.sha256: one.analysis for each in sets for one in each.records if one.analysis is not None}
    return min((rule.share(pairs) for rule in rules.values()), default=1.0)


def two_sets_page(sets: TwoSets) -> list[Block]:
    """Return the page; its answer follows its title."""
    names = f"{inert(sets.second.name)} against {inert(sets.first.name)}"
    found = grouped([pair.verdict for pair in sets.pairs], shown_verdict)
    shown = [(verdict_name(word, found[word]), len(found[word])) for word in (*SHOWN, "inconclusive") if word in found]
    counts = [f"{name} in {number}" for name, number in shown]
    said = (
        f"Of {plural(len(sets.pairs), 'comparison')}, {inert(sets.second.name)} is {listed(counts)}."
        if sets.pairs
        else "No two rows can be compared."
    )
    blocks: list[Block] = [Heading(1, names), SectionAnswer(said)]
    if sets.pairs:
        blocks += [verdict_legend([pair.verdict for pair in sets.pairs]), *_table(sets), *_changes(sets)]
    for title, reasons in (
        ("Not compared", [inert(reason) for reason in sets.apart]),
        (f"Only in {inert(sets.first.name)}", [" · ".join(map(inert, place)) for place in sets.only_first]),
        (f"Only in {inert(sets.second.name)}", [" · ".join(map(inert, place)) for place in sets.only_second]),
    ):
        if reasons:
            blocks += [Heading(2, title), TextList(reasons)]
    return blocks


def _table(sets: TwoSets) -> list[Block]:
    rows = []
    for pair in sets.pairs:
        task, model, label = pair.place
        means = (score(None if row.score is None else row.score.mean) for row in (pair.first, pair.second))
        cells = numbers(pair.verdict, "seeds, items" if pair.by_items else "seeds")
        if not any(pair.difference.differences):
            cells[VERDICT] = "the same, run by run"
        rows.append(
            [
                code(task), inert(model, 80), code(label), str(pair.difference.pairs), *means, *cells,
                _cost(pair, change(pair.first.step_seconds, pair.second.step_seconds)),
                _cost(pair, change(pair.first.train_peak_bytes, pair.second.train_peak_bytes)),
            ]
        )  # fmt: skip
    header = [
        "task", "base model", "method", "seeds", inert(sets.first.name, 40), inert(sets.second.name, 40), "difference",
        "interval", "covers", "verdict", "p", "would decide", "step time", "peak memory",
    ]  # fmt: skip
    said = f"{SHARED} Other work ran on the machine at the time, so the change says little."
    beside = [said] if any(SHARED in cell for row in rows for cell in row[-2:]) else []
    return [*wide_table(header, rows, names=3), *beside]


def _cost(pair: Pair, found: str) -> str:
    beside = False in (pair.first.exclusive, pair.second.exclusive)
    return f"{found}{SHARED}" if beside and found != MISSING else found


def _changes(sets: TwoSets) -> list[Block]:
    items = []
    for differs, pairs in grouped(sets.pairs, lambda pair: pair.differs).items():
        what = listed([code(name) for name in differs]) if differs else "nothing in their specs"
        named = "; ".join(" · ".join(map(inert, pair.place)) for pair in pairs)
        where = "every pair" if len(pairs) == len(sets.pairs) else named
        items.append(f"{where}: {what}.")
    environments = [
        {canonical(record.environment.packages) for record in one.records if record.environment is not None}
        for one in (sets.first, sets.second)
    ]
    if environments[0] != environments[1]:
        items.append("The versions of packages: see the records.")
    return [Heading(2, "What differs"), TextList(items)]


def _rows(records: Sequence[Record]) -> dict[Place, RowPlace]:
    """Every row that is a result, by task, base model and label; a place that several rows share is left out as ambiguous."""
    results = (setting for setting in compare(records).settings if not (setting.search or setting.trials))
    found = grouped(rows_of(results), lambda one: (one.setting.spec.task.name, one.table.model.shown, one.row.label))
    return {place: rows[0] for place, rows in found.items() if len(rows) == 1}


def _differing(first: RowPlace, second: RowPlace) -> tuple[str, ...]:
    """Return the fields in which two rows differ, by dotted name."""
    sides: list[dict[str, JsonValue]] = [
        {
            **conditions_of(one.setting.spec, one.setting.budget),
            **{f"method.{name}": value for name, value in one.row.options.items()},
            "training.learning_rate": one.row.learning_rate,
            "training.head_learning_rate": one.row.head_learning_rate,
            "model.sha256": one.table.model.sha256,
        }
        for one in (first, second)
    ]
    names = sorted(sides[0].keys() | sides[1].keys())
    return tuple(name for name in names if canonical(sides[0].get(name)) != canonical(sides[1].get(name)))


def _places(rows: dict[Place, RowPlace]) -> str:
    named = [" · ".join(place) for place in rows]
    return listed([*named[:3], *([f"{len(named) - 3} more"] if len(named) > 3 else [])]) or "no results"
