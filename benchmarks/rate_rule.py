"""Whether a rule finds the learning rate of a method on data of another suite, on the committed searches.

    python -m benchmarks.rate_rule          the tables of docs/error-rates.md; seconds

For each search a rule sees those of all other suites. What it loses is measured on trials that choose nothing: at each trial
seed, the score at the rate that the other seeds choose, less that at the rule's rate, interpolated over the logarithm of the
rate; a rate outside those tried counts as the nearest of them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from benchmarks.rate_choice import committed
from lora_bench.methods import known_methods
from lora_bench.stats.items import Floats

# Hidden size of the base models, which records do not keep.
WIDTHS = {"gpt2-mini": 256, "minilm-l6-roberta": 384, "minilm-l6-deberta": 384, "deberta-mini": 384, "mpnet-base": 768}
# The middle of the three rates that the committed suites try, for a small base model and for a larger one.
MIDDLE_RATES = {
    "full": (1e-4, 3e-5),
    "lora": (3e-3, 1e-3),
    "bottleneck_adapter": (3e-3, 1e-3),
    "prefix_tuning": (3e-2, 1e-2),
}
METHODS = tuple(MIDDLE_RATES)


POINT = 0.01


class Middle(NamedTuple):
    """Where a fit has its constant: most searches lie here."""

    width: int
    steps: int


MIDDLE = Middle(384, 200)


@dataclass(frozen=True)
class Place:
    """What a rule may know of a search, and its trials.

    Args:
        suite: Name of the suite.
        method: Name of the method, which is also the label.
        width: Hidden size of the base model.
        steps: Steps of a trial.
        runs: Run ids.
        rates: Learning rates, ascending.
        gains: Scores of trials, higher is better, shape (rates, seeds); NaN where none was tried.
    """

    suite: str
    method: str
    width: int
    steps: int
    runs: frozenset[str]
    rates: tuple[float, ...]
    gains: Floats

    @property
    def best(self) -> float:
        """Logarithm of the rate with the best mean."""
        return math.log(self.rates[int(np.nanmean(self.gains, axis=1).argmax())])

    def loses(self, rate: float) -> float:
        """Return what a rate loses to a search, on seeds that do not choose."""
        found = []
        for seed in range(self.gains.shape[1]):
            others = np.delete(self.gains, seed, axis=1)
            both = ~np.isnan(self.gains[:, seed]) & ~np.isnan(others).all(axis=1)
            if both.sum() > 1:
                scores, means = self.gains[both, seed], np.nanmean(others[both], axis=1)
                nearest = np.interp(math.log(rate), np.log(self.rates)[both], scores)
                found.append(float(scores[means.argmax()] - nearest))
        return float(np.mean(found))


Rule = Callable[[Sequence[Place], Place], float]


def places() -> Iterator[Place]:
    """Yield the searches of `METHODS`, those with most runs first; a run counts in one alone."""
    seen = set[str]()
    for search in sorted(committed(), key=lambda search: -sum(len(row.run_ids) for row in search.rows)):
        runs = frozenset(run_id for row in search.rows for run_id in row.run_ids)
        label = search.rows[0].label
        if label in METHODS and search.rows[0].method == label and not runs & seen:
            seen |= runs
            order = np.argsort(search.trials.rates)
            gains = search.trials.gains[order]
            floor = gains[np.isfinite(gains)].min() if search.trials.floor is None else search.trials.floor
            yield Place(
                suite=search.suite,
                method=label,
                width=WIDTHS[search.model],
                steps=search.setting.spec.training.steps,
                runs=runs,
                rates=tuple(np.array(search.trials.rates)[order].tolist()),
                gains=np.where(np.isneginf(gains), floor, gains),
            )


def median(known: Sequence[Place], place: Place) -> float:
    """Return the median of the method's best rates."""
    return math.exp(np.median([other.best for other in known if other.method == place.method]))


def ten_times_full(known: Sequence[Place], place: Place) -> float:
    """Return ten times the median of the best rates of `full` (for other methods than `full`)."""
    rate = math.exp(np.median([other.best for other in known if other.method == "full"]))
    return rate if place.method == "full" else 10 * rate


def fitted(known: Sequence[Place], place: Place) -> float:
    """Return the rate by the powers of width and steps that fit the best rates."""
    return math.exp(float(_terms(place) @ fit(known)))


def fit(known: Sequence[Place]) -> Floats:
    """Return for each method the logarithm of its rate at `MIDDLE` and its power of width, then the power of steps."""
    terms = np.array([_terms(place) for place in known])
    return np.linalg.lstsq(terms, np.array([place.best for place in known]), rcond=None)[0]


def _terms(place: Place) -> Floats:
    own = np.array([place.method == method for method in METHODS], float)
    return np.array([*own, *own * math.log(place.width / MIDDLE.width), math.log(place.steps / MIDDLE.steps)])


RULES: dict[str, Rule] = {
    "5e-5, the Trainer's default": lambda known, place: 5e-5,
    "the method's default here": lambda known, place: known_methods()[place.method].learning_rate,
    "the middle one of three": lambda known, place: MIDDLE_RATES[place.method][place.width > MIDDLE.width],
    "ten times the median of `full`": ten_times_full,
    "the median of the method": median,
    "a power of width for each method, one of steps": fitted,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    found = sorted(places(), key=lambda place: (place.method, place.width))
    suites = sorted({place.suite for place in found})
    print(f"{len(found)} searches of {len(suites)} suites\n")
    print("| method, width | searches | best rates: median | range |\n| --- | ---: | ---: | ---: |")
    for (method, width), alike in groupby(found, key=lambda place: (place.method, place.width)):
        bests = [math.exp(place.best) for place in alike]
        print(f"| `{method}`, {width} | {len(bests)} | {np.median(bests):.1e} | {min(bests):.1e} to {max(bests):.1e} |")

    # Jackknife over suites: what a suite says of a method, all its searches say.
    without = np.array([fit([place for place in found if place.suite != suite]) for suite in suites])
    errors = np.sqrt((len(suites) - 1) * without.var(axis=0))
    fits = [f"{power:.2f} ± {error:.2f}" for power, error in zip(fit(found), errors, strict=True)][len(METHODS) :]
    print(f"\nPowers of width: {dict(zip(METHODS, fits, strict=False))}; of steps: {fits[-1]}\n")

    print("| rule | mean loss | loses over a point |", *(f" `{method}` |" for method in METHODS), sep="")
    print("| --- |" + " ---: |" * (2 + len(METHODS)))
    for name, rule in RULES.items():
        losses = [place.loses(rule([other for other in found if other.suite != place.suite], place)) for place in found]
        of_methods = [
            [loss for loss, place in zip(losses, found, strict=True) if place.method == method] for method in METHODS
        ]
        over = [f"{np.mean(np.array(some) > POINT):.2f}" for some in (losses, *of_methods)]
        print(f"| {name} | {100 * np.mean(losses):.2f} | {' | '.join(over)} |")


if __name__ == "__main__":
    main()
