"""What the nightly gate of `lora_bench.stats` does on histories of which the truth is known.

    python -m benchmarks.gate_simulation              the tables of docs/error-rates.md; about ten minutes of one CPU core
    python -m benchmarks.gate_simulation --quick      seconds: shows that it runs

Four hundred histories of fifty series are simulated in each world, hundreds of nights at once, and judged as `judge_night` and
`confirm` judge them (a test holds the two together). Scores are in standard deviations of a single run. Every night is accepted
into the history of the next.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.special import stdtr, stdtrit

from benchmarks.tables import folded
from lora_bench.stats import holm
from lora_bench.stats.gate import CONFIRM_ALPHA, DRIFT_ALPHA, LEVEL_ALPHA, TRAILING_NIGHTS
from lora_bench.stats.night_spread import pooled_variance

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]

HISTORIES, QUICK, SERIES, SEEDS = 400, 10, 50, 3
NIGHTS = (8, 12, 20)
YEAR, DRIFT_NIGHTS = 365, 60


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


def collapsing(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """One run of a hundred ends ten standard deviations below."""
    return generator.standard_normal(shape) - 10.0 * (generator.random(shape) < 0.01)


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
        """Nights of that many series with that many seeds, and a second set of seeds in the same nights."""
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

        first, within = drawn()
        return Drawn(first, within, drawn()[0], seeds)


@dataclass(frozen=True)
class Drawn:
    """Nights of several series, each array of shape (histories, series, nights).

    Args:
        first: Night means.
        within: Variance of the seeds of each night, over their number; 0 where there is one seed.
        second: Means of the seeds that confirm.
        seeds: Of a night.
    """

    first: Floats
    within: Floats
    second: Floats
    seeds: int


INDEPENDENT = World("independent seeds")
# A quarter of the variance of a run is half of that of a mean of three.
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
    World("heavy tails: Student's t with 3 degrees of freedom", run=heavy_tails),
    World("right answers to 500 questions", run=right_answers),
    World("one run of a hundred collapses", run=collapsing),
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


def quantile(freedom: int, tail: float) -> float:
    return -float(stdtrit(freedom, tail))


@dataclass(frozen=True)
class Predictions:
    """What the nights before each night lead to expect, each of shape (histories, series, nights).

    Args:
        expected: Of the next mean.
        error: Standard error of the prediction.
        freedom: Of it.
    """

    expected: Floats
    error: Floats
    freedom: Floats


def predictions(drawn: Drawn, nights: int, floor: float, *, pool: bool = True) -> Predictions:
    """What *nights* before every later one lead to expect.

    Args:
        drawn: All nights.
        nights: k.
        floor: Of the spread.
        pool: Whether seeds and other series tell of the spread; else the nights of a series alone do.
    """
    means, within = (
        np.lib.stride_tricks.sliding_window_view(values, nights, axis=2)[:, :, :-1]
        for values in (drawn.first, drawn.within)
    )
    between = means.var(axis=-1, ddof=1)
    freedom = np.full(between.shape, nights - 1.0)
    if pool:
        between, freedom = pooled_variance(between, within.mean(axis=-1), nights, drawn.seeds, axis=1)
    error = np.maximum(np.sqrt(between), floor) * np.sqrt(1 + 1 / nights)
    return Predictions(means.mean(axis=-1), error, freedom)


@dataclass(frozen=True)
class Nights:
    """What was answered, each of shape (histories, series, nights)."""

    suspect: Flags
    regression: Flags
    better: Flags
    improved: Flags


@dataclass(frozen=True)
class Gate:
    """How nights are judged.

    Args:
        alpha: Of the level test.
        confirm_alpha: Of the confirmation.
        pool: Whether seeds and other series tell of the spread.
    """

    alpha: float = LEVEL_ALPHA
    confirm_alpha: float = CONFIRM_ALPHA
    pool: bool = True


def judged(drawn: Drawn, nights: int, world: World, loss: float = 0.0, gate: Gate = Gate()) -> Nights:
    """Every night after the first *nights*, judged by as many before it.

    Args:
        drawn: Night means, and those of the seeds that confirm.
        nights: k.
        world: For floor and margin.
        loss: What the first series loses on the night that is judged, and on no other.
        gate: Levels.
    """
    found = predictions(drawn, nights, world.floor, pool=gate.pool)
    losses = []
    for means in (drawn.first, drawn.second):
        one = found.expected - means[:, :, nights:]
        one[:, 0] += loss
        losses.append(one)
    flags = []
    for sign in (1, -1):
        first, levels = moved(sign * losses[0], found.error, found.freedom, world.margin, gate.alpha)
        # A second mean beyond the bound of the first confirms too, where that is the nearer one.
        again = np.zeros(first.shape)
        levels = np.maximum(gate.confirm_alpha, levels[first])
        again[first] = -stdtrit(found.freedom[first], levels) * found.error[first]
        flags += [first, first & (sign * losses[1] >= again) & (sign * losses[1] > world.margin)]
    suspect, regression, better, improved = flags
    return Nights(suspect, regression, better, improved)


@dataclass(frozen=True)
class Alarms:
    """Shares of nights of an unchanged system with such an answer for any series.

    Args:
        suspect: Before confirmation.
        regression: After it.
        either: A confirmed regression or a confirmed improvement.
    """

    suspect: float
    regression: float
    either: float


def alarms(
    world: World,
    nights: int,
    histories: int,
    *,
    gate: Gate = Gate(),
    series: int = SERIES,
    judge: int = 50,
    seed: int = 0,
) -> Alarms:
    """How often an unchanged system alarms.

    Args:
        world: Where means come from.
        nights: Of history behind each night.
        histories: How many.
        gate: Levels.
        series: Judged together.
        judge: Nights judged in each history.
        seed: Of everything that is random.
    """
    counts = np.zeros(3)
    for generator, size in _blocks(histories, "alarms", world, nights, seed):
        found = judged(world.draw(generator, size, series, nights + judge, SEEDS), nights, world, 0.0, gate)
        for index, flags in enumerate((found.suspect, found.regression, found.regression | found.improved)):
            counts[index] += flags.any(axis=1).sum()
    return Alarms(*(counts / (histories * judge)).tolist())


def losses_found(
    world: World,
    nights: int,
    histories: int,
    *,
    loss: float = 3.0,
    seeds: int = SEEDS,
    gate: Gate = Gate(),
    judge: int = 25,
    seed: int = 0,
) -> tuple[float, float]:
    """The shares of losses of one of fifty series that are suspect, and that are confirmed, in the night they happen.

    Args:
        world: Where means come from.
        nights: Of history behind each night.
        histories: How many.
        loss: In standard deviations of a run.
        seeds: Of a night.
        gate: Levels.
        judge: Nights judged in each history.
        seed: Of everything that is random.
    """
    counts = np.zeros(2)
    for generator, size in _blocks(histories, "losses", world, nights, seed):
        drawn = world.draw(generator, size, SERIES, nights + judge, seeds)
        found = judged(drawn, nights, world, loss, gate)
        counts += found.suspect[:, 0].sum(), found.regression[:, 0].sum()
    suspect, confirmed = (counts / (histories * judge)).tolist()
    return suspect, confirmed


def trailing_losses(means: Floats, anchored: int, world: World) -> tuple[Floats, Floats]:
    """For every night from the fifth after the anchored ones: what its trailing mean lost, and the error of that."""
    anchor, after = means[:, :, :anchored], means[:, :, anchored:]
    trailing = np.lib.stride_tricks.sliding_window_view(after, TRAILING_NIGHTS, axis=2).mean(axis=-1)
    spread = np.maximum(anchor.std(axis=-1, ddof=1, keepdims=True), world.floor)
    error = spread * np.sqrt(1 / TRAILING_NIGHTS + 1 / anchored)
    return anchor.mean(axis=-1, keepdims=True) - trailing, np.broadcast_to(error, trailing.shape)


def years(
    world: World, anchored: int, histories: int, *, alpha: float = DRIFT_ALPHA, seed: int = 0
) -> tuple[float, float, float]:
    """How often the drift test alarms in a year of an unchanged system of fifty series.

    Args:
        world: Where means come from.
        anchored: Nights of the release.
        histories: Years.
        alpha: Of the drift test.
        seed: Of everything that is random.

    Returns:
        The shares of years with a loss, and with a loss or a gain; the share of nights with either.
    """
    counts = np.zeros(3)
    for generator, size in _blocks(histories, "years", world, anchored, seed):
        means = world.draw(generator, size, SERIES, anchored + YEAR + TRAILING_NIGHTS - 1, SEEDS).first
        lost, error = trailing_losses(means, anchored, world)
        # Something is rejected exactly if the least p-value is, at the level divided by the number of series.
        reach = np.maximum(quantile(anchored - 1, alpha / SERIES) * error, world.margin)
        worse, either = (flags.any(axis=1) for flags in (lost >= reach, np.abs(lost) >= reach))
        counts += worse.any(axis=1).sum(), either.any(axis=1).sum(), either.sum() / YEAR
    loss, both, nightly = (counts / histories).tolist()
    return loss, both, nightly


@dataclass(frozen=True)
class Drift:
    """What became of a slow loss.

    Args:
        found: Share that the drift test found within sixty nights.
        median: Night on which half of them were.
        level: Share in which the level test was ever suspect, in the same nights.
    """

    found: float
    median: float
    level: float


def drifts(
    world: World, anchored: int, histories: int, *, rate: float, alpha: float = DRIFT_ALPHA, seed: int = 0
) -> Drift:
    """How often, and when, a slow loss of one series of fifty is found.

    Args:
        world: Where means come from.
        anchored: Nights of the release; the loss starts after them.
        histories: How many.
        rate: Loss a night, in standard deviations of a run.
        alpha: Of the drift test.
        seed: Of everything that is random.
    """
    first = []
    level = 0
    for generator, size in _blocks(histories, "drifts", world, anchored, seed):
        drawn = world.draw(generator, size, SERIES, anchored + DRIFT_NIGHTS, SEEDS)
        means = drawn.first
        means[:, 0, anchored:] -= rate * np.arange(1, DRIFT_NIGHTS + 1)
        level += judged(drawn, anchored, world).suspect[:, 0].any(axis=-1).sum()
        lost, error = trailing_losses(means, anchored, world)
        found = moved(lost, error, anchored - 1, world.margin, alpha)[0][:, 0]
        first.append(np.where(found.any(axis=-1), found.argmax(axis=-1) + TRAILING_NIGHTS, np.inf))
    night = np.concatenate(first)
    return Drift(float(np.isfinite(night).mean()), float(np.median(night)), level / histories)


def _blocks(total: int, kind: str, world: World, nights: int, seed: int) -> Iterator[tuple[np.random.Generator, int]]:
    """Blocks of some tens of MiB, each with a generator of its own."""
    for done in range(0, total, 50):
        yield np.random.default_rng([seed, done, nights, *kind.encode(), *world.name.encode()]), min(50, total - done)


def share(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def rounded(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def night(value: float) -> str:
    return f"{value:.0f}" if np.isfinite(value) else f"> {DRIFT_NIGHTS}"


def alarm_lines(histories: int) -> Iterator[str]:
    """False alarms of a night over fifty series, and losses found, in each world."""
    yield (
        "| nights of an unchanged system with | history | any suspect | any regression | any confirmed, either way "
        "| 3 SD, 20 nights: suspect | found |"
    )
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for world in WORLDS:
        losses = " | ".join(map(rounded, losses_found(world, 20, histories)))
        for nights in NIGHTS:
            one = alarms(world, nights, histories)
            shares = " | ".join(map(share, (one.suspect, one.regression, one.either)))
            yield f"| {world.name} | {nights} | {shares} | {losses} |"


GATES = {
    "nights alone: 0.03, 0.005": Gate(0.03, 0.005, pool=False),
    "nights alone": Gate(pool=False),
    "seeds too: 0.03, 0.005": Gate(0.03, 0.005),
    "0.03, 0.001": Gate(0.03, 0.001),
    f"{LEVEL_ALPHA}, {CONFIRM_ALPHA}": Gate(),
    "0.01, 0.001": Gate(0.01, 0.001),
}


def trade_lines(histories: int) -> Iterator[str]:
    """What other levels would give, and the nights of a series alone."""
    yield (
        "| level test, confirmation | 3 SD found, 8 nights | 12 | 20 | alarms, independent seeds, 8 nights | heavy tails | "
        "half the night's |"
    )
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    heavy = next(world for world in WORLDS if world.run is heavy_tails)
    for name, gate in GATES.items():
        found = [rounded(losses_found(INDEPENDENT, nights, histories, gate=gate)[1]) for nights in NIGHTS]
        rates = [share(alarms(world, 8, histories, gate=gate).either) for world in (INDEPENDENT, heavy, NIGHT)]
        yield f"| {name} | {' | '.join([*found, *rates])} |"


def few_lines(histories: int) -> Iterator[str]:
    """False alarms of gates of few series, whose bound of the level test is nearer than that of the confirmation."""
    yield "| nights of an unchanged system of | history | any suspect | any regression | any confirmed, either way |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for series in (1, 3, 12):
        for nights in NIGHTS:
            one = alarms(INDEPENDENT, nights, histories, series=series)
            shares = " | ".join(map(share, (one.suspect, one.regression, one.either)))
            yield f"| {series} series | {nights} | {shares} |"


def loss_lines(histories: int) -> Iterator[str]:
    """Losses found the same night and confirmed."""
    yield "| loss of one series of 50, independent seeds | seeds | 8 nights | 12 nights | 20 nights |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for loss in (1.0, 2.0, 3.0, 4.0):
        for seeds in (1, 3, 5):
            found = [
                rounded(losses_found(INDEPENDENT, nights, histories, loss=loss, seeds=seeds)[1]) for nights in NIGHTS
            ]
            yield f"| {loss:.0f} SD | {seeds} | {' | '.join(found)} |"


RATES = {"0.1 SD of a run": 0.1, "0.1 SD of a night mean": 0.1 / float(np.sqrt(SEEDS))}


def drift_lines(histories: int) -> Iterator[str]:
    """Years of an unchanged system with a drift, and slow losses found."""
    yield "| drift test over a year, 50 series | anchored nights | years with a loss | with a loss or a gain | nights |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for world in DRIFT_WORLDS:
        for anchored in NIGHTS:
            loss, either, nightly = years(world, anchored, histories)
            yield f"| {world.name} | {anchored} | {rounded(loss)} | {rounded(either)} | {nightly:.5f} |"
    yield ""
    yield "| slow loss a night, found within 60 nights | anchored nights | drift test | median night | level test |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, rate in RATES.items():
        for anchored in NIGHTS:
            found = drifts(INDEPENDENT, anchored, histories, rate=rate)
            yield f"| {name} | {anchored} | {rounded(found.found)} | {night(found.median)} | {rounded(found.level)} |"
    yield ""
    yield "| level of the drift test | anchored nights | years with a loss or a gain | 0.1 SD of a run found | median |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for alpha in (0.001, 0.0003, DRIFT_ALPHA):
        for anchored in (8, 20):
            _, either, _ = years(INDEPENDENT, anchored, histories, alpha=alpha)
            found = drifts(INDEPENDENT, anchored, histories, rate=0.1, alpha=alpha)
            yield f"| {alpha} | {anchored} | {rounded(either)} | {rounded(found.found)} | {night(found.median)} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few histories: shows that it runs")
    histories = QUICK if parser.parse_args(arguments).quick else HISTORIES
    for lines in (alarm_lines, few_lines, trade_lines, loss_lines, drift_lines):
        print(*folded(lines(histories)), "", sep="\n", flush=True)


if __name__ == "__main__":
    main()
