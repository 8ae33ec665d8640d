"""The method to take, with what that may cost: the cheapest whose expected loss to the best is within the margin.

    rows of a table → draws of their true scores (`stats.expected_loss`) → losses of each → Choice
    choices of several tables → draws of the means of methods that all have → Taken

Where the runs tell no spread, as with one seed, the means over the seeds that all have count, with the error of their test rows
and the spread that runs usually have. Where that is unknown too, the best of these means is chosen, and no loss is stated.
Sound runs are asked first; where they tell neither, all runs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from lora_bench.errors import LoraBenchError, unknown
from lora_bench.metrics import default_margin
from lora_bench.records.analysis import Analysis
from lora_bench.records.record import Record
from lora_bench.records.store import answers_in, read_records
from lora_bench.report import text
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting, compare
from lora_bench.report.model.given_answers import NeverFound, given_by, never_found
from lora_bench.report.model.judged import judge_comparison
from lora_bench.report.model.rows import Row
from lora_bench.report.model.searches import GivenCosts, Searches
from lora_bench.report.model.seed_scores import AnswersOf, Scored, no_answers, scored
from lora_bench.report.model.true_scores import draws_of
from lora_bench.stats.expected_loss import SURE, Loss, losses
from lora_bench.stats.items import Floats

Prefer = Literal["storage", "memory", "time"]
STORAGE: Prefer = "storage"

# Costs that differ by a smaller share count as equal: a budget has a tolerance.
LIKE_COST = 0.1
NO_RESULT = "No result: too many runs did no better than a constant answer"
POINTS = "points"
USUAL = "the usual spread of runs"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The choice among the methods of one task and base model that have a score.

    Args:
        costs: What each costs; None where it was not measured.
        drawn: Draws of their true gains, shape (draws, methods); None where no spread of runs is known.
        usual: Whether the spread of runs is the usual one, as theirs do not tell it.
        best: Row with the best mean score.
        margin: Loss that does not matter, in the unit of the metric; None for none.
        learned: False if the report of these runs finds no result.
    """

    setting: Setting
    table: ModelTable
    rows: tuple[Row, ...]
    costs: tuple[float | None, ...]
    drawn: Floats | None
    usual: bool
    chosen: Row
    best: Row
    margin: float | None
    prefer: Prefer | GivenCosts
    answers: AnswersOf
    learned: bool = True

    @property
    def doubt(self) -> str | None:
        """A sentence before the choice, where it is one among runs that learned next to nothing."""
        return None if self.learned else f"{NO_RESULT}; train longer. Until then, of these methods:"

    @property
    def method(self) -> str:
        """Label of the chosen method."""
        return self.chosen.label

    @property
    def alike(self) -> list[str]:
        """Labels of the methods with the results and the cost of the chosen one, itself included: it is any of them."""
        results = [([(of.seed, of.value) for of in row.scores], len(row.failures)) for row in self.rows]
        known = [*zip(results, self.costs, strict=True)]
        own = known[self.rows.index(self.chosen)]
        return [row.label for row, of_row in zip(self.rows, known, strict=True) if of_row == own]

    @cached_property
    def losses(self) -> tuple[Loss, ...] | None:
        """Loss of each method to the best of them; None where no spread of runs is known."""
        return None if self.drawn is None else losses(self.drawn)

    @property
    def loss(self) -> Loss | None:
        """Loss of the chosen method."""
        return None if self.losses is None else self.losses[self.rows.index(self.chosen)]

    @property
    def uneven(self) -> bool:
        """Whether only the seeds that all have count, and some methods have more."""
        seeds = [_seeds(row) for row in self.rows]
        return (
            (self.drawn is None or self.usual)
            and bool(set.intersection(*seeds))
            and any(of != seeds[0] for of in seeds)
        )

    @property
    def by_usual(self) -> str:
        """Words on what a loss rests where the runs tell no spread; "" where they do."""
        return f", by {'the one seed that all have' if self.uneven else 'one seed'} and {USUAL}" if self.usual else ""

    @property
    def unit(self) -> str:
        """The unit of losses: "points" of 100, or the metric."""
        metric = self.setting.spec.task.metric
        return POINTS if default_margin(metric) is not None else metric or "of the score"

    @property
    def reasons(self) -> tuple[str, ...]:
        """A sentence for each method: its score, its loss and its cost; and one on classes that the chosen one never finds."""
        known = self.losses or [None] * len(self.rows)
        said = [self._reason(row, loss, cost) for row, loss, cost in zip(self.rows, known, self.costs, strict=True)]
        lost = self.never_found(self.chosen)
        return (*said, lost.words(by=self.method)) if lost is not None else tuple(said)

    def never_found(self, row: Row) -> NeverFound | None:
        """Return the classes that no run of a row finds; None if there are none, or predictions are not stored."""
        given = given_by(row, self.setting.spec.task, self.answers)
        return None if given is None else never_found(given)

    def _reason(self, row: Row, loss: Loss | None, cost: float | None) -> str:
        assert row.score is not None
        said = f"{row.label}: {text.score(row.score.mean)} over {text.plural(row.score.n, 'seed')}"
        if row is self.best:
            said += f", the best mean{' over the seeds that all have' if self.uneven else ''}"
        said += f", expected to lose {loss_words(loss, self.unit)}" if loss is not None else ""
        if row.failures:
            said += f", {len(row.failures)} of {text.plural(len(row.run_ids), 'run')} failed"
        said += f"; {_cost_words(row, cost, self.prefer)}"
        return f"{said}{'; chosen' if row is self.chosen else ''}"


