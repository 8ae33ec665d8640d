"""Records side by side: what every renderer of a report starts from.

    records → Comparison → [Setting: one task, everything but the methods equal] → [ModelTable] → [Row]

A row is one method with its options and learning rate on one base model, over its seeds. Runs stand in one table only
where all that is not the method, its learning rate, the base model or the seed is equal, the budget included; others
make a setting of their own that names the fields in which it differs. A method without a size is exempt from the target
for parameters: its runs stand beside those of every target that are equal in all else. Failed runs stay in their row with
status and reason. Rows are in alphabetical order, exempt ones first, so that a table suggests no winner.
"""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple, TypeVar

from pydantic import JsonValue

from lora_bench.errors import LoraBenchError
from lora_bench.records.again import again
from lora_bench.records.budget import AXES, PARAMETER_AXES, Axis, Budget, ParameterAxis
from lora_bench.records.probe_record import ProbeRecord
from lora_bench.records.record import Environment, Record, Status
from lora_bench.records.spec import ModelSpec, RunSpec, TrainingSpec, without_shown
from lora_bench.report.model.rows import (
    Row,
    canonical,
    grouped,
    in_order,
    machine_of,
    make_row,
    overlap_of,
    row_key,
    statuses,
    unique,
)
from lora_bench.report.text import natural

# What every suite settles, and a run that no suite planned may not tell.
ALWAYS_PLANNED = (
    "task.data_sha256", "task.metric", "task.higher_is_better", "score_on", "rules", "training.train_examples",
    "training.batch_size", "training.steps", "training.max_length", "training.schedule", "training.warmup_steps",
    "training.weight_decay", "training.max_grad_norm", "training.precision", "training.threads",
)  # fmt: skip


# What of a budget holds the number of parameters, by dotted name.
TARGETS = (*(f"budget.{axis}" for axis in PARAMETER_AXES), "budget.tolerance")

# What says how many different training rows there are, and what follows from them where the work is in epochs.
_NUMBERS = ("distinct_examples", "train_examples", "steps", "warmup_steps", "caps.train_examples")
OF_ROWS = {f"training.{name}" for name in _NUMBERS}

RecordT = TypeVar("RecordT", Record, ProbeRecord)


@dataclass(frozen=True, kw_only=True)
class ModelTable:
    """The rows of one base model; *ambiguous* where another of the setting has the same name and other weights."""

    model: ModelSpec
    ambiguous: bool
    rows: tuple[Row, ...]

    @property
    def weights(self) -> str:
        """The first digits of the hash of its weights."""
        return self.model.sha256[:8] if self.model.sha256 is not None else "unknown"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The runs of one task that shared everything but method, learning rate, base model and seed, references but the target.

    Args:
        spec: The spec of one of its runs, for what they share.
        differs: Conditions in which it differs from the other settings of its task, by dotted name.
        search: Whether a method was run with several learning rates on one base model.
        examples: Sizes of the splits, where all its runs that know them agree; of folds the mean.
        rung: Rung of a successive halving that its trials are; None for all other runs.
    """

    spec: RunSpec
    budget: Budget | None
    differs: dict[str, JsonValue]
    search: bool
    examples: dict[str, int] | None
    tables: tuple[ModelTable, ...]
    rung: int | None = None

    @property
    def rows(self) -> list[Row]:
        """The rows of all its base models."""
        return [row for table in self.tables for row in table.rows]

    @property
    def sign(self) -> int:
        """1 if higher scores are better or no record says it, else -1."""
        return -1 if self.spec.task.higher_is_better is False else 1

    @property
    def by_median(self) -> bool:
        """True if the protocol takes the median over seeds, not the mean."""
        return self.spec.rules is not None and self.spec.rules.aggregation == "median"

    def score_of(self, row: Row) -> float | None:
        """Return the score of a row that the protocol takes over seeds; None without any."""
        if row.score is None:
            return None
        return row.score.median if self.by_median else row.score.mean

    @property
    def parameter_target(self) -> tuple[ParameterAxis, int] | None:
        """The axis of parameters that the runs share, and the target, or None."""
        return self.budget.parameter_target if self.budget is not None else None

    @property
    def distinct_examples(self) -> int | None:
        """The number of different training rows of its runs, or None for all."""
        return self.spec.training.distinct_examples

    @property
    def trials(self) -> bool:
        """True if the scores are of the split that choices are made on: they choose, and are no results."""
        return self.spec.score_on == "selection"

    @property
    def scores_alone(self) -> bool:
        """Whether nothing but scores is known of its runs."""
        return self.spec.scores_alone

    @property
    def unknown(self) -> list[str]:
        """Dotted names of conditions that the runs must share and no record states; empty for runs that a suite planned."""
        if self.spec.source is None or self.scores_alone:
            return []
        shared = conditions_of(self.spec, self.budget)
        weights = [] if all(table.model.sha256 for table in self.tables) else ["model.sha256"]
        return weights + [name for name in ALWAYS_PLANNED if shared.get(name, "") is None]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything a report shows, as plain data."""

    suites: tuple[str, ...]
    statuses: dict[Status, int]
    settings: tuple[Setting, ...]
    environments: tuple[Environment, ...]
    warnings: dict[str, int]
    commands: tuple[str, ...]

    @property
    def runs(self) -> int:
        """Number of records."""
        return sum(self.statuses.values())

    @property
    def results(self) -> list[Setting]:
        """The settings that are no trials; all of them if all are trials."""
        return [setting for setting in self.settings if not setting.trials] or [*self.settings]

    @property
    def scores_alone(self) -> bool:
        """Whether nothing but scores is known of all runs."""
        return all(setting.scores_alone for setting in self.settings)

    @property
    def single_runs(self) -> bool:
        """Whether nothing but one score a method and place is known, which advises nothing."""
        rows = [row for setting in self.settings for row in setting.rows]
        return self.scores_alone and all(len(row.scores) < 2 for row in rows)

    def kin_of(self, setting: Setting) -> list[Setting]:
        """Return the settings of its task that are results as it is, or trials of the same rung; itself among them."""
        kind = attrgetter("spec.task.name", "trials", "rung")
        return [other for other in self.settings if kind(other) == kind(setting)]

    def differs_from_kin(self, setting: Setting) -> dict[str, JsonValue]:
        """Return the conditions, by dotted name, that differ from those of the other settings of its task and kind."""
        kin = self.kin_of(setting)
        return {
            name: value
            for name, value in setting.differs.items()
            if len({canonical(other.differs.get(name)) for other in kin}) > 1
        }


