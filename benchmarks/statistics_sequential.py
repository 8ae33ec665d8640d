"""What adding seeds until a comparison is decided costs and keeps, beside a fixed number of seeds and two other rules.

    python -m benchmarks.statistics_sequential            tables of docs/error-rates.md; some fifteen minutes of one CPU core
    python -m benchmarks.statistics_sequential --quick    seconds: shows that it runs

From 4 to 20 seeds, differences paired by seed, with a standard deviation of 1 for each pair, tested by Student's t. *fixed*
judges once. *shares* is the rule of `stats.looks`. *spending* spends alpha as the square of the share of seeds (Lan and DeMets
1983), with levels of a normal process. *anywhere* is a Bayes factor for t with a normal prior on the effect, whose inverse
may be compared with alpha after every seed. Brackets: mean seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from benchmarks.statistics_collapse import ALIKE, ALPHA, NORMAL, Scores, World, blocks, share
from lora_bench.records.analysis import Analysis
from lora_bench.records.store import read_records
from lora_bench.report.model.comparison import compare
from lora_bench.report.model.judged import judge_comparison
from lora_bench.stats import judge, paired_difference
from lora_bench.stats.apart import least_p
from lora_bench.stats.items import Floats
from lora_bench.stats.looks import STOPPED, looks_between, share_of

LOOKS = looks_between(4, 20)
EVERY = tuple(range(4, 21))
EFFECTS = (0.0, 0.5, 0.75, 1.2, 1.9, 2.5, 3.5)
# Mean over SD of the paired differences against LoRA on film reviews after 80 steps, ten seeds, items included: each method on
# three models at two targets.
REVIEWS = {
    "full": (1.18, 1.25, 1.23, 1.95, 1.77, 1.21),
    "bottleneck_adapter": (0.55, 0.45, 0.40, 0.32, 0.19, 0.62),
    "prefix_tuning": (2.26, 2.93, 2.18, 2.50, 3.56, 1.43),
}


def p_value(differences: Floats) -> Floats:
    """Two-sided p-values of t over the last axis."""
    seeds = differences.shape[-1]
    t = differences.mean(axis=-1) / (differences.std(axis=-1, ddof=1) / np.sqrt(seeds))
    return np.asarray(2 * stdtr(seeds - 1, -np.abs(t)))


@dataclass(frozen=True)
class Rule:
    """When to look, and the p-value at a look that counts as alpha over all looks.

    Args:
        overall: From the p-value, the differences and the number of the look to a p-value for all looks.
    """

    name: str
    looks: Sequence[int]
    overall: Callable[[Floats, Floats, int], Floats]


def spending_levels(alpha: float, looks: Sequence[int]) -> list[float]:
    """Two-sided levels at the looks of a normal process that spend alpha as the square of the share of seeds.

    The density of the sum that goes on is followed from look to look on a grid (Armitage, McPherson and Rowe 1969).
    """
    spent = [alpha * (look / looks[-1]) ** 2 for look in looks]
    levels: list[float] = []
    grid = density = np.empty(0)
    for number, look in enumerate(looks):
        new = spent[number] - (spent[number - 1] if number else 0.0)
        if number == 0:
            bound = float(-ndtri(new / 2))
        else:
            step = np.sqrt(look - looks[number - 1])
            weights = density * (grid[1] - grid[0])
            low, high = 0.0, 12.0
            for _ in range(60):
                bound = (low + high) / 2
                edge = bound * np.sqrt(look)
                crossed = float((weights * (ndtr((-edge - grid) / step) + ndtr((grid - edge) / step))).sum())
                low, high = (bound, high) if crossed > new else (low, bound)
        levels.append(float(2 * ndtr(-bound)))
        following = np.linspace(-bound, bound, 801) * np.sqrt(look)
        if number == 0:
            density = np.exp(-(following**2) / (2 * look)) / np.sqrt(2 * np.pi * look)
        else:
            kernel = np.exp(-((following[:, None] - grid) ** 2) / (2 * step**2)) / (np.sqrt(2 * np.pi) * step)
            density = kernel @ weights
        grid = following
    return levels


def inverse_bayes_factor(differences: Floats) -> Floats:
    """The inverse of the Bayes factor of an effect drawn from a standard normal against none; valid after every seed."""
    seeds = differences.shape[-1]
    t2 = (differences.mean(axis=-1) / differences.std(axis=-1, ddof=1)) ** 2 * seeds
    freedom = seeds - 1
    wide = 1 + t2 / (freedom * (1 + seeds))
    return np.asarray(np.sqrt(1 + seeds) * (wide / (1 + t2 / freedom)) ** (seeds / 2))


def rules(alpha: float) -> list[Rule]:
    """The rules that are compared, for one comparison at *alpha*."""
    levels = spending_levels(alpha, LOOKS)
    return [
        Rule("fixed", (20,), lambda p, differences, look: p),
        Rule("shares", LOOKS, lambda p, differences, look: p / share_of(LOOKS[look], LOOKS)),
        Rule("spending", LOOKS, lambda p, differences, look: p * alpha / levels[look]),
        Rule("anywhere", EVERY, lambda p, differences, look: inverse_bayes_factor(differences)),
    ]


@dataclass(frozen=True)
class Found:
    """What a rule does with one comparison: the share decided, the mean of seeds, and how often intervals cover."""

    decided: float
    seeds: float
    plain: float
    reported: float


def one_comparison(rule: Rule, effect: float, alpha: float, comparisons: int) -> Found:
    """Judge comparisons at the looks of a rule until each is decided."""
    counts = np.zeros(4)
    for generator, size in blocks(comparisons, rule.name, int(1000 * effect), int(1e5 * alpha)):
        differences = effect + generator.standard_normal((size, 20))
        stopped = np.full(size, rule.looks[-1])
        decided = np.zeros(size, bool)
        for number, look in enumerate(rule.looks):
            seen = differences[:, :look]
            new = ~decided & (rule.overall(p_value(seen), seen, number) <= alpha)
            stopped[new] = look
            decided |= new
        counts += [
            decided.sum(),
            stopped.sum(),
            *(covers(differences, stopped, effect, level) for level in (1.0, STOPPED)),
        ]
    return Found(*(counts / comparisons).tolist())


def covers(differences: Floats, stopped: NDArray[np.int_], effect: float, level: float) -> int:
    """How many intervals at 95 % over the seeds up to the stop hold the effect, where *level* of the error is used."""
    number = 0
    for seeds in np.unique(stopped):
        seen = differences[stopped == seeds, :seeds]
        half = -stdtrit(seeds - 1, 0.025 * level) * seen.std(axis=-1, ddof=1) / np.sqrt(seeds)
        number += int((np.abs(seen.mean(axis=-1) - effect) <= half).sum())
    return number


def false_differences(world: World, methods: int, tasks: int, families: int) -> float:
    """Share of families of like methods in which a difference is called at any look, by the rules of `judge`."""
    count = 0
    for generator, size in blocks(families, f"looks {world.name}", methods, tasks):
        first, second = (world.draw(generator, (size, rows, tasks, 20)) for rows in (methods, 1))
        called = np.zeros(size, bool)
        for look in LOOKS:
            scores = Scores(first[..., :look], second[..., :look])
            p_values = p_value(scores.differences)
            p_values = np.where(scores.apart(), np.maximum(p_values, least_p(look)), p_values) / share_of(look, LOOKS)
            called |= (p_values <= ALPHA / (methods * tasks)).any(axis=1)
        count += int(called.sum())
    return count / families


def false_equivalence(methods: int, families: int) -> float:
    """Share of families in which a method that is worse by the margin is called non-inferior at any look, collapses aside."""
    margin, count = 1.5, 0
    for generator, size in blocks(families, "margin", methods):
        differences = generator.standard_normal((size, methods, 20)) - margin
        called = np.zeros(size, bool)
        for look in LOOKS:
            seen = differences[..., :look]
            t = (seen.mean(axis=-1) + margin) / (seen.std(axis=-1, ddof=1) / np.sqrt(look))
            called |= (stdtr(look - 1, -t) / share_of(look, LOOKS) <= ALPHA / methods).any(axis=1)
        count += int(called.sum())
    return count / families


def holm_rejects(p_values: Floats, alpha: float) -> NDArray[np.bool_]:
    """Which of each row's p-values Holm's procedure rejects."""
    order = p_values.argsort(axis=1)
    sorted_p = np.take_along_axis(p_values, order, axis=1)
    steps = alpha / np.arange(p_values.shape[1], 0, -1)
    going = np.cumprod(sorted_p <= steps, axis=1).astype(bool)
    rejected = np.empty_like(going)
    np.put_along_axis(rejected, order, going, axis=1)
    return rejected


@dataclass(frozen=True)
class Suite:
    """Runs and decisions of a suite of film reviews.

    Args:
        seeds: Mean seeds of each method's comparisons.
        decided: Share of each method's comparisons that are decided.
        runs: Mean number of all runs, the reference's included.
    """

    seeds: dict[str, float]
    decided: dict[str, float]
    runs: float


def of_reviews(looks: Sequence[int], suites: int) -> Suite:
    """Simulate suites with these differences as one family of 18."""
    effects = np.array([effect for of_method in REVIEWS.values() for effect in of_method])
    stopped_sum, decided_sum = np.zeros(len(effects)), np.zeros(len(effects))
    runs = 0.0
    for generator, size in blocks(suites, "fair", *looks):
        differences = effects[:, None] + generator.standard_normal((size, len(effects), looks[-1]))
        stopped = np.full((size, len(effects)), looks[-1])
        at_stop = np.ones((size, len(effects)))
        decided = np.zeros((size, len(effects)), bool)
        for look in looks:
            now = p_value(differences[..., :look]) / share_of(look, tuple(looks))
            at_stop = np.where(decided, at_stop, now)
            rejected = holm_rejects(at_stop, ALPHA)
            stopped[rejected & ~decided] = look
            decided |= rejected
        stopped_sum += stopped.sum(axis=0)
        decided_sum += decided.sum(axis=0)
        # The reference has as many seeds as the comparison of its model and target that takes longest; `full` has one target.
        places = stopped.reshape(size, len(REVIEWS), 6)
        runs += float(places.sum() + places.max(axis=1).sum())
    slices = {label: slice(6 * number, 6 * number + 6) for number, label in enumerate(REVIEWS)}
    return Suite(
        seeds={label: float(stopped_sum[part].mean() / suites) for label, part in slices.items()},
        decided={label: float(decided_sum[part].mean() / suites) for label, part in slices.items()},
        runs=runs / suites,
    )


def unplanned(counts: Sequence[int], families: int) -> float:
    """Return the share of families of 12 like comparisons with any difference called, where open ones get more seeds.

    `judge` is given what a report gives it.
    """
    rules = Analysis(reference="reference")
    generator, found = np.random.default_rng(len(counts)), 0
    for _ in range(families):
        scores = generator.standard_normal((13, counts[-1]))
        for look, seeds in enumerate(counts, 1):
            of = [dict(enumerate(row[:seeds].tolist())) for row in scores]
            family = {place: paired_difference(row, of[0], draw_seed=0, draws=0) for place, row in enumerate(of[1:])}
            verdicts = judge(family, margin=None, settings=rules.paying(look), power=None).values()
            if any(one.verdict != "inconclusive" for one in verdicts):
                found += 1
                break
    return found / families


def pages(seeds: int, number: int) -> tuple[float, float]:
    """Return the shares of reports on four like methods and five tasks with a false verdict, and with any false claim.

    Reports are made of the records of `glue-small` with other scores.
    """
    records = [one for one in read_records(Path("baselines/glue-small")) if one.spec.score_on == "test"]
    first = [one for one in records if one.spec.seed == 0]
    rules, generator = Analysis(reference="lora"), np.random.default_rng(seeds)
    verdicts = claims = 0
    for _ in range(number):
        made = []
        for seed in range(seeds):
            for one in first:
                update = {
                    "run_id": f"{one.run_id}-{seed}", "spec": one.spec.model_copy(update={"seed": seed}), "analysis": rules,
                    "scores": {one.spec.task.metric: 0.8 + 0.01 * generator.standard_normal()},
                }  # fmt: skip
                made.append(one.model_copy(update=update))
        judged = judge_comparison(compare(made), made)
        assert judged is not None
        across = [one for group in judged.over_tasks for one in group.methods]
        shown = [held.verdict.verdict for held in judged.held]
        means = [one.verdict.verdict for one in across if one.verdict is not None]
        ranks = [rank for _, rank in judged.ranks] + [one.rank for one in across if one.rank is not None]
        verdicts += any(word in ("better", "worse") for word in shown)
        claims += any(word in ("better", "worse") for word in (*shown, *means)) or any(rank.apart for rank in ranks)
    return verdicts / number, claims / number


def tables(size: int) -> Iterator[str]:
    """The tables, a line each."""
    yield "| one comparison, effect in SD | " + " | ".join(f"found {rule.name}" for rule in rules(ALPHA)) + " |"
    for alpha in (ALPHA, ALPHA / 18):
        for effect in EFFECTS:
            found = [one_comparison(rule, effect, alpha, size) for rule in rules(alpha)]
            cells = [f"{share(one.decided)} ({one.seeds:.1f})" for one in found]
            yield f"| {effect:g} at {alpha:.2g} | {' | '.join(cells)} | {share(found[1].plain)} | {share(found[1].reported)} |"
    for world in (*ALIKE,):
        cells = [share(false_differences(world, methods, tasks, size)) for methods, tasks in ((3, 1), (3, 4), (9, 5))]
        yield f"| {world.name} | {' | '.join(cells)} |"
    looks = ((5, 10), (5, 10, 20), (10, 20, 40))
    yield f"| {looks} | {' | '.join(share(unplanned(of, size * 3 // 40)) for of in looks)} |"
    yield f"| page, 5 seeds | {' | '.join(map(share, pages(5, size * 3 // 100)))} |"
    cells = [share(false_equivalence(methods, size)) for methods in (1, 3, 12)]
    yield f"| {NORMAL.name}, worse by the margin | {' | '.join(cells)} |"
    for name, looks in (
        ("4 to 20", LOOKS),
        ("fixed 20", (20,)),
        ("4 to 10", looks_between(4, 10)),
        ("fixed 10", (10,)),
        ("4 to 5", looks_between(4, 5)),
        ("fixed 5", (5,)),
    ):
        suite = of_reviews(looks, size // 5)
        cells = [f"{suite.seeds[label]:.1f} ({share(suite.decided[label])})" for label in REVIEWS]
        yield f"| {name} | {' | '.join(cells)} | {suite.runs:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few experiments: shows that it runs")
    arguments = parser.parse_args()
    for line in tables(500 if arguments.quick else 20_000):
        print(line, flush=True)


if __name__ == "__main__":
    main()