@dataclass(frozen=True)
class Taken:
    """The one method to take on all of several tables, or on the only one.

    Args:
        loss: Of its mean over tables to that of the best one method; None where no spread of runs is known.
        least: Label of the method with the least expected loss, *least_loss*.
        of: Number of methods that all tables have.
        margin: Loss that does not matter, the mean over tables; None for none.
        unit: "points" of 100, or the metric.
        cost: Of a table, on average; None where that of a method is not known.
        least_cost: That of the method with the least loss.
        alike: Labels of the other methods whose expected loss reads the same.
    """

    label: str
    loss: Loss | None
    least: str
    least_loss: Loss | None
    of: int
    margin: float | None
    unit: str
    cost: float | None = None
    least_cost: float | None = None
    alike: tuple[str, ...] = ()


def loss_words(loss: Loss, unit: str) -> str:
    """Return a loss in words, such as "0.3 points, at most 1.4 with 90 %"."""
    expected, most = amount_words(loss.expected, unit), amount_words(loss.at_most, unit, bound=True)
    if expected == most:
        return f"{expected} {unit}"
    return f"{expected} {unit}, at most {most} with {text.percent(SURE, 0)}"


def amount_words(amount: float, unit: str, *, bound: bool = False) -> str:
    """Return an amount of score in the unit of a choice, such as "0.3", or "under 0.1"; a *bound* is rounded up."""
    factor, digits = (100.0, 1) if unit == POINTS else (1.0, 4)
    last = factor * amount * 10**digits
    shown = math.ceil(last - 1e-6) if bound else round(last)
    return f"{shown / 10**digits:.{digits}f}" if round(last) else f"under {10.0**-digits:.{digits}f}"


def choose_method(
    runs: str | Path,
    *,
    margin: float | None = None,
    prefer: Prefer = "storage",
    task: str | None = None,
    model: str | None = None,
) -> tuple[Choice, ...]:
    """Choose a method for each task and base model of the records at *runs*.

    Args:
        runs: Folder of runs or a baseline.
        margin: Loss of score that does not matter; the declared margin by default.
        prefer: Cost to keep small.
        task: Only this task.
        model: Only this base model, by its name or the name that reports show.

    Raises:
        LoraBenchError: If there is no such task or model, or no method has a score.
    """
    records = read_records(Path(runs))
    answers = answers_in(Path(runs), records)
    return choose_among(records, answers, margin=margin, prefer=prefer, task=task, model=model)


