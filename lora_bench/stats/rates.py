"""The learning rate that trials choose, and the error of that choice.

Two copies of one method, each tuned by few trials, get different rates and so different scores, whatever number of seeds is
reported. So the choice is repeated on resampled trials, and the standard deviation of the chosen rate's score enters every
verdict: docs/statistics.md#the-choice-of-learning-rates. `benchmarks/rate_choice.py` measures how often two copies are then
called different.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lora_bench.stats.estimate import ChoiceError
from lora_bench.stats.items import Floats

Search = Literal["all_seeds", "halve_seeds"]
# Repeats give an SD to 5 %, less than a few trials know of it.
REPEATS = 200

Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The trials of one search. A trial fell if it has no score, or one that is no better than the floor.

    Args:
        rates: Learning rates, in their order of trial.
        gains: Scores, higher is better, shape (rates, seeds): NaN where not tried, −infinity without a score.
        floor: Gain of a method that learned nothing, or that of each seed; None if it is unknown.
        search: Rule of the search, as in `tuning.search` of a suite.
    """

    rates: tuple[float, ...]
    gains: Floats
    floor: float | Floats | None
    search: Search

    @property
    def best(self) -> tuple[float, ...]:
        """The chosen rate; several with equal means in `all_seeds`, and none if no trial has a score."""
        places = _best(np.array(self.rates), self.gains, self._out(self.gains), halved=self._halved)
        return tuple(np.array(self.rates)[places & np.isfinite(self.gains).any()].tolist())

    @property
    def chosen(self) -> float:
        """The rate to report: of equal ones the first, and the first of all if no trial has a score."""
        return (*self.best, *self.rates)[0]

    def going(self, number: int) -> tuple[float, ...]:
        """Return the best rates by the mean of all trials, in their order of trial; those that are out come last."""
        out = self._out(self.gains).any(axis=1)
        means = np.where(out, -np.inf, _means(self.gains))
        return tuple(self.rates[place] for place in sorted(np.argsort(-means, kind="stable")[:number]))

    def error(self, draw_seed: int) -> ChoiceError | None:
        """Return the error of the choice, or None if no rate has two trials that did not fall."""
        fell = self._fell(self.gains)
        sound = np.isfinite(self.gains) & ~fell
        number = sound.sum(axis=1)
        freedom = int(np.maximum(number - 1, 0).sum())
        if freedom == 0:
            return None
        known = np.where(sound, self.gains, 0.0)
        means = known.sum(axis=1) / np.maximum(number, 1)
        spread = math.sqrt(float((np.where(sound, known - means[:, None], 0.0) ** 2).sum()) / freedom)
        floor = np.asarray(min(known[sound]) if self.floor is None else self.floor)
        tried = (~np.isnan(self.gains)).sum(axis=1)
        share = fell.sum(axis=1) / tried
        generator = np.random.default_rng(draw_seed)
        shape = (REPEATS, *self.gains.shape)
        noise = spread * np.sqrt(1 + 1 / np.maximum(number, 1))
        drawn = means[:, None] + noise[:, None] * generator.standard_normal(shape)
        drawn = np.where(generator.random(shape) < share[:, None], floor, drawn)
        out = self._out(drawn)
        if self._halved:
            drawn[~_better_half(drawn, out), 1:] = np.nan
        chosen = _best(np.array(self.rates), drawn, out, halved=self._halved).argmax(axis=1)
        values = means * (1 - share) + floor.mean() * share
        return ChoiceError(sd=float(values[chosen].std()), freedom=freedom)

    @property
    def _halved(self) -> bool:
        return self.search == "halve_seeds"

    def _fell(self, gains: Floats) -> Flags:
        return gains <= (-np.inf if self.floor is None else self.floor)

    def _out(self, gains: Floats) -> Flags:
        """Return the trials that exclude their rate: those that fell, or with `all_seeds` only those without a score."""
        return self._fell(gains) if self._halved else np.isneginf(gains)


def trials_of(
    scores: Mapping[float, Mapping[int, float | None]],
    *,
    floor: float | Mapping[int, float] | None,
    higher_is_better: bool,
    search: Search = "all_seeds",
) -> Trials:
    """Return the trials of a search.

    *scores* has for each rate, in the order of trial, the score of each seed; None for a run without one. *floor* is the score
    of a method that learned nothing, or that of each seed, where each is scored on other rows.
    """
    sign = 1 if higher_is_better else -1
    # The seed that all rates have was the first.
    seeds = sorted(
        {seed for row in scores.values() for seed in row}, key=lambda s: (-sum(s in r for r in scores.values()), s)
    )
    gains = np.full((len(scores), len(seeds)), np.nan)
    for row, of_rate in zip(gains, scores.values(), strict=True):
        for seed, score in of_rate.items():
            row[seeds.index(seed)] = -np.inf if score is None else sign * score
    least: float | Floats | None = None
    if isinstance(floor, Mapping):
        least = np.array([sign * floor.get(seed, np.mean([*floor.values()])) for seed in seeds]) if floor else None
    elif floor is not None:
        least = sign * floor
    return Trials(rates=tuple(scores), gains=gains, floor=least, search=search)


def half(rates: int) -> int:
    """Return the number of rates that `halve_seeds` tries with all seeds."""
    return math.ceil(rates / 2)


def _means(gains: Floats) -> Floats:
    tried = ~np.isnan(gains)
    return np.asarray(np.where(tried, gains, 0.0).sum(axis=-1) / np.maximum(tried.sum(axis=-1), 1))


def _better_half(gains: Floats, out: Flags) -> Flags:
    """Return the rates that are tried with all seeds, from the first; shape of the arguments (..., rates, seeds)."""
    first = np.where(out[..., 0], -np.inf, gains[..., 0])
    places = np.argsort(np.argsort(-first, axis=-1, kind="stable"), axis=-1)
    return np.asarray(places < half(gains.shape[-2]))


def _best(rates: Floats, gains: Floats, out: Flags, *, halved: bool) -> Flags:
    """Return the chosen rate, or all with the best mean; shape of the arguments (..., rates, seeds), without seeds.

    A rate with a trial that is out is chosen only if all are such. With *halved* a rate with all seeds precedes those without,
    and where a larger rate than the best is out, the smallest within a standard error of the best is chosen.
    """
    excluded, seeds = np.asarray(out.any(axis=-1)), gains.shape[-1]
    whole = np.asarray(~np.isnan(gains).any(axis=-1)) if halved else np.full(excluded.shape, True)
    sound = whole & ~excluded
    allowed = np.where(_any(sound), sound, np.where(_any(~excluded), ~excluded, whole))
    means = np.where(allowed, _means(gains), -np.inf)
    top = means.max(axis=-1, keepdims=True)
    best = allowed & (means == top)
    if not halved:
        return np.asarray(best)
    known = np.where(sound[..., None], gains, 0.0)
    squares = ((known - known.mean(axis=-1, keepdims=True)) ** 2).sum(axis=(-2, -1))
    error = np.sqrt(squares / np.maximum(sound.sum(axis=-1) * (seeds - 1), 1) / seeds)[..., None]
    least = np.where(best, rates, np.inf).min(axis=-1, keepdims=True)
    larger_is_out = _any(excluded & (rates > least))
    near = np.where(larger_is_out, sound & (means >= top - error), best)
    near = np.where(_any(near), near, best)
    return np.asarray(rates == np.where(near, rates, np.inf).min(axis=-1, keepdims=True))


def _any(flags: Flags) -> Flags:
    return np.asarray(flags.any(axis=-1, keepdims=True))
