"""Doubts about runs: copies of others, and training that was not alike."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from lora_bench.exchange.scores.collect import KINDS, LIBRARIES, Run, Source
from lora_bench.exchange.scores.single_runs import MOST_NAMED, first_named
from lora_bench.report.blocks import Block, SectionAnswer
from lora_bench.report.model.rows import grouped
from lora_bench.report.text import code, inert, listed, plural

# Equal results of two runs on fewer tasks or items, or of two methods at fewer seeds, are no sign of a copy.
FEWEST_TASKS, FEWEST_ITEMS, FEWEST_SEEDS = 3, 21, 3
# Two methods are asked about if a table of independent ones has such a pair less often. At most .003 of simulated tables do,
# of 20 items to 10,000, also where runs collapse to one score, with correlations of up to .6 at a seed; at .9 .02 do.
BY_CHANCE = 0.001
# Methods of an unusual setting that are named and not counted.
MOST_UNLIKE = 2
# Means of items that are equal but for rounding.
ROUNDING = 1e-9


def copies(runs: Sequence[Run]) -> list[Block]:
    """Return answers on runs that repeat others of their method, half of them at least or so much that chance hardly does.

    Single scores on few tasks agree by chance.
    """
    many, some = [], []
    for method, own in grouped([run for run in runs if run.score is not None], lambda run: run.method).items():
        alike: dict[frozenset[tuple[str, str, object]], list[str]] = {}
        for seed, of_seed in grouped(own, lambda run: run.seed).items():
            found = (
                (run.task, run.base_model, run.score if run.items is None else run.items.tobytes()) for run in of_seed
            )
            alike.setdefault(frozenset(found), []).append(code(str(seed)))
        # A task on which all score the same, as at 100 %, is no sign of a copy.
        of_places = grouped(own, lambda run: (run.task, run.base_model))
        telling = {place for place, of in of_places.items() if len({run.score for run in of}) > 1}
        number = sum(map(len, alike.values()))
        items = sum(len(run.items) for run in own if run.items is not None) / number
        if 2 * (number - len(alike)) >= number and (len(own) > number or items):
            many.append(f"{number - len(alike)} of the {number} runs of {code(method)}")
        else:
            twins = [
                seeds
                for found, seeds in alike.items()
                if items >= FEWEST_ITEMS or sum((task, model) in telling for task, model, _ in found) >= FEWEST_TASKS
            ]
            some += [f"seeds {listed(seeds)} of {code(method)}" for seeds in twins if len(seeds) > 1]
    said = [f"Copies: {listed(many)} have the same results as another run of their method."] if many else []
    said += [f"Copies? The results of {'; '.join(some)} are equal to the last digit, on all tasks."] if some else []
    return [SectionAnswer(f"{' '.join(said)} Copies are no evidence, and make verdicts too sure.")] if said else []


def equal_methods(runs: Sequence[Run]) -> list[Block]:
    """Return an answer on two methods with the same score at most seeds of a task, where chance hardly makes them so."""
    of_places = grouped([run for run in runs if run.score is not None], lambda run: (run.task, run.base_model))
    pairs = sum(math.comb(len({run.method for run in own}), 2) for own in of_places.values())
    found: dict[tuple[str, str], list[tuple[str, int, int]]] = {}
    for (task, model), own in of_places.items():
        step = _step([run.score or 0.0 for run in own])
        scores: dict[str, dict[str | None, float]] = {}
        for run in own:
            scores.setdefault(run.method, {})[run.seed] = run.score or 0.0
        equal = grouped(own, lambda run: (run.seed, run.score if run.items is None else run.items.tobytes()))
        alike: dict[tuple[str, str], list[str | None]] = {}
        for (seed, _), same in equal.items():
            for one, other in itertools.combinations(sorted(run.method for run in same), 2):
                alike.setdefault((one, other), []).append(seed)
        for (one, other), seeds in alike.items():
            both = [*(scores[one].keys() & scores[other].keys())]
            if 2 * len(seeds) <= len(both):
                continue
            chance = _chance([scores[one][seed] for seed in both], [scores[other][seed] for seed in both], step)
            if pairs * chance < BY_CHANCE:
                place = " on ".join(filter(None, [code(task) if task else "", inert(model, 80)]))
                found.setdefault((one, other), []).append((place, len(seeds), len(both)))
    said = []
    for (one, other), places in [*found.items()][:MOST_NAMED]:
        named = first_named([place for place, *_ in places if place])
        number, of = (sum(counts) for counts in zip(*((same, seeds) for _, same, seeds in places), strict=True))
        said.append(
            f"{code(one)} and {code(other)} have the same score at {number} of {of} seeds{f' of {named}' if named else ''}"
        )
    more = [f"so have {plural(len(found) - MOST_NAMED, 'more pair')}"] if len(found) > MOST_NAMED else []
    return [SectionAnswer(f"{'; '.join([*said, *more])}: one may be a copy of the other.")] if said else []


def _step(scores: Sequence[float]) -> float:
    """Return the least difference of the scores of a task, as of .05 where 20 items are right or wrong."""
    values = np.unique(scores)
    steps = np.diff(values)
    return float(steps.min(initial=math.inf, where=steps > ROUNDING * np.abs(values).max()))


def _chance(first: Sequence[float], second: Sequence[float], step: float) -> float:
    """Return how often chance makes so many scores of a seed equal, for scores of two methods in steps.

    Two normal scores are equal with the probability .13 step / q, of which q is the lower quartile of their differences. It is
    counted as three times as large, as where a seed moves both with a correlation of .9. A score that stands at two seeds, such
    as that of the majority class, is one of few and tells nothing.
    """
    from scipy.special import bdtrc

    seeds = range(len(first))
    apart = sorted(abs(first[one] - second[other]) for one in seeds for other in seeds if one != other)
    seen = Counter(score for pair in zip(first, second, strict=True) for score in {*pair})
    telling = [one == other for one, other in zip(first, second, strict=True) if seen[one] == seen[other] == 1]
    if sum(telling) < FEWEST_SEEDS:
        return 1.0
    quartile = apart[(len(apart) - 1) // 4]
    equal = 0.4 * step / quartile if quartile else 1.0
    return float(bdtrc(sum(telling) - 1, len(telling), equal)) if equal < 1 else 1.0


def unlike_training(sources: Sequence[Source]) -> list[Block]:
    """Return an answer on settings of training that differ between the methods of a task, with the usual value first."""
    runs, said = [one.trained for one in sources if one.trained is not None], []
    for of_task in grouped(runs, lambda run: run["task"]).values():
        for name in dict.fromkeys(name for run in of_task for name in run if name not in KINDS):
            by_value = grouped(of_task, lambda run: run.get(name, "unset"))  # noqa: B023  (called at once)
            methods = {value: sorted({code(run["method"]) for run in of}) for value, of in by_value.items()}
            usual, *others = sorted(methods.items(), key=lambda found: -len(found[1]))
            if others:
                shown = [f"{value} for {listed(of) if len(of) <= MOST_UNLIKE else len(of)}" for value, of in others]
                further = sum(len(of) for _, of in others[MOST_NAMED:])
                shown[MOST_NAMED:] = [f"others for {further}"] if further else []
                said.append(f"{name} {usual[0]} for {plural(len(usual[1]), 'method')}, {', '.join(shown)}")
    unknown = "" if any(name in run for run in runs for name in LIBRARIES) else " Libraries were not compared."
    return [SectionAnswer(f"Not trained alike: {'; '.join(said)}.{unknown}")] if said else []
