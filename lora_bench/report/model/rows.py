"""One row of a comparison: a method with one learning rate on one base model, over its seeds.

A score's interval is the 95 % t-interval of the mean over seeds. It covers the spread between seeds and not the choice of the
scored examples, which all runs of a table share, unless each seed tests a fold of its own; equal scores have none.
"""

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import JsonValue

from lora_bench.metrics import find
from lora_bench.records.record import Environment, Parameters, Record, Status
from lora_bench.records.spec import TaskSpec
from lora_bench.report.text import GIB
from lora_bench.stats import Summary, collapsed, summarise

ValueT = TypeVar("ValueT")
KeyT = TypeVar("KeyT", bound=Hashable)


@dataclass(frozen=True)
class Score:
    """The score of one run; with the `least_learned` of its own where each seed tests a fold of its own."""

    run_id: str
    seed: int | None
    value: float
    least: float | None = None


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """The loss of a method's runs of the base model's score on data apart from the task: by "loss" or "spearman".

    *lost* is the rise of a loss or the fall of a correlation, and *each* that of a run beside its score. *before* is None where
    runs differ.
    """

    measure: str
    before: float | None
    after: Summary
    lost: Summary
    each: tuple[tuple[float, float], ...]
    by_seed: Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method with one learning rate on one base model, over its seeds. Measurements are medians over seeds.

    Runs that were cut off and went on from a checkpoint are in no measurement but totals of time: see `measured`.

    Args:
        exempt: Whether the method has no size, so that the parameter budget of its suite cannot hold it.
        failures: Records of runs that ended in another way than `ok`.
        parameters: None where no run counted, or where runs counted differently.
        within_budget: None for an exempt row, without a target, and without counts.
        checkpoint_bytes: Bytes of the files that the runs left to restore their result.
        exclusive: Whether all measured runs had the machine to themselves; None where nothing was measured or said.
        environments: Indexes into the comparison's environments.
        extended: Whether it is of trials beyond the range of learning rates.
        overlap: Test rows for each training row where each seed tests a fold of its own, else 0. What depends on the fold, such
            as `majority_score`, is then the mean.
    """

    label: str
    method: str
    options: dict[str, JsonValue]
    size: str | None
    size_value: JsonValue
    exempt: bool
    learning_rate: float | None
    head_learning_rate: float | None
    records: tuple[Record, ...]
    run_ids: tuple[str, ...]
    seeds: tuple[int | None, ...]
    statuses: dict[Status, int]
    scores: tuple[Score, ...]
    score: Summary | None
    failures: tuple[Record, ...]
    parameters: Parameters | None
    within_budget: bool | None
    memory_kind: str | None
    exclusive: bool | None
    train_peak_bytes: float | None
    step_seconds: float | None
    examples_per_second: float | None
    real_tokens_per_second: float | None
    train_seconds: float | None
    train_seconds_total: float | None
    evaluation_seconds: float | None
    evaluation_seconds_total: float | None
    majority_score: float | None
    least_learned: float | None
    word_model_score: float | None
    checkpoint_bytes: float | None
    environments: tuple[int, ...]
    extended: bool = False
    forgetting: Forgetting | None = None
    overlap: float = 0.0

    @property
    def counted_bytes(self) -> float | None:
        """Bytes of the stored weights, four each, by their count."""
        stored = self.parameters.stored if self.parameters is not None else None
        return None if stored is None else 4.0 * stored

    @property
    def ok(self) -> int:
        """Number of runs that ended `ok`."""
        return self.statuses.get("ok", 0)

    @property
    def only_resumed(self) -> bool:
        """True if all runs with a measurement went on from a checkpoint, so that it is in none of the row's."""
        found = [record.resumed for record in self.records if record.speed is not None]
        return bool(found) and all(found)

    @property
    def measured(self) -> "Row":
        """The row to show costs of: if all its runs went on from a checkpoint, with what was measured after it.

        Training seconds are then those of both parts, without the steps that a stop undid.
        """
        return replace(self, **_measurements(self.records)) if self.only_resumed else self

    @property
    def above_majority(self) -> float | None:
        """Mean score less the score of the majority class (or the mean)."""
        return None if self.score is None or self.majority_score is None else self.score.mean - self.majority_score


def row_key(record: Record) -> tuple[str, str, str, str, str]:
    """Return the key that the records of one row share within a setting and a base model."""
    method, training = record.spec.method, record.spec.training
    rates = canonical(training.learning_rate), canonical(training.head_learning_rate)
    return method.label, method.name, canonical(method.options), *rates


