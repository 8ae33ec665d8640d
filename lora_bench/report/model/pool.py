"""Records of several suites as one analysis: every pair of methods over tasks and base models.

    suites → [Contribution: a pair on a task and base model in one suite] → [PooledClaim: a pair over the tasks of a scope]

A method is its label with its options, without size and learning rate. Within a suite, runs are compared as in its report,
paired by seed. A pair of runs that stands in several suites counts once, in the first that has it. Differences on the same
task and base model, of other settings or suites, are averaged by their pairs of runs. All claims are one family.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lora_bench.metrics import default_margin
from lora_bench.records.record import Record
from lora_bench.report.model.comparison import ModelTable, Setting, compare
from lora_bench.report.model.judged import not_judged
from lora_bench.report.model.rows import Row, canonical, grouped
from lora_bench.report.model.searches import Searches
from lora_bench.report.model.seed_scores import AnswersOf, Scored, difference_of, scored
from lora_bench.stats.estimate import Interval
from lora_bench.stats.family import holm
from lora_bench.stats.places import OverPlaces, PlaceDifference, over_places
from lora_bench.stats.power import ALPHA

# Label, and the method with its options as canonical JSON.
MethodKey = tuple[str, str]
# Run ids of both methods, by pair.
RunPairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class PooledSuite:
    """The runs of one folder."""

    name: str
    records: Sequence[Record]
    answers: AnswersOf


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """The difference of two methods on one task and base model in one setting of a suite, in points.

    Args:
        first: Method that comes first by name; the difference is positive if it is better.
        pairs: Number of pairs of runs.
    """

    suite: str
    first: MethodKey
    second: MethodKey
    task: str
    model: str
    place: PlaceDifference
    pairs: int


@dataclass(frozen=True, kw_only=True)
class PooledClaim:
    """A pair of methods over the tasks of a base model, or over all.

    Args:
        model: Base model; None for all of them.
        models: Number of base models.
        pairs: Number of pairs of runs.
        interval: Of the whole family at once: each at 1 − alpha / claims.
        p_value: By Holm's procedure over all claims.
    """

    first: str
    second: str
    model: str | None
    models: int
    pairs: int
    found: OverPlaces
    interval: Interval | None
    p_value: float | None

    @property
    def shown(self) -> bool:
        """True if the methods are shown to differ."""
        return self.p_value is not None and self.p_value <= ALPHA


@dataclass(frozen=True, kw_only=True)
class Added:
    """The part of a suite in a pool.

    Args:
        runs: Its results, trials left out.
        shared: Results that other suites of the pool have too.
        places: Its tasks on base models that count.
        pairs: Pairs of runs that count as its own.
        moved: Largest change of a claim's difference without this suite, in points; None if no claim has both.
        alone: Claims that there are only with it.
    """

    suite: str
    runs: int
    shared: int
    places: int
    pairs: int
    moved: float | None
    alone: int


@dataclass(frozen=True, kw_only=True)
class SuitePool:
    """The analysis of several suites.

    Args:
        tasks: Tasks of the claims.
        models: Base models of the claims.
        runs: Results, each run counted once.
        one_task: Number of pairs of methods that were compared on one task only, and have no claim.
        left_out: Rows that do not count, with the reason.
    """

    claims: tuple[PooledClaim, ...]
    tasks: tuple[str, ...]
    models: tuple[str, ...]
    runs: int
    suites: tuple[Added, ...]
    one_task: int
    left_out: tuple[str, ...]


def pool(suites: Sequence[PooledSuite]) -> SuitePool:
    """Pool the runs of suites; a pair of runs that several have counts in the first of them.

    Raises:
        LoraBenchError: If two different records of a suite have the same run id.
    """
    left_out: dict[str, None] = {}
    tables = list(_tables(suites, left_out))
    known: dict[RunPairs, PlaceDifference | None] = {}
    every = list(_contributions(tables, known))
    scopes = _scopes(every)
    claims = _claims(scopes)
    results = {suite.name: {one.run_id for one in suite.records if one.spec.score_on == "test"} for suite in suites}
    in_suites = Counter(run_id for runs in results.values() for run_id in runs)
    added = []
    for suite in suites:
        own = [one for one in every if one.suite == suite.name]
        without = _scopes(list(_contributions([table for table in tables if table.suite != suite.name], known)))
        concerned = {key for key, found in scopes.items() if any(one.suite == suite.name for one in found)}
        moves = [
            abs(_over(without[key]).estimate.value - _over(scopes[key]).estimate.value)
            for key in concerned & without.keys()
        ]
        added.append(
            Added(
                suite=suite.name,
                runs=len(results[suite.name]),
                shared=sum(in_suites[run_id] > 1 for run_id in results[suite.name]),
                places=len({(one.task, one.model) for one in own}),
                pairs=sum(one.pairs for one in own),
                moved=max(moves, default=None),
                alone=len(concerned - without.keys()),
            )
        )
    pairs = grouped(every, lambda one: (one.first, one.second))
    return SuitePool(
        claims=claims,
        tasks=tuple(sorted({task for claim in claims for task in claim.found.tasks})),
        models=tuple(sorted({one.model for found in scopes.values() for one in found})),
        runs=len(in_suites),
        suites=tuple(added),
        one_task=sum(len({one.task for one in found}) == 1 for found in pairs.values()),
        left_out=tuple(left_out),
    )


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The scores of the methods of one suite on a task and base model in one setting."""

    suite: str
    task: str
    model: str
    higher_is_better: bool
    rows: Mapping[MethodKey, Scored]


