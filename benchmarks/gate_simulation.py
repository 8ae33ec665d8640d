"""What the nightly gate of `lora_bench.stats` does on histories of which the truth is known.

    python -m benchmarks.gate_simulation              the tables of docs/error-rates.md; about five minutes of one CPU core
    python -m benchmarks.gate_simulation --quick      seconds: shows that it runs

Histories of fifty series go on night by night, forty at once. Each night is judged as `judge_night` and `confirm` judge it (a
test holds the two together) and accepted as the gate accepts it: a night with anything confirmed is not, and scores that new
seeds did not confirm do not enter the past. Scores are in standard deviations of a single run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.special import stdtr, stdtrit

from benchmarks.tables import folded
from lora_bench.gate.past import DRIFT_NIGHTS
from lora_bench.stats import holm
from lora_bench.stats.gate import (
    CONFIRM_ALPHA,
    CONFIRMATIONS,
    DRIFT_ALPHA,
    FEWEST_NIGHTS,
    LEVEL_ALPHA,
    MOST_NIGHTS,
    TRAILING_NIGHTS,
)
from lora_bench.stats.night_spread import pooled_variance

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]

# Histories at once, and nights in a row: 5,000 nights.
HISTORIES, ROW, QUICK = 40, 125, (2, 14)
SERIES, SEEDS = 50, 3
NIGHTS = (8, 12, 20)
YEAR, SLOW = 365, 60


def normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return generator.standard_normal(shape)


def bad_runs(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """A few bad runs: scores fall off exponentially below the best."""
    return -generator.standard_exponential(shape)


def beta(a: float, b: float) -> Draw:
    """Scores bounded by 0 and 1, brought to a standard deviation of 1."""
    sd = np.sqrt(a * b / (a + b + 1)) / (a + b)
    return lambda generator, shape: generator.beta(a, b, shape) / sd


def steps(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Scores of a small test set, on which one more right answer is a standard deviation."""
    return np.round(generator.standard_normal(shape))


