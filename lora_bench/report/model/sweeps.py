"""Sweeps: scores of a method at several values of one number, all else equal.

    Comparison → [Sweep: axis, task, base model] → [SweepLine: a method] → [SweptPoint: value, row]

The number is an option of the method (rank, scaling, length), the learning rate, the work, or how many different training rows
there are. Learning rates that trials chose may differ along a line. Trials have no sweeps: their scores are no results.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Literal, TypeGuard

from pydantic import JsonValue

from lora_bench.records.budget import AXES, Axis, Work
from lora_bench.report.model.comparison import OF_ROWS, TARGETS, Comparison, ModelTable, Setting, conditions_of
from lora_bench.report.model.rows import Row, canonical, grouped, in_order, unique
from lora_bench.report.text import learning_rate, natural

SweptKind = Literal["option", "learning_rate", "distinct_examples", "work"]

# Fewer values are a comparison of two methods, and no curve. Two numbers of rows tell already if an order changes.
FEWEST_VALUES: dict[SweptKind, int] = {"option": 3, "learning_rate": 3, "distinct_examples": 2, "work": 3}

# Greater values in a record are no size of anything.
GREATEST = 1e15

# What says the work of runs, and what follows from it.
_OF_WORK = {f"{part}.{name}" for part in ("training", "budget") for name in (*Work.model_fields, *AXES)} | {
    "training.steps",
    "training.warmup_steps",
}


@dataclass(frozen=True, kw_only=True)
class SweptPoint:
    """A row at a value of the swept number."""

    value: float
    row: Row
    setting: Setting

    @property
    def mean(self) -> float:
        """The mean score of the row, which has one."""
        assert self.row.score is not None, "sweeps are of scored rows"
        return self.row.score.mean


@dataclass(frozen=True, kw_only=True)
class SweepLine:
    """A method along the values, ascending, by its label, or the method's name where each value has a label."""

    name: str
    points: tuple[SweptPoint, ...]

    @property
    def label(self) -> str | None:
        """The label of all its rows, or None if they have several."""
        return unique(point.row.label for point in self.points)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The lines over one number, such as "rank", on one task and base model; *setting* is one of theirs.

    *apart* tells it from sweeps over the same number in other settings of its task; "" for none.
    """

    kind: SweptKind
    axis: str
    setting: Setting
    table: ModelTable
    lines: tuple[SweepLine, ...]
    apart: str = ""

    @property
    def subject(self) -> tuple[str, str]:
        """The task and the number."""
        return self.setting.spec.task.name, self.axis


Cut = Callable[[SweptPoint], tuple[object, ...]]


def sweeps(comparison: Comparison) -> tuple[Sweep, ...]:
    """Return every sweep of the results, those of one task and number together."""
    groups: list[list[Sweep]] = []
    results = {id(setting) for setting in comparison.results}
    for settings in over_targets(comparison):
        models = _by_model([setting for setting in settings if id(setting) in results])
        groups.append([sweep for table, rows in models for sweep in _over_options(table, rows)])
        at_rates = [(table, _placed(points, lambda point: point.row.learning_rate)) for table, points in models]
        over = [_sweep("learning_rate", "learning rate", table, points, _CUTS[:2]) for table, points in at_rates]
        groups.append([sweep for found in over for sweep in found])

    def rows_of(setting: Setting) -> float | None:
        # All of them where no number is given.
        return setting.distinct_examples or (setting.examples or {}).get("train")

    for settings in _alike(comparison, OF_ROWS):
        groups.append([*_over_settings("distinct_examples", "different training rows", settings, rows_of)])
    for settings in _alike(comparison, _OF_WORK):
        for axis, name in _WORK_NAMES.items():
            groups.append([*_over_settings("work", name, settings, attrgetter(f"spec.training.{axis}"))])
    found = [sweep for group in _told_apart(groups) for sweep in group]
    return tuple(sorted(found, key=lambda sweep: sweep.subject))


def over_targets(comparison: Comparison) -> list[list[Setting]]:
    """Every setting, beside those of its kind that differ from it in nothing but their target; the smallest target first."""

    def kind(setting: Setting) -> tuple[str, bool, str]:
        rest = {name: value for name, value in setting.differs.items() if name not in TARGETS}
        return setting.spec.task.name, setting.search, canonical(rest)

    def order(setting: Setting) -> tuple[object, ...]:
        axis, amount = setting.parameter_target or ("", None)
        return axis, in_order(amount)

    return [sorted(group, key=order) for group in grouped(comparison.settings, kind).values()]


def _told_apart(groups: Sequence[Sequence[Sweep]]) -> list[list[Sweep]]:
    """The sweeps of each group of settings, with what sets them apart from those of another with the same task and number."""
    found = []
    for group in groups:
        named = []
        for sweep in group:
            others = [one for one in groups if any(other.subject == sweep.subject for other in one)]
            rows = [one[0].setting.distinct_examples for one in others]
            own = sweep.setting.distinct_examples
            by_rows = sweep.kind != "distinct_examples" and own is not None and rows.count(own) == 1
            number = next(place for place, one in enumerate(others, start=1) if one is group)
            apart = f"{own:,} rows" if by_rows else f"setting {number}"
            named.append(replace(sweep, apart=apart) if len(others) > 1 else sweep)
        found.append(named)
    return found


_WORK_NAMES: dict[Axis, str] = {
    "train_examples": "examples seen",
    "train_tokens": "real tokens seen",
    "train_flops": "FLOPs of training",
    "train_seconds": "seconds of training",
}


def _by_model(settings: Sequence[Setting]) -> list[tuple[ModelTable, list[SweptPoint]]]:
    """Return the scored rows of each base model, each once; their value is not known yet."""
    found: dict[str, tuple[ModelTable, dict[tuple[str, ...], SweptPoint]]] = {}
    for setting in settings:
        for table in setting.tables:
            _, points = found.setdefault(canonical(table.model.model_dump()), (table, {}))
            for row in table.rows:
                if row.score is not None:
                    points.setdefault(row.run_ids, SweptPoint(value=0.0, row=row, setting=setting))
    return [(table, [*points.values()]) for table, points in found.values()]


def _placed(points: Sequence[SweptPoint], value_of: Callable[[SweptPoint], float | None]) -> list[SweptPoint]:
    return [replace(point, value=float(value)) for point in points if (value := value_of(point)) is not None]


def _over_options(table: ModelTable, points: Sequence[SweptPoint]) -> Iterable[Sweep]:
    names = {name for point in points for name, value in point.row.options.items() if _is_number(value)}
    for name in sorted(names):

        def option(point: SweptPoint, name: str = name) -> float | None:
            value = point.row.options.get(name)
            return value if _is_number(value) else None

        def rest(point: SweptPoint, name: str = name) -> str:
            return canonical({key: value for key, value in point.row.options.items() if key != name})

        cuts: tuple[Cut, ...] = (
            lambda point: (point.row.method, rest(point)),
            lambda point: (point.row.method, rest(point), point.row.learning_rate),
        )
        yield from _sweep("option", name.replace("_", " "), table, _placed(points, option), cuts)


_CUTS: tuple[Cut, ...] = (
    lambda point: (point.row.method, canonical(point.row.options)),
    lambda point: (point.row.label, canonical(point.row.options)),
    lambda point: (point.row.label, canonical(point.row.options), point.row.learning_rate),
)


def _over_settings(
    kind: SweptKind, axis: str, settings: Sequence[Setting], value_of: Callable[[Setting], float | None]
) -> Iterable[Sweep]:
    for table, points in _by_model(settings):
        having = [point for point in _placed(points, lambda point: value_of(point.setting)) if point.value > 0]
        yield from _sweep(kind, axis, table, having, _CUTS)


def _alike(comparison: Comparison, but: set[str]) -> list[list[Setting]]:
    """Return the results that share all conditions *but* these, several together."""

    def shared(setting: Setting) -> str:
        known = conditions_of(setting.spec, setting.budget)
        return canonical({name: value for name, value in known.items() if name not in but})

    return [group for group in grouped(comparison.results, shared).values() if len(group) > 1]


def _sweep(
    kind: SweptKind, axis: str, table: ModelTable, points: Sequence[SweptPoint], cuts: Sequence[Cut]
) -> list[Sweep]:
    """Return the sweep of these points, or none: lines by the coarsest of *cuts* that gives each value of a line one row."""
    fewest = FEWEST_VALUES[kind]
    lines: list[tuple[SweptPoint, ...]] = []
    pending = [[*points]]
    for cut in cuts:
        again = []
        for group in pending:
            for line in grouped(group, cut).values():
                values = {point.value for point in line}
                if len(values) < fewest:
                    continue
                if len(values) == len(line):
                    lines.append(tuple(sorted(line, key=lambda point: point.value)))
                else:
                    again.append(line)
        pending = again
    if not lines:
        return []
    named = sorted(zip(_names(lines, axis), lines, strict=True), key=lambda item: natural(item[0]))
    found = tuple(SweepLine(name=name, points=line) for name, line in named)
    return [Sweep(kind=kind, axis=axis, setting=found[0].points[0].setting, table=table, lines=found)]


def _names(lines: Sequence[Sequence[SweptPoint]], axis: str) -> list[str]:
    """Return the name of each line: its label or method, with the options in which lines of that name differ."""
    plain = [unique(point.row.label for point in line) or line[0].row.method for line in lines]
    found = []
    for name, line in zip(plain, lines, strict=True):
        same = [other for other, of in zip(lines, plain, strict=True) if of == name]
        facts = [_facts(other, axis) for other in same]
        own = _facts(line, axis)
        apart = [key for key in own if len({canonical(one.get(key)) for one in facts}) > 1]
        found.append(", ".join([name, *(f"{key} {own[key]}" for key in apart)]))
    return found


def _facts(line: Sequence[SweptPoint], axis: str) -> Mapping[str, JsonValue]:
    """Return what all points of a line share: its options but the swept one, and the learning rate."""
    first = line[0].row
    facts = {key.replace("_", " "): value for key, value in first.options.items()}
    facts.pop(axis, None)
    if len({point.row.learning_rate for point in line}) == 1 and axis != "learning rate":
        facts["learning rate"] = learning_rate(first.learning_rate)
    return facts


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and -GREATEST < value < GREATEST