def _tables(suites: Sequence[PooledSuite], left_out: dict[str, None]) -> Iterator[_Table]:
    """Yield the tables of every suite; what cannot count goes to *left_out*."""
    # Tasks with the same data, such as sst2 and sst2_by_sentence, share their test items: they are one.
    names: dict[str, str] = {}
    for suite in suites:
        if not suite.records:
            left_out[f"{suite.name}: it has no records"] = None
            continue
        comparison = compare(suite.records)
        searches = Searches(comparison)
        for setting in comparison.results:
            task = setting.spec.task
            if setting.search or setting.trials:
                continue
            if why := not_judged(setting) or (
                None if default_margin(task.metric) is not None else "its metric is no share or correlation"
            ):
                left_out[f"{task.name} in {suite.name}: {why}"] = None
                continue
            for table in setting.tables:
                yield _Table(
                    suite=suite.name,
                    task=names.setdefault(task.data_sha256 or task.name, task.name),
                    model=table.model.shown,
                    higher_is_better=bool(task.higher_is_better),
                    rows=_rows(suite, setting, table, searches, left_out),
                )


def _contributions(tables: Sequence[_Table], known: dict[RunPairs, PlaceDifference | None]) -> Iterator[Contribution]:
    """Yield the differences of tables, each pair of runs once; *known* has those that were computed before."""
    counted: set[tuple[str, str]] = set()
    for table in tables:
        for first, second in itertools.combinations(sorted(table.rows), 2):
            sides = table.rows[first], table.rows[second]
            runs, others = ({score.seed: score.run_id for score in side.row.scores} for side in sides)
            seeds = sorted(sides[0].scores.keys() & sides[1].scores.keys())
            new = {seed: pair for seed in seeds if (pair := (runs[seed], others[seed])) not in counted}
            key = tuple(new.values())
            if key not in known:
                one, other = (_of_seeds(side, new) for side in sides)
                known[key] = _difference(one, other, table.higher_is_better)
            if (place := known[key]) is not None:
                counted.update(key)
                yield Contribution(
                    suite=table.suite,
                    first=first,
                    second=second,
                    task=table.task,
                    model=table.model,
                    place=place,
                    pairs=len(key),
                )


def _of_seeds(side: Scored, seeds: Iterable[int]) -> Scored:
    return replace(side, scores={seed: side.scores[seed] for seed in seeds})


