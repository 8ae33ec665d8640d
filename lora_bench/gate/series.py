"""Series, which the gate follows from night to night, and a night's data on each.

A series is a cell of a suite under fixed conditions on one kind of machine: the same recipe on the same data and base model,
with the same threads. Nights are compared only within a series; any change to its conditions opens a new one. Counts that do
not depend on a machine (numbers of weights, bytes of a checkpoint, FLOPs) belong to the cell.
"""

from typing import Literal, Self

from pydantic import ConfigDict, Field, JsonValue, model_validator

from lora_bench.documents import Strict
from lora_bench.records.record import Environment, Score, Status
from lora_bench.util.filenames import FileName
from lora_bench.util.hashing import content_hash

ID_LENGTH = 12

STEP_SECONDS = "step_seconds"


class CellName(Strict):
    """A cell of a suite, as its author names it.

    Args:
        task: The task; None for a probe.
        model: The base model.
        method: The method, by its label in the suite.
        target: Target of the method's size, such as "adapter_parameters=147456", and the number of different training rows
            if given; None without either.
        learning_rate: Learning rate in a search, which has a cell for each; None elsewhere.
        metric: The task's metric, or `step_seconds` for a probe.
    """

    task: str | None
    model: str
    method: str
    target: str | None
    learning_rate: float | None
    metric: str

    @property
    def words(self) -> tuple[str, ...]:
        """Return the parts of the displayed name; strings from records are not escaped."""
        rate = None if self.learning_rate is None else f"learning rate {self.learning_rate:g}"
        parts = (self.task or "probe", self.model, self.method, self.target, rate, self.metric)
        return tuple(part for part in parts if part is not None)


class Conditions(Strict):
    """Conditions of a cell; numbers under different conditions are not compared.

    Args:
        size: The value of the method's size, such as a rank.
        seeds: Number of runs: a mean over more of them varies less.
        precision: Precision of training.
        threads: CPU threads of a process.
        data: Hash of the data; None for a probe.
        base_model: Hash of the base model.
        recipe: Hash of all other settings of training and scoring in a run spec, and of the method's other options.
    """

    size: JsonValue
    seeds: int
    precision: str | None
    threads: int | None
    data: str | None
    base_model: str | None
    recipe: str


class Machine(Strict):  # frozen, so that it can be a key
    """The parts of an environment that numbers depend on. Packages are left out: a gate must notice their changes."""

    device: str | None
    device_count: int | None
    driver: str | None
    cpu: str | None
    cores: int | None
    system: str | None


Setting = tuple[Conditions, Machine | None]


def machine_of(environment: Environment) -> Machine:
    """Return the machine of an environment."""
    return Machine(**{name: getattr(environment, name) for name in Machine.model_fields})


class Counts(Strict):
    """Exact counts of a cell; null if unknown.

    Args:
        total: The base model with its head, before the method is applied.
        adapter: Weights that the method adds or trains, without the head.
        head: Every weight that the checkpoint does not contain.
        trained: Weights that the optimiser updates.
        stored: Weights that must be saved to restore the result.
        checkpoint_bytes: Bytes that must be kept to restore the result.
        step_flops: FLOPs of a training step, as a probe counts them.
        peak_allocated_bytes: Peak of allocated memory; resident memory is too noisy for a gate.
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
    """One run of a night: a seed or a probe's process, with its score or the reason why it has none.

    Args:
        seed: Its seed, or the number of a probe's process.
        run_id: Its id.
        status: How it ended.
        score: Its score, or the median seconds of a probe's step.
        reason: Why it has no score.
        seconds: Its duration.
        command: Command that runs it again.
    """

    seed: int | None
    run_id: str
    status: Status
    score: Score | None = Field(default=None, allow_inf_nan=False)
    reason: str | None = None
    seconds: float | None = None
    command: str | None = None


class NightCell(Strict):
    """A night's data on one series.

    Args:
        name: The cell.
        conditions: Conditions under which its numbers may be compared.
        environment: Index among the night's environments; None if its runs ended before theirs was known.
        higher_is_better: Whether a greater score is better.
        scale: "log" for times, whose noise is proportional to them.
        margin: The smallest difference of scores that matters, on that scale; None if none is declared.
        counts: Exact counts, which must stay as they are.
        runs: Its runs, in the order of the seeds.
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
        """Return the scores of the runs that have one, in the order of the seeds."""
        return [run.score for run in self.runs if run.score is not None]

    def with_status(self, *statuses: Status) -> list[NightRun]:
        """Return the runs with one of *statuses*."""
        return [run for run in self.runs if run.status in statuses]


class Night(Strict):
    """One repeat of a suite under a series label, with its own seeds.

    Args:
        schema_version: Version of this layout.
        suite: Name of the suite.
        label: The label.
        number: Its place among the accepted nights of a baseline, from 1; None while it is not accepted.
        reason: Reason for accepting it, as the user gave it.
        change: Reason for accepting its changes, if `--change` gave one as a text.
        changed: A line for each changed series that needed an acknowledgement.
        acknowledged: Ids of the series whose change was acknowledged with it: their history begins here.
        flaky: Ids of the series that were suspected in this night and not confirmed by repeated runs.
        environments: The machines and packages of its runs.
        cells: Its data on each series.
    """

    model_config = ConfigDict(populate_by_name=True)

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

    @model_validator(mode="after")
    def _has_its_environments(self) -> Self:
        for cell in self.cells:
            if cell.environment is not None and not 0 <= cell.environment < len(self.environments):
                raise ValueError(f"a cell names environment {cell.environment}, and there are {len(self.environments)}")
        return self

    def setting_of(self, cell: NightCell) -> Setting:
        """Return the conditions and the machine of a cell's runs."""
        machine = None if cell.environment is None else machine_of(self.environments[cell.environment])
        return cell.conditions, machine

    def series_of(self, cell: NightCell) -> str:
        """Return the id of a cell's series: the first hexadecimal digits of the hash of everything that identifies it."""
        parts: list[Strict | None] = [cell.name, *self.setting_of(cell)]
        return content_hash([self.suite, *(part and part.model_dump(mode="json") for part in parts)])[:ID_LENGTH]

    def by_series(self) -> dict[str, NightCell]:
        """Return the cells by series id."""
        return {self.series_of(cell): cell for cell in self.cells}


def with_name(night: Night, name: CellName) -> list[NightCell]:
    """Return a night's cells of that name: several if they ran under different conditions."""
    return [cell for cell in night.cells if cell.name == name]


def changed_conditions(before: Setting, now: Setting) -> list[str]:
    """List the changes that opened a new series, such as "cpu: EPYC → Xeon"; strings from records are not escaped."""
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
