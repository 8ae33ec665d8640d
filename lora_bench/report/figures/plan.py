"""The plan of a figure: all that it shows, before it is drawn, and its caption.

Captions have words of ours alone and none of a record, so they are inert wherever they are shown. They explain only what the
figure shows. On the Pareto front are the rows that no other dominates: one that is at least as good in both score and cost, and
better in one of them. It compares means and recorded costs, and ignores their uncertainty.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lora_bench.records.budget import PARAMETER_AXES
from lora_bench.records.record import Environment, Record
from lora_bench.report.figures.curves import scores_of
from lora_bench.report.model.comparison import ModelTable, Setting
from lora_bench.report.model.rows import Row
from lora_bench.report.model.sweeps import Sweep, SweptKind
from lora_bench.report.text import MIB, listed
from lora_bench.stats import Interval

Form = Literal["svg", "pdf"]
Kind = Literal["trade_offs", "learning_curves", "over_time", "learning_rates", "sweeps"]


class Style(NamedTuple):
    """Looks of a method, the same in every figure."""

    colour: str
    marker: str


@dataclass(frozen=True)
class Cost:
    """One axis of a trade-off: a name with its unit, and where a row stands; None where that is unknown or it has no place.

    Costs of one *basis* can be compared. Other work on the machine changes a *measured* one, and none that is counted.
    """

    label: str
    measured: bool
    of: Callable[[Row], float | None]
    basis: Callable[[Row], Hashable]


@dataclass(frozen=True, kw_only=True)
class FigurePlan:
    """A figure to draw: its content, its subject, and the name of its file.

    Args:
        settings: Settings of one task that differ in nothing but their target, the smallest first.
        tables: The rows of each base model over these settings, those exempt once.
        styles: The look of each method, by label, or of each line of a sweep, by name.
        sweeps: Sweeps that it draws, of one task and number; a panel each.
    """

    kind: Kind
    settings: tuple[Setting, ...]
    tables: tuple[ModelTable, ...]
    styles: Mapping[str, Style]
    file: str
    costs: tuple[Cost, ...] = ()
    sweeps: tuple[Sweep, ...] = ()

    @property
    def caption(self) -> str:
        """How to read it, and its limits."""
        if self.kind == "trade_offs":
            return " ".join(_trade_offs(self))
        if self.kind == "learning_curves":
            return " ".join(_learning_curves(self))
        if self.kind == "over_time":
            return (
                "Score on the selection split against the seconds of training, without evaluations. Thin: seeds. Thick: their "
                "mean, as long as all of them last."
            )
        if self.kind == "sweeps":
            return _sweep(self.sweeps[0].kind)
        if any(row.score is not None and row.score.interval is not None for row in self.rows):
            return _sweep("learning_rate")
        return "Score against the learning rate. Lines: through the means. Small points: seeds, if there are several."

    @property
    def rows(self) -> list[Row]:
        """The rows of all its base models."""
        return [row for table in self.tables for row in table.rows]

    @property
    def runs(self) -> list[Record]:
        """The records of its rows."""
        return [run for row in self.rows for run in row.records]


class HeatMap(NamedTuple):
    """A panel of a figure of heat maps: names from the top and from the left, and values; None for an empty cell."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]


def padded(low: float, high: float, share: float) -> tuple[float, float]:
    """Limits a share of their span further out, and some way apart where they are equal."""
    span = (high - low) or abs(high) * 0.1 or 1.0
    return low - share * span, high + share * span


def stretched(values: Sequence[float], intervals: Iterable[Interval | None]) -> tuple[float, float]:
    """Return limits around all values, and around intervals as far as they reach half the span of the values further out."""
    ends = [end for interval in intervals if interval is not None for end in (interval.low, interval.high)]
    low, high = min(values), max(values)
    room = (high - low) / 2
    return max(min([low, *ends]), low - room), min(max([high, *ends]), high + room)


LEAVES = "Arrowhead: an interval leaves the panel."

_NAMES = {
    "adapter parameters": "adapter parameters (without the head)",
    "stored parameters": "stored parameters (with the head)",
    "peak memory above the start, MiB": "the peak memory of training",
    "training step, ms": "the time of a training step",
}

_SWEPT: dict[SweptKind, str] = {
    "option": "one option of a method, all others equal",
    "learning_rate": "the learning rate",
    "distinct_examples": "the number of different training rows",
    "work": "the work of a run",
}


def _sweep(kind: SweptKind) -> str:
    return (
        f"Score against {_SWEPT[kind]}: seeds (small points), their mean and its 95 % interval. Lines: through the means. "
        f"{LEAVES}"
    )


