"""What holds of single runs: which of them score higher on new test items, and nothing of their methods.

Two runs on the same items are compared item by item. Where results differ by one amount only, as right and wrong do, the
p-value is that of the exact test of McNemar (1947, https://doi.org/10.1007/BF02295996), of few other differences that of sign
flips, else that of Student's t. Holm's procedure holds the error level over all pairs of runs of all tasks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lora_bench.exchange.scores.collect import Floats, Run, Source, TaskFacts
from lora_bench.report.blocks import Block, Heading, SectionAnswer, TextTable
from lora_bench.report.model.rows import grouped
from lora_bench.report.text import code, inert, listed, once_words, plural, score, span
from lora_bench.stats import Estimate, Uncertainty, holm, sign_flip
from lora_bench.stats.paired import FEWEST_FLIPS

# So many differences that are not zero have all their signs flipped; so many runs and tasks are named in an answer.
MOST_FLIPS, MOST_NAMED = 13, 4
# Equal results of two runs on fewer tasks or items are no sign of a copy.
FEWEST_TASKS, FEWEST_ITEMS = 3, 21


class OnItems(NamedTuple):
    """A run on the items of its task: its mean result, the standard error from the choice of items, and its possible places."""

    label: str
    mean: float
    error: float
    best: int
    worst: int


def single_runs_section(runs: Sequence[Run], facts: Mapping[str, TaskFacts], alpha: float) -> list[Block]:
    """Return the section on tasks whose methods have one run each, with results on items; its answer comes before others."""
    found = {}
    for place, of_place in grouped(runs, lambda run: (run.task, run.base_model)).items():
        results = {run.method: run.items for run in of_place if run.items is not None}
        if 1 < len(results) == len(of_place):
            found[place] = results
    pairs = [(place, *pair) for place, results in found.items() for pair in itertools.combinations(results, 2)]
    adjusted = holm([p_of_items(found[place][one] - found[place][other]) for place, one, other in pairs], alpha)
    shown = {pair for pair, of in zip(pairs, adjusted, strict=True) if of.p_value is not None and of.p_value <= alpha}
    said: dict[str, list[str]] = {}
    tables: list[Block] = []
    for place, results in found.items():
        told = [pair for of, *pair in shown if of == place]
        ranked = _ranked(results, 1 if facts[place[0]].higher_is_better else -1, told)
        first, *others = results.values()
        alike = all(np.array_equal(first, other) for other in others)
        answer = f"all {len(results)} have the same result on every item" if alike else _answer(ranked)
        said.setdefault(answer, []).append(code(place[0]))
        places = [f"{one.best}{f' to {one.worst}' * (one.worst > one.best)} of {len(ranked)}" for one in ranked]
        rows = [
            [code(one.label), f"{score(one.mean)} ± {score(one.error)}", at]
            for one, at in zip(ranked, places, strict=True)
        ]
        name = code(place[0]) + (f", {inert(place[1], 80)}" if place[1] else "")
        tables += [Heading(3, name or "Runs"), TextTable(["run of", "score ± standard error", "place"], rows)]
    if not found:
        return []
    words = [f"{answer} on {_named(tasks)}" if len(found) > 1 else answer for answer, tasks in said.items()]
    further = sum(map(len, [*said.values()][MOST_NAMED:]))
    more = [f"more on {plural(further, 'further task')}"] if further else []
    items = span([len(one) for results in found.values() for one in results.values()]) + " a task" * (len(found) > 1)
    whole = f"Of these runs, on new items like these ({items}): {'; '.join([*words[:MOST_NAMED], *more])}."
    return [
        Heading(2, "These runs on new test items"),
        SectionAnswer(f"{whole} This says nothing of methods: {once_words([run.method for run in runs])}."),
        f"All pairs of runs are one family with an error level of {alpha:g} (Holm): all places are right at once with "
        f"{100 * (1 - alpha):g} %. A standard error is that of the choice of items.",
        *tables,
    ]


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


def unlike_training(sources: Sequence[Source]) -> list[Block]:
    """Return an answer on runs of a task that were trained for another number of steps, or of examples a step, than most."""
    runs, said = [one.trained for one in sources if one.trained is not None], []
    for of_task in grouped(runs, lambda run: run["task"]).values():
        for name in ("steps", "examples a step"):
            numbers: dict[int, list[str]] = {}
            for run in of_task:
                numbers.setdefault(run[name] or 0, []).append(code(run["method"]))
            usual = max(numbers, key=lambda number: len(numbers[number]))
            others = [(number, _named(of)) for number, of in numbers.items() if number not in (usual, 0)]
            said += [f"{methods} had {number:,} {name}, not {usual:,}" for number, methods in others if usual]
    return [SectionAnswer(f"Not trained alike: {'; '.join(said)}.")] if said else []


def _ranked(results: Mapping[str, Floats], sign: int, told: Sequence[Sequence[str]]) -> list[OnItems]:
    means = {label: sign * float(own.mean()) for label, own in results.items()}
    found = []
    for label, own in results.items():
        others = [other for pair in told if label in pair for other in pair if other != label]
        above = sum(means[other] > means[label] for other in others)
        error = float(own.std(ddof=1)) / math.sqrt(len(own)) if len(own) > 1 else math.nan
        found.append(OnItems(label, sign * means[label], error, 1 + above, len(means) - len(others) + above))
    return sorted(found, key=lambda one: (-means[one.label], one.label))


def p_of_items(differences: Floats) -> float | None:
    """Return the two-sided p-value of no difference on new items; None if nothing can be said."""
    moved = differences[differences != 0]
    if not len(moved):
        return None
    if np.ptp(np.abs(moved)) == 0:
        from scipy.stats import binomtest

        return float(binomtest(int((moved > 0).sum()), len(moved)).pvalue)
    if len(moved) <= MOST_FLIPS:
        flips = sign_flip(moved.tolist(), draw_seed=0) if len(moved) >= FEWEST_FLIPS else None
        return None if flips is None else flips.p_value
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    of_items = Uncertainty(source="bootstrap", standard_error=error, freedom=len(differences) - 1)
    return Estimate(value=float(differences.mean()), uncertainties=(of_items,)).p_value()


def _named(tasks: Sequence[str]) -> str:
    more = [f"{len(tasks) - MOST_NAMED} more"] if len(tasks) > MOST_NAMED else []
    return listed([*tasks[:MOST_NAMED], *more])


def _answer(ranked: Sequence[OnItems]) -> str:
    """Return which runs may be the first."""
    first = [code(one.label) for one in ranked if one.best == 1]
    if len(first) == 1:
        return f"that of {first[0]} scores highest, above {plural(len(ranked) - 1, 'other')}"
    if len(first) == len(ranked):
        return f"any of the {len(ranked)} may score highest"
    return f"{_named(first)} may each score highest, of {len(ranked)}"