def heavy_tails(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Student's t with three degrees of freedom, brought to a standard deviation of 1."""
    return generator.standard_t(3, shape) / np.sqrt(3)


def right_answers(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Right answers to 500 questions with probability .85, brought to a standard deviation of 1."""
    return (generator.binomial(500, 0.85, shape) - 425) / np.sqrt(500 * 0.85 * 0.15)


def collapsing(rate: float, depth: float) -> Draw:
    """A share of the runs ends so many standard deviations below."""
    return lambda generator, shape: generator.standard_normal(shape) - depth * (generator.random(shape) < rate)


@dataclass(frozen=True)
class World:
    """Where night means come from. The variance of a run is 1 (that of the collapsing one is more).

    Args:
        run: Draws what a seed does to a score.
        night: Share of the variance that is the night's, shared by its seeds and by those that confirm.
        every: Of every so many series the first alone has a night's share.
        memory: Correlation of one night's effect with that of the night before.
        together: Whether a night does the same to all series.
        alike: Share of what a seed does that it does to all series.
        floor: Of the spread.
        margin: Practical.
    """

    name: str
    run: Draw = normal
    night: float = 0.0
    every: int = 1
    memory: float = 0.0
    together: bool = False
    alike: float = 0.0
    floor: float = 1e-9
    margin: float = 0.0

    def draw(self, generator: np.random.Generator, histories: int, series: int, nights: int, seeds: int) -> Drawn:
        """Nights of that many series with that many seeds, and further sets of seeds in the same nights."""
        effect = np.zeros((histories, series, nights))
        share = np.where(np.arange(series) % self.every == 0, self.night, 0.0)[:, None]
        if self.night:
            own = generator.standard_normal((histories, 1 if self.together else series, nights))
            # Variance 1 from the first night on.
            own[..., 1:] *= np.sqrt(1 - self.memory**2)
            effect = effect + np.sqrt(share) * lfilter([1.0], [1.0, -self.memory], own)
        shape = (histories, series, nights, seeds)

        def drawn() -> tuple[Floats, Floats]:
            runs = self.run(generator, shape)
            if self.alike:
                runs = np.sqrt(1 - self.alike) * runs + np.sqrt(self.alike) * self.run(
                    generator, (histories, 1, *shape[2:])
                )
            runs = np.sqrt(1 - share[..., None]) * runs
            within = runs.var(axis=-1, ddof=1) / seeds if seeds > 1 else np.zeros(shape[:-1])
            return effect + runs.mean(axis=-1), within

        means, within = zip(*(drawn() for _ in range(1 + CONFIRMATIONS)), strict=True)
        return Drawn(np.stack(means), np.stack(within), seeds)


@dataclass(frozen=True)
class Drawn:
    """Nights of several series, each array of shape (1 + further sets, histories, series, nights).

    Args:
        means: Night means of the night's own seeds, and of each further set.
        within: Variance of the seeds of each, over their number; 0 where there is one seed.
        seeds: Of a night.
    """

    means: Floats
    within: Floats
    seeds: int


INDEPENDENT = World("independent seeds")
# A quarter of the variance of a run is half of that of a mean of three.
HEAVY = World("heavy tails: Student's t with 3 degrees of freedom", run=heavy_tails)
HUNDRED = World("one run of 100 collapses by 10 SD", run=collapsing(0.01, 10.0))
COLLAPSES = (
    World("one run of 1,000 collapses by 10 SD", run=collapsing(0.001, 10.0)),
    HUNDRED,
    World("one run of 100 collapses by 20 SD", run=collapsing(0.01, 20.0)),
)
NIGHT = World("half of a mean's variance is the night's", night=0.25)
MEMORY = replace(NIGHT, name="… and remembered, correlation .6", memory=0.6)
BAD_RUNS = World("a few bad runs: −exponential", run=bad_runs)
BOUNDED = World("bounded: beta(95, 5), mean .95", run=beta(95, 5))
WORLDS = (
    INDEPENDENT,
    World("half of what a seed does it does to all series", alike=0.5),
    NIGHT,
    replace(NIGHT, name="… and the same for all series", together=True),
    MEMORY,
    World("all is the night's, correlation .6", night=1.0, memory=0.6),
    BAD_RUNS,
    replace(BAD_RUNS, name="… with a margin of 2 SD", margin=2.0),
    World("bounded: beta(9, 1), mean .9", run=beta(9, 1)),
    BOUNDED,
    World("in steps of one SD", run=steps, floor=0.25, margin=1.0),
    HEAVY,
    World("right answers to 500 questions", run=right_answers),
    *COLLAPSES,
    World("every second series: half of a run's variance is the night's", night=0.5, every=2),
    replace(INDEPENDENT, name="floor twice the spread", floor=2 / np.sqrt(SEEDS)),
    replace(INDEPENDENT, name="margin of 1 SD", floor=0.25, margin=1.0),
)
DRIFT_WORLDS = (INDEPENDENT, NIGHT, MEMORY, BAD_RUNS, BOUNDED)


# Of a loss of fewer standard errors than this the p-value is above .03, whatever the freedom.
NEAR = 1.8


def moved(loss: Floats, error: Floats, freedom: Floats | int, margin: float, alpha: float) -> tuple[Flags, Floats]:
    """Which losses count, by Holm's procedure over the second axis and the margin, and the level at which each was tested.

    Args:
        loss: Shape (histories, series, nights).
        error: Standard error of the prediction, likewise.
        freedom: Of its spread.
        margin: Practical.
        alpha: Over all series of a night.
    """
    t = loss / error
    # Student's distribution is slow, and few losses come near their bound.
    near, freedom = t > NEAR, np.broadcast_to(freedom, t.shape)
    p_values = np.ones(t.shape)
    p_values[near] = stdtr(freedom[near], -t[near])
    rejected = np.zeros(loss.shape, dtype=bool)
    levels = np.full(loss.shape, alpha / loss.shape[1])
    # Holm's procedure rejects something only if it rejects the least p-value, which is rare.
    for history, night in np.argwhere((p_values <= levels).any(axis=1)):
        adjusted = holm(p_values[history, :, night].tolist(), alpha)
        rejected[history, :, night] = [one.p_value is not None and one.p_value <= alpha for one in adjusted]
        levels[history, :, night] = [one.level for one in adjusted]
    return rejected & (loss > margin), levels


@dataclass(frozen=True)
class Gate:
    """How nights are judged.

    Args:
        alpha: Of the level test.
        confirm_alpha: Of each further set of seeds.
        sets: Number of these sets.
        cleared: What scores that they did not confirm become: left out of the past, kept in it, or replaced by the mean of the
            set that cleared them.
        drift_alpha: Of the drift test; 0 for none.
        drift_confirmed: Whether a drift takes further sets of seeds.
        pool: Whether seeds and other series tell of the spread.
        most: Nights that the level test looks back.
    """

    alpha: float = LEVEL_ALPHA
    confirm_alpha: float = CONFIRM_ALPHA
    sets: int = CONFIRMATIONS
    cleared: Literal["left out", "kept", "replaced"] = "left out"
    drift_alpha: float = DRIFT_ALPHA
    drift_confirmed: bool = True
    pool: bool = True
    most: int = MOST_NIGHTS


# The gate before cleared scores were left out.
BEFORE = Gate(confirm_alpha=0.001, sets=1, cleared="kept", drift_confirmed=False)


@dataclass(frozen=True)
class Moved:
    """What became of the series that moved in one direction, each of shape (histories, series).

    Args:
        suspect: Before the further sets of seeds.
        confirmed: By all of them.
        cleared_by: Number of the set that did not confirm, from 1; 0 where there is none.
    """

    suspect: Flags
    confirmed: Flags
    cleared_by: NDArray[np.int_]


@dataclass
class Past:
    """The accepted scores of every series so far, oldest first; each array of shape (histories, series, ...).

    Args:
        means: The last accepted night means that count, from the left.
        within: The variances of their seeds.
        first: The first twenty, from the left.
        count: How many there have been.
    """

    means: Floats
    within: Floats
    first: Floats
    count: NDArray[np.int_]
    world: World
    gate: Gate
    seeds: int
    level: tuple[Floats, Floats, Floats] = field(init=False)

    @classmethod
    def empty(cls, histories: int, series: int, world: World, gate: Gate, seeds: int) -> Past:
        """No accepted night yet."""
        shape = histories, series
        recent = [np.zeros((*shape, gate.most)) for _ in range(2)]
        return cls(*recent, np.zeros((*shape, MOST_NIGHTS)), np.zeros(shape, dtype=int), world, gate, seeds)

    def accept(self, which: Flags, means: Floats, within: Floats) -> None:
        """Add a night's scores to the past of the series in *which*."""
        full = which & (self.count >= self.gate.most)
        for kept, new in ((self.means, means), (self.within, within)):
            kept[full, :-1] = kept[full, 1:]
            kept[full, -1] = new[full]
            at = np.nonzero(which & ~full)
            kept[(*at, self.count[at])] = new[at]
        at = np.nonzero(which & (self.count < MOST_NIGHTS))
        self.first[(*at, self.count[at])] = means[at]
        self.count[which] += 1

    def expect(self) -> None:
        """Compute what the past leads to expect of the next mean: its value, the error and the freedom."""
        nights = np.maximum(np.minimum(self.count, self.gate.most), 2)
        there = np.arange(self.gate.most) < nights[..., None]
        mean = self.means.sum(axis=-1) / nights
        variance = (there * (self.means - mean[..., None]) ** 2).sum(axis=-1) / (nights - 1)
        freedom = nights - 1.0
        if self.gate.pool:
            old = self.count >= FEWEST_NIGHTS
            parts = np.where(old, variance, 0.0), np.where(old, self.within.sum(axis=-1) / nights, 0.0)
            pooled, of_pool = pooled_variance(*parts, nights, self.seeds, axis=1)
            variance, freedom = np.where(old, pooled, variance), np.where(old, of_pool, freedom)
        error = np.maximum(np.sqrt(variance), self.world.floor) * np.sqrt(1 + 1 / nights)
        self.level = mean, error, freedom

    def moved(self, sets: Floats, sign: int) -> Moved:
        """Which series lost (or gained, with sign -1) on a night, by the means of its own seeds and of further sets."""
        mean, error, freedom = self.level
        losses = sign * (mean - sets)
        first = np.where(self.count >= FEWEST_NIGHTS, losses[0], -np.inf)
        suspect, levels = (
            found[..., 0]
            for found in moved(*(x[..., None] for x in (first, error, freedom)), self.world.margin, self.gate.alpha)
        )
        # A mean beyond the bound of the first set confirms too, where that is the nearer one.
        reach = np.zeros(first.shape)
        reach[suspect] = (
            quantile(freedom[suspect], np.maximum(self.gate.confirm_alpha, levels[suspect])) * error[suspect]
        )
        return self._confirmed(suspect, losses, np.maximum(reach, self.world.margin))

    def drifted(self, sets: Floats, sign: int) -> Moved:
        """Which series drifted, by the mean of the last nights against the first ones."""
        anchored = np.clip(self.count + 1 - TRAILING_NIGHTS, 2, MOST_NIGHTS)
        there = np.arange(MOST_NIGHTS) < anchored[..., None]
        mean = (there * self.first).sum(axis=-1) / anchored
        sd = np.sqrt((there * (self.first - mean[..., None]) ** 2).sum(axis=-1) / (anchored - 1))
        spread, losses = np.maximum(sd, self.world.floor), sign * (mean - sets)
        ends = np.minimum(self.count, self.gate.most)[..., None] - np.arange(1, TRAILING_NIGHTS)
        trailing = np.take_along_axis(self.means, np.maximum(ends, 0), axis=-1).sum(axis=-1)
        lost = sign * (mean - (trailing + sets[0]) / TRAILING_NIGHTS)
        lost = np.where(self.count >= DRIFT_NIGHTS, lost, -np.inf)
        error = spread * np.sqrt(1 / TRAILING_NIGHTS + 1 / anchored)
        if not self.gate.drift_alpha:
            return self._confirmed(np.zeros(lost.shape, dtype=bool), losses, lost)
        parts = (x[..., None] for x in (lost, error, anchored - 1))
        suspect = moved(*parts, self.world.margin, self.gate.drift_alpha)[0][..., 0]
        if not self.gate.drift_confirmed:
            return Moved(suspect, suspect, np.zeros(suspect.shape, dtype=int))
        reach = quantile(anchored - 1, self.gate.confirm_alpha) * spread * np.sqrt(1 + 1 / anchored)
        return self._confirmed(suspect, losses, np.maximum(reach, self.world.margin))

    def _confirmed(self, suspect: Flags, losses: Floats, reach: Floats) -> Moved:
        confirmed, cleared_by = suspect, np.zeros(suspect.shape, dtype=int)
        for number, loss in enumerate(losses[1 : 1 + self.gate.sets], start=1):
            cleared_by[confirmed & (loss < reach)] = number
            confirmed = confirmed & (loss >= reach)
        return Moved(suspect, confirmed, cleared_by)


def quantile(freedom: Floats, tail: float | Floats) -> Floats:
    return np.asarray(-stdtrit(freedom, tail))


@dataclass(frozen=True)
class Night:
    """What was answered on a night, each of shape (histories, series).

    Args:
        worse: Losses by the level test.
        better: Gains by it.
        drifts: Losses and gains by the drift test.
        with_loss: For each injected loss, what the level test found of the first series with it; shape (histories,).
    """

    worse: Moved
    better: Moved
    drifts: tuple[Moved, Moved]
    with_loss: dict[float, tuple[Flags, Flags]]

    @property
    def regression(self) -> Flags:
        """Confirmed losses and drifts for the worse."""
        return self.worse.confirmed | self.drifts[0].confirmed

    @property
    def either(self) -> Flags:
        """Confirmed changes of either direction."""
        return self.regression | self.better.confirmed | self.drifts[1].confirmed


def in_a_row(
    world: World,
    drawn: Drawn,
    gate: Gate = Gate(),
    *,
    accepted: int = FEWEST_NIGHTS,
    losses: tuple[float, ...] = (),
) -> Iterator[Night]:
    """Judge one night after the other, and accept it.

    Args:
        world: For floor and margin.
        drawn: The nights.
        gate: How they are judged.
        accepted: Nights at the beginning that are accepted as they are.
        losses: Each is taken from the first series on the night that is judged, and on no other.
    """
    _, histories, series, nights = drawn.means.shape
    past = Past.empty(histories, series, world, gate, drawn.seeds)
    everything = np.ones((histories, series), dtype=bool)
    for night in range(nights):
        sets, within = drawn.means[..., night], drawn.within[..., night]
        if night < accepted:
            past.accept(everything, sets[0], within[0])
            continue
        past.expect()
        worse, better = past.moved(sets, 1), past.moved(sets, -1)
        calm = ~(worse.suspect | better.suspect)
        drifts = []
        for sign in (1, -1):
            found = past.drifted(sets, sign)
            drifts.append(Moved(found.suspect & calm, found.confirmed & calm, np.where(calm, found.cleared_by, 0)))
        with_loss = {}
        for loss in losses:
            lower = sets.copy()
            lower[:, :, 0] -= loss
            found = past.moved(lower, 1)
            with_loss[loss] = found.suspect[:, 0], found.confirmed[:, 0]
        answer = Night(worse, better, (drifts[0], drifts[1]), with_loss)
        yield answer
        passed = np.broadcast_to(~answer.either.any(axis=1)[:, None], everything.shape)
        by = np.maximum.reduce([one.cleared_by for one in (worse, better, *drifts)])
        if gate.cleared == "left out":
            past.accept(passed & (by == 0), sets[0], within[0])
            continue
        by = by if gate.cleared == "replaced" else np.zeros_like(by)
        past.accept(passed, *(np.take_along_axis(values, by[None], axis=0)[0] for values in (sets, within)))


@dataclass(frozen=True)
class Shares:
    """Shares of nights of an unchanged system with such an answer for any series, and of injected losses that were found.

    Args:
        suspect: By the level test, before confirmation.
        regression: A confirmed loss or drift.
        either: Or a confirmed gain.
        found: For each loss: suspect, and confirmed.
    """

    suspect: float
    regression: float
    either: float
    found: dict[float, tuple[float, float]]


def shares(
    world: World,
    histories: int,
    nights: int,
    gate: Gate = Gate(),
    *,
    accepted: int = FEWEST_NIGHTS,
    losses: tuple[float, ...] = (),
    series: int = SERIES,
    seeds: int = SEEDS,
    seed: int = 0,
) -> Shares:
    """Judge so many nights in a row of each of *histories*, after *accepted* ones; see `in_a_row`."""
    generator = np.random.default_rng([seed, accepted, *world.name.encode()])
    drawn = world.draw(generator, histories, series, accepted + nights, seeds)
    counts, found = np.zeros(3), {loss: np.zeros(2) for loss in losses}
    for night in in_a_row(world, drawn, gate, accepted=accepted, losses=losses):
        for index, flags in enumerate((night.worse.suspect, night.regression, night.either)):
            counts[index] += flags.any(axis=1).sum()
        for loss, flags in night.with_loss.items():
            found[loss] += [one.sum() for one in flags]
    total = histories * nights
    of_losses = {loss: (float(one[0] / total), float(one[1] / total)) for loss, one in found.items()}
    return Shares(*(counts / total).tolist(), of_losses)


def of_nights(nights: int, **more: object) -> Gate:
    """The level test alone on so many nights of history."""
    return replace(Gate(most=nights, drift_alpha=0.0), **more)  # type: ignore[arg-type]


def years(
    world: World, histories: int, nights: int, *, alpha: float = DRIFT_ALPHA, seed: int = 0
) -> tuple[float, float]:
    """The shares of runs of *nights* nights of an unchanged system, after twenty, with a drifting loss, and with any drift."""
    generator = np.random.default_rng([seed, *world.name.encode()])
    drawn = world.draw(generator, histories, SERIES, MOST_NIGHTS + nights, SEEDS)
    loss, either = np.zeros(histories, dtype=bool), np.zeros(histories, dtype=bool)
    for night in in_a_row(world, drawn, Gate(drift_alpha=alpha), accepted=MOST_NIGHTS):
        lost, gained = (one.confirmed.any(axis=1) for one in night.drifts)
        loss, either = loss | lost, either | lost | gained
    return float(loss.mean()), float(either.mean())


@dataclass(frozen=True)
class Slow:
    """What became of a slow loss.

    Args:
        found: Share that was found within sixty nights, as a drift or a sudden loss.
        median: Night on which half of them were.
    """

    found: float
    median: float


def slow_losses(
    world: World, histories: int, *, rate: float, accepted: int, alpha: float = DRIFT_ALPHA, seed: int = 0
) -> Slow:
    """How often, and when, a slow loss of one series of fifty is found.

    Args:
        world: Where means come from.
        histories: How many.
        rate: Loss a night, in standard deviations of a run.
        accepted: Nights before it begins.
        alpha: Of the drift test.
        seed: Of everything that is random.
    """
    generator = np.random.default_rng([seed, accepted, *world.name.encode()])
    drawn = world.draw(generator, histories, SERIES, accepted + SLOW, SEEDS)
    drawn.means[:, :, 0, accepted:] -= rate * np.arange(1, SLOW + 1)
    first = np.full(histories, np.inf)
    for number, night in enumerate(in_a_row(world, drawn, Gate(drift_alpha=alpha), accepted=accepted), start=1):
        new = night.regression[:, 0] & np.isinf(first)
        first[new] = number
    return Slow(float(np.isfinite(first).mean()), float(np.median(first)))


def share(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def rounded(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def night(value: float) -> str:
    return f"{value:.0f}" if np.isfinite(value) else f"> {SLOW}"


def alarm_lines(histories: int, nights: int) -> Iterator[str]:
    """False alarms of nights in a row over fifty series, and losses found, in each world."""
    yield "| nights of an unchanged system with | any suspect | any regression | or improvement | 2 SD found | 3 SD found |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for world in WORLDS:
        one = shares(world, histories, nights, losses=(2.0, 3.0))
        found = " | ".join(rounded(confirmed) for _, confirmed in one.found.values())
        yield f"| {world.name} | {' | '.join(map(share, (one.suspect, one.regression, one.either)))} | {found} |"


RULES = {
    "cleared scores kept, drift not confirmed": BEFORE,
    "one set of new seeds at 0.001": Gate(confirm_alpha=0.001, sets=1),
    "cleared scores kept": Gate(cleared="kept"),
    "cleared scores replaced": Gate(cleared="replaced"),
    "two sets at 0.001": Gate(confirm_alpha=0.001),
    "the gate: two sets at 0.01, left out": Gate(),
}


def rule_lines(histories: int, nights: int) -> Iterator[str]:
    """What other rules for suspect series would give."""
    worlds = (*COLLAPSES, HEAVY)
    yield "| rule for suspect series | nights with a false regression | 2 SD found | 3 SD found |"
    yield "| --- | ---: | ---: | ---: |"
    for name, gate in RULES.items():
        for world in worlds:
            one = shares(world, histories, nights, gate, losses=(2.0, 3.0))
            found = " | ".join(rounded(confirmed) for _, confirmed in one.found.values())
            yield f"| {name} | {share(one.regression)} | {found} |"


def few_lines(histories: int, nights: int) -> Iterator[str]:
    """False alarms of gates of few series, whose bound of the level test is nearer than that of the confirmation."""
    yield "| nights of an unchanged system of | any suspect | any regression | or improvement |"
    yield "| --- | ---: | ---: | ---: |"
    for series in (1, 3, 12):
        one = shares(INDEPENDENT, histories, nights, series=series)
        yield f"| {series} series | {' | '.join(map(share, (one.suspect, one.regression, one.either)))} |"


def loss_lines(histories: int, nights: int) -> Iterator[str]:
    """Losses found the same night and confirmed."""
    losses = (1.0, 2.0, 3.0, 4.0)
    yield "| loss of one series of 50, independent seeds | seeds | 8 nights | 12 nights | 20 nights |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    seeds_of = (1, 3, 5)
    found = {
        (seeds, k): shares(INDEPENDENT, histories, nights, of_nights(k), accepted=k, losses=losses, seeds=seeds).found
        for seeds in seeds_of
        for k in NIGHTS
    }
    for loss in losses:
        for seeds in seeds_of:
            cells = " | ".join(rounded(found[seeds, k][loss][1]) for k in NIGHTS)
            yield f"| {loss:.0f} SD | {seeds} | {cells} |"


RATES = {"0.1 SD of a run": 0.1, "0.1 SD of a night mean": 0.1 / float(np.sqrt(SEEDS))}


def drift_lines(histories: int, nights: int) -> Iterator[str]:
    """Years of an unchanged system with a drift, and slow losses found."""
    year = YEAR if nights > 20 else nights
    yield "| a year of an unchanged system, 50 series | with a drift for the worse | with any drift |"
    yield "| --- | ---: | ---: |"
    for world in DRIFT_WORLDS:
        yield f"| {world.name} | {' | '.join(map(rounded, years(world, histories, year)))} |"
    yield ""
    yield "| slow loss a night, found within 60 nights | accepted before | found | median night |"
    yield "| --- | ---: | ---: | ---: |"
    for name, rate in RATES.items():
        for accepted in (DRIFT_NIGHTS, 24):
            one = slow_losses(INDEPENDENT, histories, rate=rate, accepted=accepted)
            yield f"| {name} | {accepted} | {rounded(one.found)} | {night(one.median)} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few histories: shows that it runs")
    size = QUICK if parser.parse_args(arguments).quick else (HISTORIES, ROW)
    for lines in (alarm_lines, rule_lines, few_lines, loss_lines, drift_lines):
        print(*folded(lines(*size)), "", sep="\n", flush=True)


if __name__ == "__main__":
    main()
