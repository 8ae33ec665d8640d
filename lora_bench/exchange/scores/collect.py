"""Scores from any number of files, checked: which run has which score, or which result on which test item.

    rows of sources → numbers for names, a score for each row → runs → scores on one scale

Ten million rows take some 500 MB: names are stored once. A score that is a share of 1 or a per cent becomes a share, so that
differences are points of 100. What cannot be meant is refused, a line each with file, line and column.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lora_bench.errors import Fault, LoraBenchError
from lora_bench.exchange.scores.columns import known_metric, lower_is_better, number_in, plain
from lora_bench.exchange.scores.tables import SHOWN_FAULTS, Cell, Faults
from lora_bench.metrics.support.lookup import SHARE, default_margin
from lora_bench.report.text import listed, plural

Scale = Literal["share", "percent", "own"]
Floats = NDArray[np.float64]

KINDS = ("task", "base_model", "method", "seed", "item", "measure")
# Their versions are compared as settings of training are.
LIBRARIES = ("torch", "transformers", "peft")
# Scores from -1 to 1 of which a hundredth is a point, by the beginning of their names.
_CORRELATIONS = ("matthews", "mcc", "pearson", "spearman", "kendall", "cohen", "kappa")
# Texts of scores whose numbers are kept: results on items are few different ones.
CACHED = 100_000
_SHOWN = {"share": "a share of 1", "percent": "per cent, read as shares of 1", "own": "in a unit of its own"}


@dataclass(frozen=True)
class TaskFacts:
    """Name of a task's score, its direction, if the user gave that, and its scale where the source says it."""

    metric: str
    higher_is_better: bool
    scale: Scale | None = None
    given: bool = False


@dataclass(frozen=True, kw_only=True)
class Source:
    """Rows of one file: the kinds of its cells in order, "cost" and "score" the last, and what all rows share, by kind."""

    file: str
    named: dict[str, str]
    rows: Iterable[tuple[int, Sequence[Cell]]]
    constant: dict[str, str] = field(default_factory=dict)
    facts: dict[str, TaskFacts]
    said: Sequence[str] = ()
    trained: Mapping[str, Any] | None = None  # names of its one run, and its settings of training in words


@dataclass(frozen=True)
class Run:
    """A run by the names of its task, base model, method and seed, with its score, results in the order of items, and cost."""

    task: str
    base_model: str
    method: str
    seed: str | None
    score: float | None
    items: Floats | None
    cost: float | None = None


