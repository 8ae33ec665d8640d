"""Series: what the gate follows from night to night, and what a night says of each.

A series is a cell of a suite under fixed conditions on one kind of machine: the same recipe on the same data and base model,
with the same threads. Two nights are compared within a series and nowhere else; anything of that changed opens another one.
What does not depend on a machine (numbers of weights, bytes of a checkpoint, FLOPs) belongs to the cell.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import ConfigDict, Field, JsonValue

from lora_bench.documents import Strict
from lora_bench.records.record import Environment, Status
from lora_bench.util.filenames import FileName
from lora_bench.util.hashing import content_hash

ID_LENGTH = 12

STEP_SECONDS = "step_seconds"


class CellName(Strict):
    """A cell of a suite, as its author names it.

    Args:
        task: The task; None for a probe, which has none.
        target: What the method's size is fitted to, such as "adapter_parameters=147456"; None for a method without size.
        learning_rate: Of a search, which has a cell for each; None elsewhere.
        metric: What is followed: the task's metric, or `step_seconds` of a probe.
    """

    task: str | None
    model: str
    method: str
    target: str | None
    learning_rate: float | None
    metric: str

    @property
    def words(self) -> tuple[str, ...]:
        """The name as readers should see it, part by part; strings from records as they are."""
        rate = None if self.learning_rate is None else f"learning rate {self.learning_rate:g}"
        parts = (self.task or "probe", self.model, self.method, self.target, rate, self.metric)
        return tuple(part for part in parts if part is not None)


class Conditions(Strict):
    """What a cell is held under; numbers under other conditions are not compared.

    Args:
        size: The value of the method's size, such as a rank.
        seeds: Number of runs: a mean over more of them varies less.
        recipe: Hash of everything else that a run spec says of training and scoring, and of the method's other options.
    """

    size: JsonValue
    seeds: int
    precision: str | None
    threads: int | None
    data: str | None
    base_model: str | None
    recipe: str


class Machine(Strict):  # frozen, so that it can be a key
    """What of an environment numbers depend on, beside the packages, whose changes are what a gate is to notice."""

    device: str | None
    device_count: int | None
    driver: str | None
    cpu: str | None
    cores: int | None
    system: str | None


def machine_of(environment: Environment) -> Machine:
    """The machine of an environment."""
    return Machine(**{name: getattr(environment, name) for name in Machine.model_fields})


class Counts(Strict):
    """What a cell comes to exactly; null where nothing tells.

    Args:
        checkpoint_bytes: What must be kept to restore the result.
        step_flops: FLOPs of a training step, as a probe counts them.
        peak_allocated_bytes: Most that was allocated at one time; resident memory is too noisy for a gate.
    """

    total: int | None = None
    adapter: int | None = None
    head: int | None = None
    trained: int | None = None
    stored: int | None = None
    checkpoint_bytes: int | None = None
    step_flops: int | None = None
    peak_allocated_bytes: int | None = None


class NightRun(Strict):
    """One run of a night: a seed, or a process of a probe, with its score or the reason why it has none."""

    seed: int | None
    run_id: str
    status: Status
    score: float | None = Field(default=None, allow_inf_nan=False)
    reason: str | None = None
    seconds: float | None = None
    command: str | None = None


class NightCell(Strict):
    """What a night says of one series.

    Args:
        environment: Index among the night's environments; None where its runs did not get so far as to have one.
        scale: "log" for times, whose noise is a share of them.
        margin: Difference of scores that nobody should care about, on that scale; None where nobody declared one.
    """

    name: CellName
    conditions: Conditions
    environment: int | None
    higher_is_better: bool
    scale: Literal["linear", "log"] = "linear"
    margin: float | None
    counts: Counts
    runs: tuple[NightRun, ...]

    @property
    def scores(self) -> list[float]:
        """The scores that there are, in the order of the seeds."""
        return [run.score for run in self.runs if run.score is not None]

    def with_status(self, *statuses: Status) -> list[NightRun]:
        """The runs that ended so."""
        return [run for run in self.runs if run.status in statuses]


class Night(Strict):
    """One repeat of a suite under a series label, with seeds of its own.

    Args:
        label: The label.
        number: Its place among the accepted nights of a baseline, from 1; None while it is not accepted.
        reason: Why it was accepted, in the words of who did.
        change: Why what changed was accepted with it, where `--change` says so in words.
        changed: What changed, a line for each series that was not accepted without an acknowledgement.
        acknowledged: Ids of the series whose change was acknowledged with it: their history begins here.
        flaky: Ids of the series that were suspected in this night, and not when they were run again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    schema_version: int = Field(alias="schema", default=1)
    suite: str
    label: FileName
    number: int | None = None
    reason: str | None = None
    change: str | None = None
    changed: tuple[str, ...] = ()
    acknowledged: tuple[str, ...] = ()
    flaky: tuple[str, ...] = ()
    environments: tuple[Environment, ...]
    cells: tuple[NightCell, ...]

    def environment_of(self, cell: NightCell) -> Environment | None:
        """Where a cell's runs ran."""
        return None if cell.environment is None else self.environments[cell.environment]

    def machine_of(self, cell: NightCell) -> Machine | None:
        """On what a cell's runs ran."""
        environment = self.environment_of(cell)
        return None if environment is None else machine_of(environment)

    def series_of(self, cell: NightCell) -> str:
        """The id of a cell's series."""
        return series_id(self.suite, cell.name, cell.conditions, self.machine_of(cell))

    def by_series(self) -> dict[str, NightCell]:
        """Its cells, by the ids of their series."""
        return {self.series_of(cell): cell for cell in self.cells}


def series_id(suite: str, name: CellName, conditions: Conditions, machine: Machine | None) -> str:
    """The first hexadecimal digits of the hash of all that makes a series the same one."""
    parts: list[Strict | None] = [name, conditions, machine]
    return content_hash([suite, *(part and part.model_dump(mode="json") for part in parts)])[:ID_LENGTH]


def with_name(night: Night, name: CellName) -> list[NightCell]:
    """A night's cells of that name: several where they ran under different conditions."""
    return [cell for cell in night.cells if cell.name == name]


def changed_conditions(before: tuple[Conditions, Machine | None], now: tuple[Conditions, Machine | None]) -> list[str]:
    """What opened another series: "cpu: EPYC → Xeon"; parts of records as they are."""
    changes = []
    for old, new in zip(before, now, strict=True):
        was = {} if old is None else old.model_dump(mode="json")
        is_now = {} if new is None else new.model_dump(mode="json")
        changes += [
            f"{field.replace('_', ' ')}: {_shown(was.get(field))} → {_shown(is_now.get(field))}"
            for field in dict.fromkeys([*was, *is_now])
            if was.get(field) != is_now.get(field)
        ]
    return changes


def _shown(value: JsonValue) -> str:
    return "unknown" if value is None else str(value)


def same_bound(cells: Iterable[NightCell], of: NightCell) -> list[NightCell]:
    """Those cells whose counts have to be the same as *of*'s: same data, base model and recipe, on whatever machine."""

    def bound(cell: NightCell) -> tuple[object, ...]:
        held = cell.conditions
        return held.precision, held.data, held.base_model, held.recipe

    return [cell for cell in cells if cell.name == of.name and bound(cell) == bound(of)]
