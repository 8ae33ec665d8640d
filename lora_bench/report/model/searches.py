"""Searches for learning rates: the rate that the trials of a method choose, the error of that choice, and costs beside rows.

Such costs are the trials that chose a row's learning rate, and the files that must be kept.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lora_bench.records.probe_record import ProbeRecord, ProbeSpec
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting, conditions_of, rows_of
from lora_bench.report.model.rows import Row, canonical, grouped, median_of, total_of, unique
from lora_bench.stats import ChoiceError, Trials, seed_from, trials_of
from lora_bench.stats.rates import Search

# What a trial does not share with the runs at the rate that it chose.
_OF_TRIALS = ("score_on", "selection_every", "keep_weights", "retention", "start")


def trials_in(rows: Iterable[Row], setting: Setting) -> Trials | None:
    """Return the trials in the rows of one method, or None if no record tells the direction of the metric.

    The rows are of one base model, one for each learning rate; the setting is the search, or a rung of it.
    """
    scores: dict[float, Mapping[int, float | None]] = {}
    floors = []
    own: dict[int, float] = {}
    for row in rows:
        if row.learning_rate is not None:
            known = {score.run_id: score.value for score in row.scores}
            of_seeds = zip(row.seeds, row.run_ids, strict=True)
            scores[row.learning_rate] = {seed: known.get(run_id) for seed, run_id in of_seeds if seed is not None}
            floors.append(row.least_learned)
            own |= {
                score.seed: score.least for score in row.scores if score.seed is not None and score.least is not None
            }
    better = setting.spec.task.higher_is_better
    if better is None or not any(scores.values()):
        return None
    search: Search = setting.budget.search if setting.budget is not None else "all_seeds"
    return trials_of(scores, floor=own or unique(floors), higher_is_better=better, search=search)


def best_rates(rows: Iterable[Row], setting: Setting) -> tuple[float, ...]:
    """Return the learning rate that the trials of a method choose, or several of equal means; none without scores."""
    trials = trials_in(rows, setting)
    return () if trials is None else trials.best


class Searches:
    """The searches of a comparison, from which its results have their learning rates."""

    def __init__(self, comparison: Comparison) -> None:
        trials = (one for one in comparison.settings if one.trials)
        last = (one for one in trials if one.rung in (None, one.budget and one.budget.rungs))
        self._rows = grouped(rows_of(last), lambda place: _key(place.row, place.table, place.setting))

    def error(self, row: Row, table: ModelTable, setting: Setting) -> ChoiceError | None:
        """Return the error of a result from the choice of its rate, or None if no trials here chose that rate."""
        places = self._rows.get(_key(row, table, setting), [])
        rows = [place.row for place in places]
        trials = trials_in(rows, places[0].setting) if len(rows) > 1 else None
        if trials is None or row.learning_rate not in trials.rates:
            return None
        return trials.error(seed_from(*(run_id for one in rows for run_id in one.run_ids)))


def _key(row: Row, table: ModelTable, setting: Setting) -> str:
    shared = {name: v for name, v in conditions_of(setting.spec, setting.budget).items() if name not in _OF_TRIALS}
    return canonical([shared, table.model.model_dump(mode="json"), row.label, row.method, row.options])


class GivenCosts(NamedTuple):
    """Costs of runs by their ids, from a column of a table, in the unit that its name says."""

    name: str
    of_runs: Mapping[str, float]

    def mean(self, row: Row) -> float | None:
        """Return the mean cost of a row's runs; None if any has none."""
        known = [self.of_runs[run_id] for run_id in row.run_ids if run_id in self.of_runs]
        return statistics.fmean(known) if len(known) == len(row.run_ids) else None


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Costs beside the rows: probes, a stranger's, and seconds of all trials, by the key that a row and its trials share."""

    tuning_seconds: dict[tuple[object, ...], float | None]
    probes: Sequence[ProbeRecord]
    given: GivenCosts | None = None

    def tuning(self, row: Row, table: ModelTable, setting: Setting) -> float | None:
        """Seconds of training of the trials that chose a row's learning rate; None if the report has no such trials."""
        return self.tuning_seconds.get(_cell_key(setting, table, row))

    def checkpoint_bytes(self, row: Row, table: ModelTable, setting: Setting) -> float | None:
        """Bytes of the files that must be kept: those that the runs left, else those of a probe of the same method."""
        if row.checkpoint_bytes is not None:
            return row.checkpoint_bytes
        labels = len(setting.spec.task.labels or ()) or None
        return median_of(
            probe.checkpoint.stored_bytes
            for probe in self.probes
            if probe.checkpoint is not None
            and is_probed_by(probe.spec, row, table)
            and labels in (None, probe.spec.labels)
        )


def is_probed_by(spec: ProbeSpec, row: Row, table: ModelTable) -> bool:
    """Tell if a probe is of a row's method on the same base model."""
    same_model = spec.model.sha256 == table.model.sha256 is not None
    return same_model and (spec.method.name, spec.method.options) == (row.method, row.options)


def beside(comparison: Comparison, probes: Sequence[ProbeRecord] = (), given: GivenCosts | None = None) -> Beside:
    """Collect the costs beside the rows of *comparison*; *probes* are of the same report."""
    trials = rows_of(setting for setting in comparison.settings if setting.trials)
    cells = grouped(trials, lambda cell: _cell_key(*cell))
    seconds = {key: total_of(row.train_seconds_total for _, _, row in found) for key, found in cells.items()}
    return Beside(tuning_seconds=seconds, probes=probes, given=given)


def _cell_key(setting: Setting, table: ModelTable, row: Row) -> tuple[object, ...]:
    target, rows = setting.parameter_target, setting.distinct_examples
    return setting.spec.task.name, target, rows, table.model.shown, table.weights, row.label