def choose_among(
    records: Sequence[Record],
    answers: AnswersOf = no_answers,
    *,
    margin: float | None = None,
    prefer: Prefer = "storage",
    task: str | None = None,
    model: str | None = None,
) -> tuple[Choice, ...]:
    """Choose as `choose_method` does, among records at hand."""
    if prefer not in get_args(Prefer):
        raise unknown("cost", prefer, get_args(Prefer))
    comparison = compare(records)
    tables = _chosen_tables(comparison, task, model)
    found = choices_of(comparison, records, answers, tables=tables, margin=margin, prefer=prefer)
    if not found:
        raise LoraBenchError("no method has a score, so there is nothing to choose")
    judged = judge_comparison(comparison, records, answers)
    learned = judged is None or not judged.no_result
    return tuple(replace(choice, learned=learned) for choice in found)


def choices_of(
    comparison: Comparison,
    records: Sequence[Record],
    answers: AnswersOf,
    *,
    tables: Sequence[tuple[Setting, ModelTable]] | None = None,
    margin: float | None = None,
    prefer: Prefer | GivenCosts = "storage",
) -> tuple[Choice, ...]:
    """Return the choice for each of *tables* with a score; by default for all results, as a report's headline advises."""
    declared = next((record.analysis for record in records if record.analysis is not None), Analysis(reference=""))
    searches = Searches(comparison)
    found = []
    for setting, table in _result_tables(comparison) if tables is None else tables:
        rows = [row for row in table.rows if row.score is not None]
        if rows:
            task = setting.spec.task
            of_table = [scored(row, setting, answers, searches.error(row, table, setting)) for row in rows]
            allowed = declared.margin_of(task.name, task.metric) if margin is None else margin
            found.append(_choose(table, of_table, allowed, prefer, answers))
    return tuple(found)


def _result_tables(comparison: Comparison) -> list[tuple[Setting, ModelTable]]:
    results = [setting for setting in comparison.results if not setting.search and not setting.trials]
    return [(setting, table) for setting in results for table in setting.tables]


def _chosen_tables(comparison: Comparison, task: str | None, model: str | None) -> list[tuple[Setting, ModelTable]]:
    """Return the results of a task and base model, or of all; raise LoraBenchError if there are none but trials."""
    tables = _result_tables(comparison)
    if not tables:
        raise LoraBenchError(
            "these runs only search for learning rates; a method is chosen from runs on the test split"
        )
    for kind, wanted, names in (
        ("task", task, [{setting.spec.task.name} for setting, _ in tables]),
        ("base model", model, [{table.model.name, table.model.shown} for _, table in tables]),
    ):
        known = sorted(set().union(*names))
        if wanted is not None and wanted not in known:
            raise unknown(kind, wanted, known)
    return [
        (setting, table)
        for setting, table in tables
        if task in (None, setting.spec.task.name) and model in (None, table.model.name, table.model.shown)
    ]


def _choose(
    table: ModelTable, of_table: Sequence[Scored], margin: float | None, prefer: Prefer | GivenCosts, answers: AnswersOf
) -> Choice:
    """Choose among the methods of one table, which all have a score."""
    rows, setting = [one.row for one in of_table], of_table[0].setting
    costs = _costs(rows, prefer)
    drawn, usual = draws_of(of_table)
    means = _gains(rows, setting.sign, paired=usual or drawn is None)
    whole = [place for place, row in enumerate(rows) if not row.failures] or [*range(len(rows))]
    best = max(whole, key=lambda place: means[place])
    found = None if drawn is None else losses(drawn)
    return Choice(
        setting=setting,
        table=table,
        rows=tuple(rows),
        costs=tuple(costs),
        drawn=drawn,
        usual=usual,
        chosen=rows[best if found is None else cheapest(whole, found, costs, margin)],
        best=rows[best],
        margin=margin,
        prefer=prefer,
        answers=answers,
    )