def compare(records: Sequence[Record]) -> Comparison:
    """Put records side by side; raise LoraBenchError if two different ones have the same run id."""
    records = sorted(each_once(records), key=lambda one: (one.spec.task.name, *in_order(one.spec.seed), one.run_id))
    alike = grouped((one.environment for one in records if one.environment is not None), machine_of)
    # That of the most records first.
    environments = tuple(found[0] for found in sorted(alike.values(), key=len, reverse=True))
    settings: list[Setting] = []
    for _, of_task in sorted(grouped(records, lambda record: record.spec.task.name).items()):
        groups = _settings(of_task)
        differing = _differing([conditions_of(held.spec, held.budget) for held in map(_held, groups)])
        settings += [_setting(group, differs, environments) for group, differs in zip(groups, differing, strict=True)]
    commands = {shown.replace(f" --only {one.run_id}", "") for one in records if (shown := again(one.command))}
    return Comparison(
        suites=tuple(sorted({record.suite for record in records})),
        statuses=statuses(records),
        settings=tuple(settings),
        environments=environments,
        warnings=_warnings(records),
        commands=tuple(sorted(commands)),
    )


class RowPlace(NamedTuple):
    """A row where it stands."""

    setting: Setting
    table: ModelTable
    row: Row


def rows_of(settings: Iterable[Setting]) -> Iterator[RowPlace]:
    """Yield every row of some settings."""
    for setting in settings:
        for table in setting.tables:
            yield from (RowPlace(setting, table, row) for row in table.rows)


def _warnings(records: Sequence[Record]) -> dict[str, int]:
    """Count the runs that gave each warning.

    With several tasks, a warning on inputs names its task. A share that rounds to 0 counts as no warning.
    """
    several = len({record.spec.task.name for record in records}) > 1
    found: Counter[str] = Counter()
    for record in records:
        for said in record.warnings:
            if not said.startswith(("0.0% of the ", "less than 0.1% of the ")):
                named = several and " inputs are longer than " in said
                found[f"{record.spec.task.name}: {said}" if named else said] += 1
    return dict(sorted(found.items()))


def conditions_of(of: RunSpec, budget: Budget | None) -> dict[str, JsonValue]:
    """Return the conditions that a run must share with one of this spec and budget to stand in one table, by dotted name."""
    spec = of.model_dump(mode="json")
    del spec["method"], spec["model"], spec["seed"]
    del spec["training"]["learning_rate"], spec["training"]["head_learning_rate"]
    del spec["training"]["gradient_checkpointing"]  # it changes no score
    del spec["source_sha256"]  # one's own scripts are there to be compared
    spec["retention"] = None if of.retention is None else "before and after"  # its data depends on the base model
    if budget is not None and budget.peak_memory_bytes is not None:
        # Each method takes the same batch in as many parts as keep the peak.
        spec["training"]["arguments"].pop("gradient_accumulation_steps", None)
    spec["start"] = None if of.start is None else of.start.shown
    spec["task"]["definition"] = without_shown(of.task.definition)
    held_to = None if budget is None else budget.model_dump(mode="json")
    return dict(sorted(flat({**spec, "budget": held_to}).items()))


