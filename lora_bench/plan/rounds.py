"""Add seeds until every comparison is decided: which runs of a suite are known, by the records at hand.

A round gives the comparisons that are still open the seeds of the next look (`stats.looks`), and ends when all of these have
records. The verdicts of a round are made from its own seeds alone, so the runs that follow depend on nothing but records: a
resumed command, several at one folder and a cluster plan the same.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_bench.plan.cell import Cell, Waiting
from lora_bench.records.analysis import Analysis, UntilDecided
from lora_bench.records.record import Record
from lora_bench.records.store import answers_in
from lora_bench.report.model.comparison import compare
from lora_bench.report.model.judged import Held, judge_comparison
from lora_bench.suite.load_suite import Suite

# The place of a cell.
_Key = tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """The runs of a suite by the rounds so far, those of later rounds, and the ids of runs whose record decides nothing."""

    cells: tuple[Cell, ...]
    waiting: tuple[Waiting, ...] = ()
    untried: frozenset[str] = field(default_factory=frozenset)
    decided: tuple[str, ...] = ()


def rounds_of(
    suite: Suite, runs: Path, cells: Sequence[Cell], *, known: bool, untried: Callable[[Record], bool]
) -> Rounds:
    """Return the runs that are known, by the verdicts on the seeds so far. With fixed seeds all are.

    *cells* are those of every seed that the suite may have, and the trials. While a learning rate waits for its trials, not all
    are *known*, and no round ends. *untried* returns True if a record decides nothing, because its run must be repeated.
    """
    seeds, analysis = suite.content.seeds, suite.analysis
    if not isinstance(seeds, UntilDecided) or analysis is None:
        return Rounds(cells=tuple(cells))
    groups: dict[_Key, list[Cell]] = {}
    for cell in cells:
        if not cell.job.trial:
            groups.setdefault(cell.place, []).append(cell)
    reached = dict.fromkeys(groups, seeds.at_least)
    # A method that cannot run has a row, and nothing to decide.
    going = [key for key, group in groups.items() if group[0].reason is None]
    repeated: set[str] = set()
    decided: list[str] = []
    for look, following in zip(seeds.looks, (*seeds.looks[1:], None), strict=True):
        reached.update(dict.fromkeys(going, look))
        asked = [cell for key in going for cell in groups[key][:look]]
        repeated |= {cell.job.run_id for cell in asked if cell.record is not None and untried(cell.record)}
        if not known or following is None or any(cell.record is None or cell.job.run_id in repeated for cell in asked):
            break
        # Methods that were decided at an earlier look are judged with the seeds that they had then.
        records = [cell.record for key, group in groups.items() for cell in group[: reached[key]] if cell.record]
        open_ones, closed = _verdicts(records, analysis, runs, {key: groups[key] for key in going})
        decided += _sentences(closed, look, analysis)
        going = [key for key in going if key in open_ones]
        more = _minutes(records) + _next_minutes(groups, going, look, following)
        if seeds.minutes is not None and more > seeds.minutes:
            going = []
        if not going:
            break
    by_seed = {id(cell): number for group in groups.values() for number, cell in enumerate(group)}
    kept = [
        cell
        for cell in cells
        # A record that is there is reported, however it came about.
        if cell.job.trial or cell.record is not None or by_seed[id(cell)] < reached[cell.place]
    ]
    later = tuple(cell for key in going for cell in groups[key][reached[key] :] if cell.record is None)
    reason = "the verdicts on the seeds before them, and are left out where these decide"
    waiting = (Waiting(later, reason, None),) if later else ()
    return Rounds(cells=tuple(kept), waiting=waiting, untried=frozenset(repeated), decided=tuple(decided))


def _minutes(records: Iterable[Record]) -> float:
    return sum(record.speed.seconds for record in records if record.speed is not None) / 60


def _next_minutes(groups: Mapping[_Key, Sequence[Cell]], going: Sequence[_Key], look: int, following: int) -> float:
    """Return the time of the runs up to the next look, if each takes what those of its method took so far."""
    so_far = ([cell.record for cell in groups[key][:look] if cell.record is not None] for key in going)
    return sum(_minutes(records) / len(records) * (following - look) for records in so_far if records)


def _verdicts(
    records: Sequence[Record], analysis: Analysis, runs: Path, going: Mapping[_Key, Sequence[Cell]]
) -> tuple[set[_Key], list[Held]]:
    """Return the methods that go on, with the references of open comparisons, and the comparisons that end here."""
    judged = judge_comparison(compare(records), records, answers_in(runs, records), analysis)
    of_run = {cell.job.run_id: key for key, group in going.items() for cell in group}
    open_ones: set[_Key] = set()
    closed = []
    for held in judged.held if judged is not None else ():
        keys = {of_run[run_id] for row in (held.row, held.reference) for run_id in row.run_ids if run_id in of_run}
        if not held.verdict.decides:
            open_ones |= keys
        elif any(run_id in of_run for run_id in held.row.run_ids):
            closed.append(held)
    # A method with several targets' rows goes on while one of these is open.
    return open_ones, [
        held for held in closed if not any(of_run.get(run_id) in open_ones for run_id in held.row.run_ids)
    ]


def _sentences(closed: Sequence[Held], look: int, analysis: Analysis) -> Iterator[str]:
    """Yield what a look decided, one sentence for each method and verdict."""
    found = Counter((held.row.label, held.verdict.verdict, held.verdict.unless_collapse) for held in closed)
    for (label, verdict, unless), count in found.items():
        where = {
            f"{held.setting.spec.task.name} on {held.table.model.shown}" for held in closed if held.row.label == label
        }
        place = f"for {next(iter(where))}" if count == 1 and len(where) == 1 else f"in {count} comparisons"
        said = f"{verdict} {'to' if verdict in ('equivalent', 'non-inferior') else 'than'}"
        if verdict == "inconclusive":
            said = f"{unless} (if no run collapses) to"
        yield f"decided with {look} seeds: {label} is {said} {analysis.reference} {place}"