class Rows:
    """All rows: numbers of each kind and the names behind them, scores and costs (NaN for none), and their places."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources, self.said = sources, [*dict.fromkeys(line for one in sources for line in one.said)]
        self.kinds = [kind for kind in KINDS if any(kind in one.named or kind in one.constant for one in sources)]
        self.known: dict[str, dict[str, int]] = {kind: {} for kind in self.kinds}
        self.faults = Faults()
        self.per_cents: set[int] = set()
        self.columns = {kind: array("i") for kind in self.kinds}
        self.lines, starts = array("i"), []
        scores, costs = array("d"), array("d")
        costly = sorted({source.named["cost"] for source in sources if "cost" in source.named})
        self.cost = costly[0] if len(costly) == 1 else ""
        self.said += [f"costs are not read, as files have them in {listed(costly)}"] if costly[1:] else []
        for source in sources:
            starts.append(len(self.lines))
            self._read(source, scores, costs)
        self.faults.refuse()
        self.starts = np.array(starts)
        self.numbers = {kind: np.frombuffer(column, dtype=np.int32) for kind, column in self.columns.items()}
        self.scores = np.frombuffer(scores)
        self.costs = np.frombuffer(costs) if self.cost else np.broadcast_to(np.nan, len(scores))
        self.names = {kind: [*known] for kind, known in self.known.items()}

    def _read(self, source: Source, scores: array[float], costs: array[float]) -> None:
        kinds = [kind for kind in source.named if kind not in ("score", "cost")]
        constant = {**dict.fromkeys({"measure"} & {*self.kinds} - {*kinds}, ""), **source.constant}
        if missing := [kind for kind in self.kinds if kind not in (*kinds, *constant)]:
            raise LoraBenchError(f"{source.file} has no {missing[0].replace('_', ' ')}, which other files have")
        at, cost_at = len(source.named) - 1, len(kinds)
        parsed: dict[Cell, float] = {}
        filled = [(self.columns[kind], self.known[kind], kind) for kind in kinds]
        before = len(self.lines)
        for line, row in source.rows:
            score = row[at]
            number = parsed.get(score)
            if number is None:
                number = number_in(score)
                if len(parsed) < CACHED:
                    parsed[score] = number
            if math.isinf(number):
                self.refuse(source, line, "score", f"{score!r} is no finite number")
            scores.append(number)
            self.lines.append(line)
            if self.cost:
                cost = number_in(row[cost_at]) if cost_at < at else math.nan
                if cost < 0 or math.isinf(cost):
                    self.refuse(source, line, "cost", f"{row[cost_at]!r} is no cost; `--cost` names another column")
                costs.append(cost)
            for (numbers, known, kind), cell in zip(filled, row, strict=False):
                name = cell.strip() if type(cell) is str else _name(cell)
                if name == "" and kind != "measure":
                    self.refuse(source, line, kind, f"there is no {kind.replace('_', ' ')}")
                numbers.append(known.setdefault(name, len(known)))
        for kind, name in constant.items():
            self.columns[kind].extend(
                [self.known[kind].setdefault(name, len(self.known[kind]))] * (len(self.lines) - before)
            )

    def refuse(self, source: Source, line: int, kind: str, message: str) -> None:
        """Add a fault."""
        self.faults.add(Fault(message, source.file, line, source.named.get(kind, kind)))

    def refuse_each(self, places: Iterable[int], kind: str, message: Callable[[int], str]) -> None:
        """Add a fault for each of some rows, of which the first are shown."""
        found = [*places]
        for at in found[:SHOWN_FAULTS]:
            self.refuse(*self.place(at), kind, message(at))
        self.faults.more += len(found[SHOWN_FAULTS:])

    def given(self, at: int) -> str:
        """Return the score of a row as it was given."""
        number = self.numbers["task"][at] if "task" in self.numbers else 0
        return f"{self.scores[at] * (100 if number in self.per_cents else 1):g}"

    def count_again(self, number: int) -> None:
        """Say how many rows repeat others."""
        self.said += [f"{plural(number, 'repeated row')} with the same score: counted once"] if number else []

    def place(self, at: int) -> tuple[Source, int]:
        """Return the source and the line of a row."""
        return self.sources[int(np.searchsorted(self.starts, at, side="right")) - 1], self.lines[at]

    def name(self, kind: str, at: int) -> str:
        """Return the name of a kind in a row, or nothing."""
        return self.names[kind][self.numbers[kind][at]] if kind in self.numbers else ""

    def run(self, at: int) -> str:
        """Return the run of a row in words."""
        seed = [f"seed {self.name('seed', at)}"] if "seed" in self.numbers else []
        return ", ".join(filter(None, [*(self.name(kind, at) for kind in ("method", "task", "base_model")), *seed]))

    def before(self, at: int, first: int) -> str:
        """Return the place of an earlier row in words."""
        (source, _), (other, line) = self.place(at), self.place(first)
        return f"line {line}" + ("" if other is source else f" of {other.file}")


def _name(cell: Cell) -> str:
    # A frame with a missing seed has floats.
    return "" if cell is None else str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def collect(
    sources: Sequence[Source], scale: Scale | None
) -> tuple[list[Run], dict[str, TaskFacts], str, int | None, list[str]]:
    """Return runs, the facts of their tasks, the column of costs, the number of folds if seeds are such, and what was guessed.

    Raise BadInput with what is wrong with them.
    """
    rows = Rows(sources)
    facts, said = _scaled(rows, scale)
    keys = np.zeros(len(rows.scores), dtype=np.int64)
    for kind in rows.kinds:
        if kind not in ("item", "measure"):
            keys = keys * len(rows.names[kind]) + rows.numbers[kind]
    found = _of_items(rows, keys) if "item" in rows.kinds else _of_runs(rows, keys)
    rows.faults.refuse()
    if not found:
        raise LoraBenchError("there are no scores to judge")
    runs = [
        Run(
            rows.name("task", at),
            rows.name("base_model", at),
            rows.name("method", at),
            rows.name("seed", at) if "seed" in rows.kinds else None,
            None if math.isnan(score) else score,
            items,
            None if math.isnan(cost) else cost,
        )
        for at, score, items, cost in found
    ]
    seeds = {source.named.get("seed", "") for source in sources}
    folds = len(rows.names["seed"]) if all({"fold", "folds"} & {*plain(name).split("_")} for name in seeds) else None
    said = [*rows.said, *said, *_named_seeds(rows, folds), *_lacking(runs), *_apart(runs)]
    return runs, facts, rows.cost, folds, said


Found = list[tuple[int, float, Floats | None, float]]
"""For each run its first row, its score, its results on items, and its cost, that of an item on average; NaN for none."""


def _of_runs(rows: Rows, keys: NDArray[np.int64]) -> Found:
    """Return the score of each run; rows that say the same again count once."""
    first: dict[int, int] = {}
    again = 0
    hint = "" if "seed" in rows.kinds else "; say which column tells runs apart with --seed or --task"
    for at, (key, score) in enumerate(zip(keys.tolist(), rows.scores.tolist(), strict=True)):
        other = rows.scores[first.setdefault(key, at)]
        if first[key] < at:
            again += 1
            if score != other and not math.isnan(score + other):
                known = f"which has {rows.given(first[key])} in {rows.before(at, first[key])}"
                rows.refuse(*rows.place(at), "score", f"{rows.given(at)} for {rows.run(at)}, {known}{hint}")
    rows.count_again(again)
    return [(at, float(rows.scores[at]), None, float(rows.costs[at])) for at in first.values()]


def _of_items(rows: Rows, keys: NDArray[np.int64]) -> Found:
    """Return the mean result of each run, and its results in the order of items, which runs of a task must share."""
    items = rows.numbers["item"]
    order = np.lexsort((items, keys))
    again = np.all([np.diff(of[order]) == 0 for of in (keys, items, rows.scores)], axis=0)
    rows.count_again(int(again.sum()))
    order = order[np.concatenate([[True], ~again])]
    ends = np.flatnonzero(np.diff(keys[order], append=-1)) + 1
    found: Found = []
    of_place: dict[tuple[str, str], tuple[int, NDArray[np.int32]]] = {}
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        own, at = items[order[start:end]], int(order[start:end].min())
        source, line = rows.place(at)
        results = rows.scores[order[start:end]]
        rows.refuse_each(order[start:end][np.isnan(results)].tolist(), "score", lambda _: "there is no result")
        repeated = np.flatnonzero(own[1:] == own[:-1])
        rows.faults.more += len(repeated[SHOWN_FAULTS:])
        for place in repeated[:SHOWN_FAULTS]:
            first, twice = sorted(order[start + place : start + place + 2].tolist())
            said = f"{rows.name('item', twice)} stands twice in {rows.run(twice)}, first in {rows.before(twice, first)}"
            rows.refuse(*rows.place(twice), "item", said)
        other, known = of_place.setdefault((rows.name("task", at), rows.name("base_model", at)), (at, own))
        if not np.array_equal(own, known) and len(np.unique(own)) == len(own):
            odd = int(np.setxor1d(own, known)[0])
            has = f"{'has' if odd in own else 'lacks'} item {rows.names['item'][odd]}, unlike {rows.run(other)}"
            rows.refuse(source, line, "item", f"{rows.run(at)} {has}; all runs of a task need the same items")
        found.append((at, float(results.mean()), results, float(rows.costs[order[start:end]].mean())))
    return found


def _scaled(rows: Rows, scale: Scale | None) -> tuple[dict[str, TaskFacts], list[str]]:
    """Bring scores to shares where they have such a scale, and name their metrics so; say what was done."""
    tasks = rows.names.get("task", [""])
    numbers = rows.numbers.get("task", np.zeros(len(rows.scores), dtype=np.int32))
    known = {task: _facts_of(rows, task, numbers == number) for number, task in enumerate(tasks)}
    guess, why = _scale(rows.scores, numbers, known) if scale is None else (scale, "")
    facts: dict[str, TaskFacts] = {}
    said: dict[str, list[str]] = {}
    guessed: list[int] = []
    for number, (task, fact) in enumerate(known.items()):
        # Means over tasks take gains alone.
        used = (scale or fact.scale or guess) if fact.higher_is_better else "own"
        if used == "percent":
            rows.per_cents.add(number)
            # Beside a correlation below -1, one from 0 to 1 is a per cent too.
            sure = scale or fact.scale or (rows.scores[numbers == number] < -1).any()
            guessed += [] if sure else [number]
        # One of our metrics would bring its own scale.
        own_unit = f"{fact.metric} in its own unit" if default_margin(fact.metric) is not None else fact.metric
        # Per cents are shown as shares of 1.
        bare = re.sub(r" *\(%\)| *%", "", fact.metric) if used == "percent" else ""
        share = SHARE + (bare or fact.metric).replace("/", "_")
        name = own_unit if used == "own" else share
        facts[task] = replace(fact, metric=name)
        said.setdefault(_SHOWN[used] + (why if used == "own" and fact.higher_is_better else ""), []).append(task)
    _refuse_mixed(rows, np.isin(numbers, guessed))
    rows.scores[np.isin(numbers, [*rows.per_cents])] /= 100
    if len(said) == 1:
        return facts, [f"scale: {next(iter(said))} (`--scale` overrules)"]
    return facts, [f"scale of {', '.join(of)}: {words}" for words, of in said.items()]


def _refuse_mixed(rows: Rows, per_cents: NDArray[np.bool_]) -> None:
    """Refuse shares of 1 among rows of per cents, or per cents among shares: the fewer."""
    shares = np.flatnonzero(per_cents & (rows.scores > 0) & (rows.scores <= 1))
    above = np.flatnonzero(per_cents & (rows.scores > 1))
    odd, said = (
        (shares, "a share among per cents") if len(shares) <= len(above) else (above, "no share among shares of 1")
    )
    hint = f"is {said}; `--scale percent` if all are per cents"
    rows.refuse_each(odd if len(shares) else (), "score", lambda at: f"{rows.scores[at]:g} {hint}")


def _facts_of(rows: Rows, task: str, mine: NDArray[np.bool_]) -> TaskFacts:
    """Return the facts of a task: by the column of measures, else by the name of its score."""
    there = [part.any() for part in np.split(mine, rows.starts[1:])]
    own = [one.facts.get(task) or one.facts[""] for one, has in zip(rows.sources, there, strict=True) if has]
    if "measure" in rows.numbers:
        number = np.bincount(rows.numbers["measure"][mine], minlength=len(rows.names["measure"]))
        measures = [name for name, rows_of in zip(rows.names["measure"], number, strict=True) if rows_of and name]
        own = [_measured(one, name) for one in own for name in measures] or own
    found = {replace(one, metric=known_metric(one.metric)) for one in own}
    if len(found) > 1:
        names = ", ".join(sorted(one.metric for one in found))
        raise LoraBenchError(f"{task or 'the table'} has different scores, {names}: judge them apart")
    return found.pop()


def _measured(fact: TaskFacts, measure: str) -> TaskFacts:
    higher = fact.higher_is_better and (fact.given or not lower_is_better(measure))
    return replace(fact, metric=measure, higher_is_better=higher)


def _scale(scores: Floats, numbers: NDArray[np.int32], known: Mapping[str, TaskFacts]) -> tuple[Scale, str]:
    """Guess the scale that all gains share, and say why it is none."""
    gains = [fact.higher_is_better for fact in known.values()]
    signed = [any(plain(name).startswith(_CORRELATIONS) for name in (task, of.metric)) for task, of in known.items()]
    finite = np.isfinite(scores) & np.array(gains)[numbers]
    if not finite.any():
        return "own", ""
    high, low = float(scores[finite].max()), float(scores[finite].min())
    unsigned = float(scores[finite & ~np.array(signed)[numbers]].min(initial=0.0))
    if unsigned < 0:
        return "own", ", as a score is below 0"
    if low >= -1 and high <= 1:
        return "share", ""
    return ("percent", "") if low >= -100 and 10 < high <= 100 else ("own", "")


def _named_seeds(rows: Rows, folds: int | None) -> list[str]:
    """Say what is called a seed where no column is named so."""
    named = {source.named["seed"] for source in rows.sources if "seed" in source.named}
    said = listed([f"`{name}`" for name in sorted(named) if "seed" not in plain(name)])
    called = (
        f"what is called a seed is one of {len(rows.names['seed'])} values of {said}; runs are paired by it"
        if said
        else ""
    )
    return [called + ", and share training rows" * (folds is not None)] if said else []


def _lacking(runs: Sequence[Run]) -> list[str]:
    """Say which methods lack seeds that others have on their task and base model."""
    seeds: dict[tuple[str, str], dict[str, set[Any]]] = {}
    for run in runs:
        if run.score is not None:
            seeds.setdefault((run.task, run.base_model), {}).setdefault(run.method, set()).add(run.seed)
    lacking: dict[str, set[Any]] = {}
    for of in seeds.values():
        for method, own in of.items():
            lacking.setdefault(method, set()).update(set().union(*of.values()) - own)
    lacks = [f"{method} {len(own)}" for method, own in sorted(lacking.items()) if own]
    named = ", ".join(lacks[:SHOWN_FAULTS])
    return [f"seeds that others have and a method lacks: {named}; pairs are the seeds that both have"] if named else []


def _apart(runs: Sequence[Run]) -> list[str]:
    """Say which tasks share no method with the first, not even by way of others, so that nothing compares them."""
    pairs = dict.fromkeys((run.method, " on ".join(filter(None, (run.task, run.base_model)))) for run in runs)
    first = next(iter(pairs))[1]
    methods, places = {method for method, place in pairs if place == first}, {first}
    while more := {place for method, place in pairs if method in methods} - places:
        places |= more
        methods |= {method for method, place in pairs if place in more}
    others = [*dict.fromkeys(place for _, place in pairs if place not in places)]
    return (
        [f"judge apart from {first}, with which they share no method: {listed(others[:SHOWN_FAULTS])}"]
        if others
        else []
    )