def make_row(records: list[Record], environments: Sequence[Environment]) -> Row:
    """Return the row of *records*, at least one, which differ in their seeds only."""
    first = records[0]
    method = first.spec.method
    overlap = overlap_of(records)
    scores = [
        Score(record.run_id, record.spec.seed, value, least_learned(record) if overlap else None)
        for record in (one_of_each_fold(records) if overlap else records)
        if (value := record.judged_score) is not None
    ]
    all_speeds = [record.speed for record in records if record.speed is not None]
    words = (record.data.word_model_score for record in records if record.data is not None)
    own_rows = all(record.spec.training.distinct_seed is None for record in records)
    machines = {machine_of(record.environment) for record in records if record.environment is not None}
    parameters = unique(record.parameters for record in records)
    target = first.budget.parameter_target if first.budget is not None else None
    counted = parameters.on(target[0]) if parameters is not None and target is not None else None
    within = first.budget.within(counted) if first.budget is not None and counted is not None else None
    return Row(
        label=method.label,
        method=method.name,
        options=method.options,
        size=method.size,
        size_value=method.options.get(method.size) if method.size is not None else None,
        exempt=method.size is None and first.budget is not None,
        learning_rate=first.spec.training.learning_rate,
        head_learning_rate=first.spec.training.head_learning_rate,
        records=tuple(records),
        run_ids=tuple(record.run_id for record in records),
        seeds=tuple(record.spec.seed for record in records),
        statuses=statuses(records),
        scores=tuple(scores),
        score=summarise([score.value for score in scores], overlap=overlap) if scores else None,
        failures=tuple(record for record in records if record.status != "ok"),
        parameters=parameters,
        within_budget=within if method.size is not None and target is not None else None,
        # What was begun twice has memory and speed of its second part.
        **_measurements([record for record in records if not record.resumed]),
        train_seconds_total=total_of(record.further_train_seconds for record in records if record.speed is not None),
        evaluation_seconds_total=total_of(speed.evaluation_seconds for speed in all_speeds),
        majority_score=over_folds((floor_of(record) for record in records if record.data is not None), overlap),
        least_learned=over_folds(map(least_learned, records), overlap),
        word_model_score=over_folds(words, overlap or own_rows),
        checkpoint_bytes=median_of(record.weights.stored_bytes for record in records if record.weights is not None),
        extended=any(record.extended for record in records),
        environments=tuple(number for number, one in enumerate(environments) if machine_of(one) in machines),
        forgetting=_forgetting(records),
        overlap=overlap,
    )


def _measurements(records: Iterable[Record]) -> dict[str, Any]:
    """Return the measurements of a row, medians over *records*."""
    measured = [*records]
    memories = [record.memory for record in measured if record.memory is not None]
    speeds = [record.speed for record in measured if record.speed is not None]
    kind = unique(memory.kind for memory in memories)
    alone = [memory.exclusive for memory in memories] + [speed.exclusive for speed in speeds]
    return {
        "memory_kind": kind,
        "exclusive": False if False in alone else None if None in alone or not alone else True,
        # Bytes of an allocator and of a process are different things: no median is taken over both.
        "train_peak_bytes": median_of(memory.train_peak_bytes for memory in memories) if kind is not None else None,
        "step_seconds": median_of(speed.step_seconds_median for speed in speeds),
        "examples_per_second": median_of(speed.examples_per_second for speed in speeds),
        "real_tokens_per_second": median_of(speed.real_tokens_per_second for speed in speeds),
        "train_seconds": median_of(speed.train_seconds for speed in speeds),
        "evaluation_seconds": median_of(speed.evaluation_seconds for speed in speeds),
    }


def _forgetting(records: Sequence[Record]) -> Forgetting | None:
    kept = [
        (record.retention, record.spec.retention.measure, record.score, record.spec.seed)
        for record in records
        if record.retention is not None and record.spec.retention is not None and record.score is not None
    ]
    measure = unique(measure for _, measure, _, _ in kept)
    if measure is None:
        return None
    worse = 1 if measure == "loss" else -1
    lost = [worse * (one.after - one.before) for one, *_ in kept]
    return Forgetting(
        measure=measure,
        before=unique(one.before for one, *_ in kept),
        after=summarise([one.after for one, *_ in kept]),
        lost=summarise(lost),
        each=tuple((one, score) for one, (_, _, score, _) in zip(lost, kept, strict=True)),
        by_seed={seed: one for one, (_, _, _, seed) in zip(lost, kept, strict=True) if seed is not None},
    )