def _settings(records: Sequence[Record]) -> list[list[Record]]:
    """Return the records of each setting of a task; results come before the searches that chose their learning rates.

    A setting has the records that share their conditions, and the exempt ones that share all but the target.
    """
    shared = _conditions(records)
    held = {shared[record.run_id][1] for record in records if not exempt(record)}
    beside = grouped(held, lambda key: canonical(_without_target(json.loads(key))))
    groups: dict[tuple[bool, int, tuple[bool, float], str], list[Record]] = {}
    for record in records:
        own, text = shared[record.run_id]
        found = beside.get(canonical(_without_target(own)), []) if exempt(record) else []
        for key in found or [text]:
            rows = in_order(record.spec.training.distinct_examples)
            groups.setdefault((record.spec.score_on != "test", record.rung or 0, rows, key), []).append(record)
    return [groups[key] for key in sorted(groups)]


def _conditions(records: Sequence[Record]) -> dict[str, tuple[dict[str, JsonValue], str]]:
    """Return the conditions of each run, also as text; of runs whose specs have parts in common they are worked out once."""
    known: dict[tuple[int, ...], tuple[dict[str, JsonValue], str]] = {}
    found = {}
    for record in records:
        # The items of a model itself are made anew for each record.
        own = (value for name, value in vars(record.spec).items() if name not in ("method", "model", "seed"))
        key = (*map(id, own), id(record.budget))
        if key not in known:
            conditions = conditions_of(record.spec, record.budget)
            known[key] = conditions, canonical(conditions)
        found[record.run_id] = known[key]
    return found


def exempt(record: Record) -> bool:
    """Tell if a run is exempt from the parameter target, since its method has no size to fit."""
    return record.spec.method.size is None and record.budget is not None


def _held(records: Sequence[Record]) -> Record:
    """Return a record of the setting that is not exempt, or else the first."""
    return next((record for record in records if not exempt(record)), records[0])


def _without_target(shared: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {name: value for name, value in shared.items() if name not in TARGETS}


def each_once(records: Sequence[RecordT]) -> list[RecordT]:
    """Return records without repeated ones; raise LoraBenchError if two different ones have the same run id."""
    kept: dict[str, RecordT] = {}
    for record in records:
        if (other := kept.setdefault(record.run_id, record)) is not record and other != record:
            raise LoraBenchError(
                f"two different records have the run id {record.run_id}; report them apart or give them a series"
            )
    return list(kept.values())


def _setting(records: list[Record], differs: dict[str, JsonValue], environments: Sequence[Environment]) -> Setting:
    models = grouped(records, lambda record: model_key(record.spec.model))
    shown = Counter(name for name, *_ in models)
    tables = []
    for (name, *_), of_model in sorted(models.items()):
        rows = [make_row(group, environments) for _, group in sorted(grouped(of_model, row_key).items())]
        rows.sort(
            key=lambda row: (not row.exempt, natural(row.label), in_order(row.learning_rate), canonical(row.options))
        )
        tables.append(ModelTable(model=of_model[0].spec.model, ambiguous=shown[name] > 1, rows=tuple(rows)))
    search = any(len({(row.label, canonical(row.options)) for row in table.rows}) < len(table.rows) for table in tables)
    first = records[0]
    return Setting(
        spec=first.spec,
        budget=_held(records).budget,
        differs=differs,
        search=search,
        examples=_examples(records),
        tables=tuple(tables),
        rung=unique(record.rung for record in records),
    )


def _examples(records: Sequence[Record]) -> dict[str, int] | None:
    sizes = [record.data.examples for record in records if record.data is not None]
    if not overlap_of(records):
        return unique(sizes)
    return {name: round(statistics.fmean(of.get(name, 0) for of in sizes)) for name in sizes[0]}


def work_of(training: TrainingSpec) -> tuple[Axis, float] | None:
    """Return the axis of work that stops a run, and its amount; None where neither is recorded."""
    amounts = ((axis, getattr(training, axis)) for axis in AXES)
    return next(((axis, amount) for axis, amount in amounts if amount is not None), None)


def model_key(model: ModelSpec) -> tuple[str, str, str, str]:
    """Return the key that the records of one base model share, in which tables are sorted."""
    return model.shown, model.name, model.sha256 or "", model.revision or ""


def _differing(of_groups: list[dict[str, JsonValue]]) -> list[dict[str, JsonValue]]:
    """For each group, its values in the fields that are not the same in all groups."""
    names = sorted(set().union(*of_groups))
    apart = [name for name in names if len({canonical(group.get(name)) for group in of_groups}) > 1]
    return [{name: group.get(name) for name in apart} for group in of_groups]


def flat(data: Mapping[str, JsonValue], prefix: str = "") -> dict[str, JsonValue]:
    """Return nested data by dotted name."""
    found: dict[str, JsonValue] = {}
    for key, value in data.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found
