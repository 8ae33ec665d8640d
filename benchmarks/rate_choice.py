"""What the choice of a learning rate does to verdicts, on the committed searches.

    python -m benchmarks.rate_choice              the tables of docs/error-rates.md; some minutes of one CPU core
    python -m benchmarks.rate_choice --quick      seconds: shows that it runs

Each committed search is taken for the truth: the mean of the sound trials at a rate, the spread of trials within its rates, and
the share of its trials that fell. From it come the trials of two copies of one method, each copy's rate by
`lora_bench.stats.rates`, and the scores of its reported seeds. `judge` then compares the two copies. Of `adapter-rates`, a rate
is tuned by runs drawn from the sixteen that there are.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lora_bench.records.store import read_records
from lora_bench.report.model.comparison import Setting, compare
from lora_bench.report.model.rows import Row
from lora_bench.report.model.searches import trials_in
from lora_bench.stats import ChoiceError, Trials, judge, paired_difference, trials_of
from lora_bench.stats.items import Floats
from lora_bench.stats.rates import Search, half

BASELINES = Path(__file__).parents[1] / "baselines"
COPIES, QUICK = 60, 2
REPORTED = (5, 10, 20)
RULES: tuple[tuple[str, Search, int], ...] = (
    ("two seeds, best mean", "all_seeds", 2),
    ("three seeds, best mean", "all_seeds", 3),
    ("one seed, the better half three", "halve_seeds", 3),
    ("one seed, the better half five", "halve_seeds", 5),
)


@dataclass(frozen=True)
class Truth:
    """A method's scores by learning rate; higher is better.

    Args:
        rates: Learning rates, ascending.
        means: Mean of runs that did not fall, by rate.
        spread: Their standard deviation.
        falls: Probability that a run falls, by rate.
        floor: Score of a run that fell.
        runs: By rate, the runs to draw from in place of these laws; empty without.
    """

    rates: tuple[float, ...]
    means: Floats
    spread: float
    falls: Floats
    floor: float
    runs: tuple[Floats, ...] = ()

    @property
    def values(self) -> Floats:
        """Mean of all runs, by rate."""
        if self.runs:
            return np.array([of_rate.mean() for of_rate in self.runs])
        return np.asarray(self.means * (1 - self.falls) + self.floor * self.falls)

    def draw(self, generator: np.random.Generator, place: int, number: int) -> list[float]:
        """Return the scores of some runs at a rate."""
        if self.runs:
            return [float(one) for one in generator.choice(self.runs[place], number)]
        scores = self.means[place] + self.spread * generator.standard_normal(number)
        fell = generator.random(number) < self.falls[place]
        return [float(one) for one in np.where(fell, self.floor, scores)]

    def search(self, generator: np.random.Generator, search: Search, seeds: int) -> Trials:
        """Return the trials of one search."""
        number = len(self.rates)
        scores = {rate: self.draw(generator, place, seeds) for place, rate in enumerate(self.rates)}

        def trials(kept: Mapping[float, int]) -> Trials:
            tried = {rate: dict(enumerate(of_rate[: kept[rate]])) for rate, of_rate in scores.items()}
            return trials_of(tried, floor=self.floor, higher_is_better=True, search=search)

        if search == "all_seeds":
            return trials(dict.fromkeys(scores, seeds))
        going = trials(dict.fromkeys(scores, 1)).going(half(number))
        return trials({rate: seeds if rate in going else 1 for rate in scores})


def truth_of(trials: Trials) -> Truth:
    """Return a committed search, taken for the truth."""
    order = np.argsort(trials.rates)
    gains = trials.gains[order]
    floor = float(gains[np.isfinite(gains)].min()) if trials.floor is None else trials.floor
    sound = np.isfinite(gains) & (gains > floor if trials.floor is not None else True)
    number = sound.sum(axis=1)
    known = np.where(sound, gains, 0.0)
    means = known.sum(axis=1) / np.maximum(number, 1)
    squares = np.where(sound, known - means[:, None], 0.0) ** 2
    spread = math.sqrt(squares.sum() / max(1, np.maximum(number - 1, 0).sum()))
    falls = 1 - number / (~np.isnan(gains)).sum(axis=1)
    return Truth(tuple(np.array(trials.rates)[order].tolist()), means, spread, falls, floor)


class CommittedSearch(NamedTuple):
    """A search of the baselines whose trials did all of the work, with one row for each rate."""

    suite: str
    setting: Setting
    model: str
    rows: list[Row]
    trials: Trials


def committed() -> Iterator[CommittedSearch]:
    """Yield every such search, once for each suite that has it."""
    for folder in sorted(BASELINES.iterdir()):
        records = read_records(folder) if (folder / "runs.json").is_file() else []
        trials = [record for record in records if record.spec.score_on == "selection"]
        seen: set[tuple[str, ...]] = set()
        for setting, model, rows in _searches(compare(trials).settings if trials else ()):
            found = trials_in(rows, setting)
            # A method without a size stands beside every target, and is one search.
            runs = tuple(sorted(run_id for row in rows for run_id in row.run_ids))
            if found is not None and len(found.rates) > 1 and runs not in seen:
                seen.add(runs)
                yield CommittedSearch(folder.name, setting, model, rows, found)


def _searches(settings: Sequence[Setting]) -> Iterator[tuple[Setting, str, list[Row]]]:
    for setting in settings:
        for table in setting.tables:
            for label in dict.fromkeys(row.label for row in table.rows):
                yield setting, table.model.name, [row for row in table.rows if row.label == label]


def adapter_rates() -> list[Truth]:
    """Return the places of `adapter-rates`, with all runs of each rate."""
    found = []
    for setting in compare(read_records(BASELINES / "adapter-rates")).settings:
        for table in setting.tables:
            rows = sorted((row for row in table.rows if row.score), key=lambda row: row.learning_rate or 0.0)
            if len({row.learning_rate for row in rows}) > 1:
                runs = tuple(np.array([score.value for score in row.scores]) for row in rows)
                floor = next(row.majority_score for row in rows if row.majority_score is not None)
                falls = np.array([(of_rate <= floor).mean() for of_rate in runs])
                rates = tuple(float(row.learning_rate or 0.0) for row in rows)
                found.append(Truth(rates, np.zeros(len(rows)), 0.0, falls, floor, runs))
    return found


@dataclass(frozen=True)
class Outcome:
    """What a rule does.

    Args:
        runs: Trials of a search.
        regret: Mean of the best rate less that of the chosen rate, in points.
        sd: Standard deviation of the latter over searches, in points.
        falling: Share of searches that choose a rate at which runs fall.
        called: Share of pairs of copies that are called different, by reported seeds: at these rates, and with the choice.
    """

    runs: float
    regret: float
    sd: float
    falling: float
    called: dict[int, tuple[float, float]]


def outcome(truths: Sequence[Truth], search: Search, seeds: int, copies: int, reported: Sequence[int]) -> Outcome:
    """Simulate pairs of copies of one method on each truth."""
    generator = np.random.default_rng(0)
    runs, regret, spread, falling = [], [], [], []
    called: dict[int, list[tuple[bool, bool]]] = {number: [] for number in reported}
    for truth in truths:
        values = []
        for _ in range(copies):
            pair = [truth.search(generator, search, seeds) for _ in range(2)]
            places = [truth.rates.index(trials.chosen) for trials in pair]
            runs += [int((~np.isnan(trials.gains)).sum()) for trials in pair]
            values += [float(truth.values[place]) for place in places]
            falling += [bool(truth.falls[place]) for place in places]
            errors = [trials.error(int(generator.integers(2**32))) for trials in pair] if reported else []
            for number in reported:
                first, second = (dict(enumerate(truth.draw(generator, place, number))) for place in places)
                called[number].append(_differ(first, second, errors))
        regret.append(float(truth.values.max()) - float(np.mean(values)))
        spread.append(float(np.std(values)))
    return Outcome(
        runs=float(np.mean(runs)),
        regret=100 * float(np.mean(regret)),
        sd=100 * float(np.mean(spread)),
        falling=float(np.mean(falling)),
        called={number: tuple(np.mean(found, axis=0).tolist()) for number, found in called.items()},
    )


def _differ(
    first: Mapping[int, float], second: Mapping[int, float], errors: Sequence[ChoiceError | None]
) -> tuple[bool, bool]:
    """Tell if two methods are called different at these rates, and with the errors of their choice."""
    alone = paired_difference(first, second, draw_seed=0, draws=0)
    with_choice = replace(alone, estimate=alone.estimate.widened(errors))
    one, other = (judge({"copy": of}, margin=None, power=None)["copy"].verdict for of in (alone, with_choice))
    return one in ("better", "worse"), other in ("better", "worse")


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few copies: shows that it runs")
    copies = QUICK if parser.parse_args(argv).quick else COPIES
    truths, kept = [truth_of(search.trials) for search in committed()], adapter_rates()
    print(f"{len(truths)} committed searches, {copies} pairs of copies of each; adapter-rates: {len(kept)} places\n")
    print(
        "| trials of a rate | runs | regret | SD | at these rates: 5 / 10 / 20 seeds | with the choice | regret, falling |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, search, seeds in RULES:
        found = outcome(truths, search, seeds, copies, REPORTED)
        real = outcome(kept, search, seeds, 20 * copies, ())
        alone, chosen = (" / ".join(f"{of[side]:.1%}" for of in found.called.values()) for side in (0, 1))
        print(
            f"| {name} | {found.runs:.1f} | {found.regret:.2f} | {found.sd:.2f} | {alone} | {chosen} | "
            f"{real.regret:.2f}, {real.falling:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