def _trade_offs(plan: FigurePlan) -> list[str]:
    rows, costs, tables = plan.rows, plan.costs, plan.tables
    counted = [cost for cost in costs if not cost.measured]
    measured = [cost for cost in costs if cost.measured]
    names = listed([_NAMES[cost.label] for cost in costs])
    said = [f"Score against {names}: seeds (small points), their mean and its 95 % interval."]
    better = plan.settings[0].spec.task.higher_is_better
    if any(front_of(table.rows, cost, better) for table in tables for cost in costs):
        said.append(
            "Dotted steps: the Pareto front of mean score and cost. It is of means alone: with other seeds, rows whose "
            "intervals overlap it may cross it."
        )
    if any(several_bases(table.rows, cost) for table in tables for cost in measured):
        said.append("Measurements of several machines or kinds of memory have no front.")
    if counted and any(row.exempt and row.score is not None for row in rows):
        said.append("Dashed: the mean of a method without a size, which has no place among the parameters.")
    if counted and any(setting.parameter_target is not None for setting in plan.settings):
        said.append("Grey: counts that keep the budget.")
    if len(plan.settings) > 1:
        said.append("Thin lines join the targets of a method.")
    if any(not_alone(row, cost) for row in rows for cost in measured):
        said.append("Hollow: not measured alone, or not recorded.")
    return [*said, LEAVES]


def _learning_curves(plan: FigurePlan) -> list[str]:
    evaluated = any(scores_of(run.curve, plan.settings[0].spec.task.metric) for run in plan.runs)
    what = "Training loss, and below it the score of evaluations while training," if evaluated else "Training loss"
    said = [
        f"{what} against the step. Thin: seeds. Thick: their mean, as long as all of them last. A point of the loss is a mean "
        "over the steps since the one before."
    ]
    if any(row.failures and any(run.curve for run in row.records) for row in plan.rows):
        said.append("Failed runs are in no mean.")
    return said


def not_alone(row: Row, cost: Cost) -> bool:
    """Tell if a row has a measured cost that other work on the machine may have changed."""
    return cost.measured and row.score is not None and cost.of(row) is not None and not row.exclusive


def costs_of(settings: Sequence[Setting], environments: Sequence[Environment]) -> list[Cost]:
    """Parameters, peak memory and step time, as far as a row with a score has them.

    Parameters are those that all settings with a target hold equal, else those of the adapter. An exempt method has no place
    among them: full fine-tuning trains some hundred times as many. Measurements share a basis where they are of one machine and
    one kind of memory.
    """
    held = {setting.parameter_target[0] for setting in settings if setting.parameter_target is not None}
    axis = held.pop() if len(held) == 1 else PARAMETER_AXES[0]
    machines = [(found.device, found.device_count, found.cpu, found.cores) for found in environments]

    def measured_on(row: Row) -> Hashable:
        return row.memory_kind, frozenset(machines[index] for index in row.environments)

    def counted(row: Row) -> float | None:
        # Nothing has no place on a logarithmic axis.
        return None if row.exempt or row.parameters is None else row.parameters.on(axis) or None

    def times(value: float | None, factor: float) -> float | None:
        return None if value is None else value * factor

    every = [
        Cost(axis.replace("_", " "), False, counted, lambda row: None),
        Cost("peak memory above the start, MiB", True, lambda row: times(row.train_peak_bytes, 1 / MIB), measured_on),
        Cost("training step, ms", True, lambda row: times(row.step_seconds, 1000), measured_on),
    ]
    scored = [row for setting in settings for row in setting.rows if row.score is not None]
    known = [cost for cost in every if any(cost.of(row) is not None for row in scored)]
    # Where a budget makes the parameters of all rows equal, a panel of them would show nothing.
    held_equal = len(settings) == 1 and settings[0].parameter_target is not None
    equal = held_equal and all(row.within_budget for row in scored if not row.exempt)
    return [cost for cost in known if cost.measured or not equal]


def front_of(rows: Sequence[Row], cost: Cost, higher_is_better: bool | None) -> list[Row]:
    """Return the rows on the front of mean score and *cost*, the cheapest first.

    Empty where fewer than two rows are on it, no record says which scores are better, or costs are not of one basis.
    """
    if higher_is_better is None or several_bases(rows, cost):
        return []
    placed = [row for row in rows if row.score is not None and cost.of(row) is not None]
    points = [(cost.of(row), row.score.mean if row.score is not None else None) for row in placed]
    front = pareto_front(points, higher_is_better=higher_is_better)
    return [placed[index] for index in front] if len(front) > 1 else []


def several_bases(rows: Sequence[Row], cost: Cost) -> bool:
    """Tell if the costs of some rows cannot be compared."""
    return len({cost.basis(row) for row in rows if row.score is not None and cost.of(row) is not None}) > 1


def pareto_front(points: Sequence[tuple[float | None, float | None]], *, higher_is_better: bool) -> list[int]:
    """Return the indexes of the points that no other dominates, the cheapest first; equal points do not dominate each other.

    A point is a cost, of which less is better, and a score; one that lacks either is left out.
    """
    sign = 1 if higher_is_better else -1
    known = [
        (cost, sign * score, at) for at, (cost, score) in enumerate(points) if cost is not None and score is not None
    ]

    def dominated(cost: float, gain: float) -> bool:
        return any(less <= cost and more >= gain and (less, more) != (cost, gain) for less, more, _ in known)

    return [at for cost, gain, at in sorted(known) if not dominated(cost, gain)]