def _rows(
    suite: PooledSuite, setting: Setting, table: ModelTable, searches: Searches, left_out: dict[str, None]
) -> dict[MethodKey, Scored]:
    """Return the scores of the methods that stand once in a table."""
    found = grouped(table.rows, _method)
    where = f"on {table.model.shown}, {setting.spec.task.name} in {suite.name}"
    left_out |= {
        f"{name} {where}: it was run at several rates or sizes": None
        for (name, _), rows in found.items()
        if len(rows) > 1
    }
    return {
        method: scored(rows[0], setting, suite.answers, searches.error(rows[0], table, setting))
        for method, rows in found.items()
        if len(rows) == 1
    }


def _method(row: Row) -> MethodKey:
    return row.label, canonical([row.method, {name: value for name, value in row.options.items() if name != row.size}])


def _difference(one: Scored, other: Scored, higher_is_better: bool) -> PlaceDifference | None:
    """Return the first row less the second in points; None without two seeds that differ, whose spread is its error."""
    compared = difference_of(one, other) if len(one.scores) > 1 else ""
    if isinstance(compared, str) or not compared[0].estimate.uncertainties:
        return None
    estimate = compared[0].estimate
    error = max(estimate.uncertainties, key=lambda one: one.standard_error)
    points = 100 if higher_is_better else -100
    return PlaceDifference(value=points * estimate.value, error=100 * error.standard_error, freedom=error.freedom)


Scope = tuple[MethodKey, MethodKey, str | None]


def _scopes(every: Sequence[Contribution]) -> dict[Scope, Sequence[Contribution]]:
    """Return the differences of each claim: of a pair on a base model with two tasks or more, and on all base models."""
    found: dict[Scope, Sequence[Contribution]] = {}
    for (first, second), of_pair in sorted(grouped(every, lambda one: (one.first, one.second)).items()):
        of_models = grouped(of_pair, lambda one: one.model)
        scopes: list[tuple[str | None, Sequence[Contribution]]] = [*of_models.items()]
        if len(of_models) > 1:
            scopes.insert(0, (None, of_pair))
        for model, of_scope in scopes:
            if len({one.task for one in of_scope}) > 1:
                found[first, second, model] = of_scope
    return found


def _over(found: Sequence[Contribution]) -> OverPlaces:
    """Return the mean over places. In a place, errors add up: settings share its test items."""
    places = {}
    for key, here in grouped(found, lambda one: (one.task, one.model)).items():
        total = sum(one.pairs for one in here)
        places[key] = PlaceDifference(
            value=sum(one.pairs * one.place.value for one in here) / total,
            error=sum(one.pairs * one.place.error for one in here) / total,
            freedom=min(one.place.freedom for one in here),
        )
    return over_places(places)


def _claims(scopes: Mapping[Scope, Sequence[Contribution]]) -> tuple[PooledClaim, ...]:
    names = _names({method for first, second, _ in scopes for method in (first, second)})
    pooled = {key: _over(found) for key, found in scopes.items()}
    adjusted = holm([found.estimate.p_value() for found in pooled.values()], ALPHA)
    return tuple(
        PooledClaim(
            first=names[first],
            second=names[second],
            model=model,
            models=len({one.model for one in scopes[first, second, model]}),
            pairs=sum(one.pairs for one in scopes[first, second, model]),
            found=found,
            interval=found.estimate.interval(1 - ALPHA / len(pooled)),
            p_value=one.p_value,
        )
        for ((first, second, model), found), one in zip(pooled.items(), adjusted, strict=True)
    )


def _names(methods: set[MethodKey]) -> dict[MethodKey, str]:
    """Return the labels, with the options that differ where methods share one."""
    found = {}
    for label, keys in grouped(sorted(methods), lambda method: method[0]).items():
        options = {key: {"method": json.loads(key[1])[0], **json.loads(key[1])[1]} for key in keys}
        every = sorted({name for of_key in options.values() for name in of_key})
        differing = [name for name in every if len({canonical(options[key].get(name)) for key in keys}) > 1]
        for key in keys:
            given = ", ".join(f"{name}={canonical(options[key][name])}" for name in differing if name in options[key])
            found[key] = f"{label} ({given})" if given else label
    return found
