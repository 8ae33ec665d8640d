"""Difference of two methods over several tasks.

Tasks are fixed and not resampled: a macro mean describes the difference on these tasks only. Tasks have equal weight. Only
seeds that every task has for both methods are used. Seeds are resampled for all tasks at once, which is also right if tasks
are linked by the seed (RTE starts from the MNLI run of the same seed). Items are resampled task by task.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lora_bench.errors import LoraBenchError
from lora_bench.stats.crossed import DRAWS, crossed_bootstrap, with_items
from lora_bench.stats.estimate import ChoiceError, seeds_in_order
from lora_bench.stats.items import Floats, ItemDifference, Items
from lora_bench.stats.paired import Difference, scored_difference


@dataclass(frozen=True, kw_only=True)
class MacroDifference(Difference):
    """The difference over tasks, for seeds that every task has for both methods; scores are means over tasks.

    Positive: the first scores higher. *tasks* has the mean difference of each task.
    """

    tasks: dict[str, float]


def macro_difference(
    first: Mapping[str, Mapping[int, float]],
    second: Mapping[str, Mapping[int, float]],
    *,
    draw_seed: int,
    items: Mapping[str, tuple[Items, Items]] | None = None,
    draws: int = DRAWS,
    choices: Mapping[str, Sequence[ChoiceError | None]] | None = None,
    overlap: float = 0.0,
) -> MacroDifference:
    """Compare two methods over tasks.

    Args:
        first: For each task the score of each seed.
        second: For the same tasks.
        draw_seed: Seed of everything that is drawn.
        items: For tasks, the scores of both methods as functions of the test items.
        draws: Resamples.
        choices: For each task, the errors of the choice of each method's learning rate.
        overlap: Of folds, see `Estimate`: the mean over tasks.

    Raise LoraBenchError if the tasks differ, no seed is common to all, or items do not give their scores.
    """
    if set(first) != set(second) or not first:
        raise LoraBenchError(
            f"the first method has tasks {sorted(first)} and the second {sorted(second)}; expected the same"
        )
    tasks, items = sorted(first), items or {}
    everywhere = (set(seeds_in_order(method[task])) for task in tasks for method in (first, second))
    seeds = tuple(sorted(set.intersection(*everywhere)))
    if not seeds:
        raise LoraBenchError("no seed is in every task for both methods; expected the same list for all")
    values = np.array([[first[task][s] - second[task][s] for s in seeds] for task in tasks])
    size = max(abs(method[task][s]) for task in tasks for method in (first, second) for s in seeds)
    differences = values.mean(axis=0)
    parts = [scored_difference(items[task], (first[task], second[task]), seeds) for task in tasks if task in items]
    rest = sum((values[row] for row, task in enumerate(tasks) if task not in items), np.zeros(len(seeds)))
    scored = _OverTasks(tuple(parts), rest / len(tasks), 1 / len(tasks))
    crossed = crossed_bootstrap(scored, draw_seed=draw_seed, draws=draws) if parts else None
    weighted = [
        None if one is None else replace(one, sd=1 / len(tasks) * one.sd)
        for task in tasks
        for one in (choices or {}).get(task, ())
    ]
    estimate = with_items(differences, crossed, size, overlap).widened(weighted)
    return MacroDifference(
        seeds=seeds,
        tasks=dict(zip(tasks, values.mean(axis=1).tolist(), strict=True)),
        scores=(_over_tasks(first, tasks, seeds), _over_tasks(second, tasks, seeds)),
        differences=tuple(differences.tolist()),
        sd=statistics.stdev(differences.tolist()) if len(seeds) > 1 else None,
        estimate=estimate,
        draw_seed=draw_seed,
        crossed=crossed,
        reason=None if estimate.uncertainties else "the macro mean is the same at every seed, or there is one seed",
    )


@dataclass(frozen=True, eq=False)
class _OverTasks:
    """A mean over tasks: those with their own items, of which each has a *share*, and the part of the others."""

    of_tasks: tuple[ItemDifference, ...]
    rest: Floats
    share: float

    @property
    def items(self) -> int:
        return sum(one.items for one in self.of_tasks)

    @property
    def independent(self) -> int:
        return sum(one.independent for one in self.of_tasks)

    def scores(self) -> Floats:
        return self.rest + sum(self.share * one.scores() for one in self.of_tasks)

    def drawn(self, generator: np.random.Generator, draws: int) -> Floats:
        return self.rest + sum(self.share * one.drawn(generator, draws) for one in self.of_tasks)

    def parts(self) -> tuple[float, float] | None:
        item = both = 0.0
        for one in self.of_tasks:
            if (found := one.parts()) is None:
                return None
            item, both = item + self.share**2 * found[0], both + self.share**2 * found[1]
        return item, both


def _over_tasks(
    scores: Mapping[str, Mapping[int, float]], tasks: Sequence[str], seeds: Sequence[int]
) -> tuple[float, ...]:
    """Return the mean over tasks for each seed."""
    return tuple(statistics.fmean(scores[task][seed] for task in tasks) for seed in seeds)