def fallen_runs(row: Row, higher_is_better: bool | None, floor: float | None) -> int:
    """Number of a row's runs that learned nothing: see `fell`."""
    return sum(fell(score, floor, higher_is_better=bool(higher_is_better)) for score in row.scores)


def fell(score: Score, floor: float | None, *, higher_is_better: bool) -> bool:
    """Tell if a run scored no better than the least that shows learning: its own, else *floor*; False where none is known."""
    least = floor if score.least is None else score.least
    return least is not None and bool(collapsed({0: score.value}, least, higher_is_better=higher_is_better))


def floor_of(record: Record) -> float | None:
    """Score of the majority class or of the mean, which no correlation is defined for."""
    own = record.data.majority_score if record.data is not None else None
    metric = find(record.spec.task.metric or "")
    return metric.constant if own is None and metric is not None else own


def least_learned(record: Record) -> float | None:
    """Return the score that a run must exceed to have learned: docs/statistics.md#where-runs-collapse.

    Metrics that are neither shares nor correlations have no known standard error: that of a rank of probabilities takes the
    rows of each class, which records do not have.
    """
    floor, metric = floor_of(record) if record.data is not None else None, find(record.spec.task.metric or "")
    items = record.data.examples.get(record.spec.score_on or "test", 0) if record.data is not None else 0
    if floor is None or metric is None or metric.margin is None or metric.kind == "probabilities" or items < 2:
        return floor
    variance = floor * (1 - floor) / items if metric.constant is None else 1 / (items - 1)
    return floor + 2 * math.sqrt(max(0.0, variance))


def folds_of(task: TaskSpec) -> int | None:
    """Return the number of folds of which each seed tests one; None if all test the same rows."""
    split = (task.definition or {}).get("split")
    folds = split.get("folds") if isinstance(split, dict) else None
    return folds if isinstance(folds, int) else None


def overlap_of(records: Iterable[Record]) -> float:
    """Return the test rows for each training row where each seed tests a fold of its own; 0 where all test the same rows."""
    data = [record.data.examples for record in records if record.data is not None and folds_of(record.spec.task)]
    return statistics.fmean(of["test"] / of["train"] for of in data) if data else 0.0


def one_of_each_fold(records: Iterable[Record]) -> list[Record]:
    """Return those with a score, and of several that test one fold the first: another seed on the same rows is no new test."""
    found: dict[int | str, Record] = {}
    for record in records:
        folds, seed = folds_of(record.spec.task), record.spec.seed
        if record.judged_score is not None:
            tests = folds is not None and seed is not None and record.spec.score_on in (None, "test")
            found.setdefault((seed or 0) % (folds or 1) if tests else record.run_id, record)
    return list(found.values())


def over_folds(values: Iterable[float | None], overlap: float) -> float | None:
    """Return what runs have in common, or the mean where each has rows of its own, as with folds of an *overlap*."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if overlap and known else unique(known)


def machine_of(environment: Environment) -> str:
    """Return an environment as text, with memory in GiB, as it changes by some MiB from boot to boot."""
    memory = environment.memory_bytes
    return canonical({**environment.model_dump(mode="json"), "memory_bytes": memory and round(memory / GIB)})


def statuses(records: Iterable[Record]) -> dict[Status, int]:
    """Count the records by status."""
    return dict(sorted(Counter(record.status for record in records).items()))


def in_order(value: float | None) -> tuple[bool, float]:
    """Return a key that sorts numbers, and unknown ones after them."""
    return value is None, value or 0.0


def canonical(value: object) -> str:
    """Plain data as text that is the same whatever the order of its keys."""
    return json.dumps(value, sort_keys=True)


def grouped(values: Iterable[ValueT], key: Callable[[ValueT], KeyT]) -> dict[KeyT, list[ValueT]]:
    """Return values by *key*; groups in the order of their first value."""
    groups: dict[KeyT, list[ValueT]] = {}
    for value in values:
        groups.setdefault(key(value), []).append(value)
    return groups


def unique(values: Iterable[ValueT | None]) -> ValueT | None:
    """Return the one value that is there, or None where there is none or they differ."""
    found: list[ValueT] = []
    for value in values:
        if value is not None and value not in found:
            found.append(value)
    return found[0] if len(found) == 1 else None


def median_of(values: Iterable[float | None]) -> float | None:
    """Return the median of the known values, or None without any."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def total_of(values: Iterable[float | None]) -> float | None:
    """Return the sum of the known values, or None without any."""
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None