def take(choices: Sequence[Choice]) -> Taken | None:
    """Return the one method to take on all tables, or None where they share no two methods or no scale, or methods tie."""
    names = [[row.label for row in choice.rows] for choice in choices]
    labels = [label for label in names[0] if all(of.count(label) == 1 for of in names)] if names else []
    units = {choice.unit for choice in choices}
    if len(labels) < 2 or len(units) > 1:
        return None
    (unit,) = units
    places = [(choice, [of.index(label) for label in labels]) for choice, of in zip(choices, names, strict=True)]
    drawn = [choice.drawn[:, place] for choice, place in places if choice.drawn is not None]
    if len(drawn) < len(choices):
        label, *others = {choice.method for choice in choices}
        return None if others or any(map(_tied, choices)) else Taken(label, None, label, None, len(labels), None, unit)
    found = losses(np.mean(drawn, axis=0))
    margins = [choice.margin for choice in choices if choice.margin is not None]
    margin = float(np.mean(margins)) if len(margins) == len(choices) else None
    methods = [*zip(*([(choice.rows[at], choice.costs[at]) for at in place] for choice, place in places), strict=True)]
    known = [[cost for _, cost in of_method if cost is not None] for of_method in methods]
    costs = [float(np.mean(of_method)) if len(of_method) == len(choices) else None for of_method in known]
    sound = [number for number, of_method in enumerate(methods) if not any(row.failures for row, _ in of_method)]
    whole = sound or [*range(len(labels))]
    chosen = cheapest(whole, found, costs, margin)
    least = min(whole, key=lambda place: found[place].expected)
    words = [amount_words(loss.expected, unit) for loss in found]
    alike = tuple(labels[place] for place in whole if place != chosen and words[place] == words[chosen])
    of_least = found[least], len(labels), margin, unit, costs[chosen], costs[least], alike
    return Taken(labels[chosen], found[chosen], labels[least], *of_least)


def _tied(choice: Choice) -> bool:
    """Tell if several methods have the best mean, where nothing else tells them apart."""
    *_, second, best = [-math.inf, *sorted(_gains(choice.rows, choice.setting.sign, paired=choice.drawn is None))]
    return choice.drawn is None and math.isclose(second, best, rel_tol=1e-12)


def _seeds(row: Row) -> set[int]:
    return {score.seed for score in row.scores if score.seed is not None}


def _gains(rows: Sequence[Row], sign: int, *, paired: bool) -> list[float]:
    """Return mean gains; *paired*, over the seeds that all have, if any: a seed that one alone has is easier or harder."""
    shared = set.intersection(*map(_seeds, rows)) if paired else set()
    of_rows = [[one.value for one in row.scores if not shared or one.seed in shared] for row in rows]
    return [sign * math.fsum(values) / len(values) for values in of_rows]


def cheapest(whole: Sequence[int], found: Sequence[Loss], costs: Sequence[float | None], margin: float | None) -> int:
    """Return the cheapest of those whose expected loss is within the margin; the best of them if it costs hardly more."""
    least = min(whole, key=lambda place: found[place].expected)
    admitted = [place for place in whole if found[place].expected <= (margin or 0.0)] or [least]
    known = {place: cost for place in admitted if (cost := costs[place]) is not None}
    like = [place for place, cost in known.items() if cost <= min(known.values()) * (1 + LIKE_COST)]
    return min(like or admitted, key=lambda place: found[place].expected)


def _costs(rows: Sequence[Row], prefer: Prefer | GivenCosts) -> list[float | None]:
    """Return the cost of each method, all by one kind of measurement."""
    if isinstance(prefer, GivenCosts):
        costs = [*map(prefer.mean, rows)]
        # The cheapest of some is not the cheapest.
        return costs if None not in costs else [None] * len(rows)
    if prefer == "memory":
        return [row.train_peak_bytes for row in rows]
    if prefer == "time":
        return [row.train_seconds for row in rows]
    kept = [row.checkpoint_bytes for row in rows]
    return kept if None not in kept else [row.counted_bytes for row in rows]


def _cost_words(row: Row, cost: float | None, prefer: Prefer | GivenCosts) -> str:
    if isinstance(prefer, GivenCosts):
        return f"{text.cost(cost)} {prefer.name}"
    shared = ", measured while other work ran beside it" if row.exclusive is False and prefer != "storage" else ""
    if cost is None:
        return f"its {prefer} was not measured"
    if prefer == "time":
        return f"trains in {text.rate(cost)} s{shared}"
    return f"{'stores' if prefer == 'storage' else 'trains in'} {text.mebibytes(cost)} MiB{shared}"
