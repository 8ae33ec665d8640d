"""Records of several suites as one analysis: every pair of methods over tasks and base models.

    suites → [Contribution: a pair on a task and base model in one suite] → [PooledClaim: a pair over the tasks of a scope]

A method is its label with its options, without size and learning rate. Within a suite, runs are compared as in its report. A
pair of runs that stands in several suites counts in the first that has it. See docs/statistics.md#several-suites.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from lora_bench.metrics import default_margin
from lora_bench.report.model.judged import not_judged
from lora_bench.report.model.rows import Row, canonical, grouped
from lora_bench.report.model.searches import Searches
from lora_bench.report.model.seed_scores import Scored, difference_of, scored
from lora_bench.stats.estimate import Interval
from lora_bench.stats.family import holm
from lora_bench.stats.places import OverPlaces, PlaceDifference, over_places
from lora_bench.stats.power import ALPHA

if TYPE_CHECKING:
    from lora_bench.report.model.report import Report

# Label, and the method with its options as canonical JSON.
MethodKey = tuple[str, str]
# Two methods, and a base model or None for all.
Scope = tuple[MethodKey, MethodKey, str | None]
# Run ids of both methods, by pair, and the difference if it was computed.
Known = dict[tuple[tuple[str, str], ...], PlaceDifference | None]


class PooledTable(NamedTuple):
    """The scores of the methods of one suite on a task and base model in one setting."""

    suite: str
    task: str
    model: str
    higher_is_better: bool
    rows: Mapping[MethodKey, Scored]


class Contribution(NamedTuple):
    """The difference of two methods in a table in points, positive if the first is better, over so many pairs of runs."""

    table: PooledTable
    first: MethodKey
    second: MethodKey
    place: PlaceDifference
    pairs: int


@dataclass(frozen=True, kw_only=True)
class PooledClaim:
    """A pair of methods over the tasks of a base model, or over all, where *model* is None.

    *interval* is of the whole family at once: each at 1 − alpha / claims. *p_value* is by Holm's procedure over all claims.
    """

    first: str
    second: str
    model: str | None
    models: int
    pairs: int
    found: OverPlaces
    interval: Interval | None
    p_value: float | None
    alpha: float = ALPHA

    @property
    def shown(self) -> bool:
        """True if the methods are shown to differ."""
        return self.p_value is not None and self.p_value <= self.alpha


@dataclass(frozen=True, kw_only=True)
class AddedBySuite:
    """The part of a suite in a pool: results, those that others have too, tasks on base models, and pairs of runs of its own.

    *moved* is the largest change of a claim's difference without this suite, in points; None if no claim has both.
    """

    suite: str
    runs: int
    shared: int
    places: int
    pairs: int
    moved: float | None


@dataclass(frozen=True, kw_only=True)
class SuitePool:
    """The analysis of several suites, in which each run counts once.

    *one_task* is the number of pairs of methods that met on one task only, and have no claim; *left_out* has reasons.
    """

    claims: tuple[PooledClaim, ...]
    tasks: tuple[str, ...]
    models: tuple[str, ...]
    runs: int
    suites: tuple[AddedBySuite, ...]
    one_task: int
    left_out: tuple[str, ...]


def pool(suites: "Sequence[Report]", *, reference: str | None = None, alpha: float = ALPHA) -> SuitePool:
    """Pool the runs of suites, each as its report has them; a pair of runs that several have counts in the first of them.

    With the label of a *reference* the claims are those of all others less this method.
    """
    left_out: dict[str, None] = {}
    names: dict[str, str] = {}
    tables = [table for suite in suites for table in _tables(suite, names, left_out)]
    known: Known = {}
    every = list(_contributions(tables, known, reference))
    scopes = _scopes(every)
    results = [{one.run_id for one in suite.records if one.spec.score_on == "test"} for suite in suites]
    in_suites = Counter(run_id for runs in results for run_id in runs)
    added = []
    for suite, runs in zip(suites, results, strict=True):
        own = [one for one in every if one.table.suite == suite.name]
        rest = _scopes(list(_contributions([of for of in tables if of.suite != suite.name], known, reference)))
        concerned = [key for key, found in scopes.items() if key in rest and any(one in own for one in found)]
        moves = [abs(_over(rest[key]).estimate.value - _over(scopes[key]).estimate.value) for key in concerned]
        added.append(
            AddedBySuite(
                suite=suite.name,
                runs=len(runs),
                shared=sum(in_suites[run_id] > 1 for run_id in runs),
                places=len({(one.table.task, one.table.model) for one in own}),
                pairs=sum(one.pairs for one in own),
                moved=max(moves, default=None),
            )
        )
    pairs = grouped(every, lambda one: (one.first, one.second))
    pooled = [one.table for found in scopes.values() for one in found]
    return SuitePool(
        claims=_claims(scopes, alpha),
        tasks=tuple(sorted({table.task for table in pooled})),
        models=tuple(sorted({table.model for table in pooled})),
        runs=len(in_suites),
        suites=tuple(added),
        one_task=sum(len({one.table.task for one in found}) == 1 for found in pairs.values()),
        left_out=tuple(left_out),
    )


def _tables(suite: "Report", names: dict[str, str], left_out: dict[str, None]) -> Iterator[PooledTable]:
    """Yield the tables of a suite; what cannot count goes to *left_out*, and the names of tasks by their data to *names*."""
    if not suite.records:
        left_out[f"{suite.name}: it has no records"] = None
        return
    searches = Searches(suite.comparison)
    for setting in suite.comparison.results:
        task = setting.spec.task
        if setting.search or setting.trials:
            continue
        share = default_margin(task.metric) is not None
        if why := not_judged(setting) or ("" if share else "its metric is no share or correlation"):
            left_out[f"{task.name} in {suite.name}: {why}"] = None
            continue
        for table in setting.tables:
            found = grouped(table.rows, _method)
            several = [name for (name, _), rows in found.items() if len(rows) > 1]
            where = f"on {table.model.shown}, {task.name} in {suite.name}: it was run at several rates or sizes"
            left_out.update(dict.fromkeys(f"{name} {where}" for name in several))
            rows = {
                method: scored(row, setting, suite.answers, searches.error(row, table, setting))
                for method, (row, *others) in found.items()
                if not others
            }
            # Tasks with the same data, such as sst2 and sst2_by_sentence, share their test items: they are one.
            name = names.setdefault(task.data_sha256 or task.name, task.name)
            yield PooledTable(suite.name, name, table.model.shown, bool(task.higher_is_better), rows)


def _method(row: Row) -> MethodKey:
    return row.label, canonical([row.method, {name: value for name, value in row.options.items() if name != row.size}])


def _contributions(tables: Sequence[PooledTable], known: Known, reference: str | None) -> Iterator[Contribution]:
    """Yield the differences of tables, each pair of runs once; *known* has those that were computed before."""
    counted: set[tuple[str, str]] = set()
    for table in tables:
        for methods in itertools.combinations(sorted(table.rows), 2):
            first, second = sorted(methods, key=lambda method: method[0] == reference)
            if reference not in (None, second[0]):
                continue
            one, other = table.rows[first], table.rows[second]
            runs, others = ({score.seed: score.run_id for score in side.row.scores} for side in (one, other))
            seeds = sorted(one.scores.keys() & other.scores.keys())
            new = {seed: pair for seed in seeds if (pair := (runs[seed], others[seed])) not in counted}
            key = tuple(new.values())
            if key not in known:
                sides = [replace(side, scores={seed: side.scores[seed] for seed in new}) for side in (one, other)]
                known[key] = _difference(*sides, points=100 if table.higher_is_better else -100)
            if (place := known[key]) is not None:
                counted.update(key)
                yield Contribution(table, first, second, place, len(key))


def _difference(one: Scored, other: Scored, *, points: int) -> PlaceDifference | None:
    """Return the first row less the second in points; None without two seeds that differ, whose spread is its error."""
    compared = difference_of(one, other) if len(one.scores) > 1 else ""
    if isinstance(compared, str) or not (errors := compared.difference.estimate.uncertainties):
        return None
    error = max(errors, key=lambda one: one.standard_error)
    value = points * compared.difference.estimate.value
    return PlaceDifference(value=value, error=100 * error.standard_error, freedom=error.freedom)


def _scopes(every: Sequence[Contribution]) -> dict[Scope, Sequence[Contribution]]:
    """Return the differences of each claim: of a pair on a base model with two tasks or more, and on all base models."""
    found: dict[Scope, Sequence[Contribution]] = {}
    for (first, second), of_pair in sorted(grouped(every, lambda one: (one.first, one.second)).items()):
        of_models = grouped(of_pair, lambda one: one.table.model)
        if len(of_models) > 1:
            found[first, second, None] = of_pair
        found |= {(first, second, model): of_model for model, of_model in of_models.items()}
    return {scope: of_scope for scope, of_scope in found.items() if len({one.table.task for one in of_scope}) > 1}


def _over(found: Sequence[Contribution]) -> OverPlaces:
    """Return the mean over places. In a place, errors add up: settings share its test items."""
    places = {}
    for key, here in grouped(found, lambda one: (one.table.task, one.table.model)).items():
        total = sum(one.pairs for one in here)
        places[key] = PlaceDifference(
            value=sum(one.pairs * one.place.value for one in here) / total,
            error=sum(one.pairs * one.place.error for one in here) / total,
            freedom=min(one.place.freedom for one in here),
        )
    return over_places(places)


def _claims(scopes: Mapping[Scope, Sequence[Contribution]], alpha: float) -> tuple[PooledClaim, ...]:
    names = _names({method for first, second, _ in scopes for method in (first, second)})
    pooled = {key: _over(found) for key, found in scopes.items()}
    adjusted = holm([found.estimate.p_value() for found in pooled.values()], alpha)
    return tuple(
        PooledClaim(
            first=names[key[0]],
            second=names[key[1]],
            model=key[2],
            models=len({one.table.model for one in scopes[key]}),
            pairs=sum(one.pairs for one in scopes[key]),
            found=found,
            interval=found.estimate.interval(1 - alpha / len(pooled)),
            p_value=one.p_value,
            alpha=alpha,
        )
        for (key, found), one in zip(pooled.items(), adjusted, strict=True)
    )


def _names(methods: set[MethodKey]) -> dict[MethodKey, str]:
    """Return the labels, with the options that differ where methods share one."""
    found = {}
    for label, keys in grouped(sorted(methods), lambda method: method[0]).items():
        options = [{"method": method, **given} for method, given in (json.loads(key[1]) for key in keys)]
        for key, own in zip(keys, options, strict=True):
            values = {name: {canonical(one.get(name)) for one in options} for name in own}
            differing = ", ".join(f"{name}={canonical(own[name])}" for name, given in values.items() if len(given) > 1)
            found[key] = f"{label} ({differing})" if differing else label
    return found
