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

from lora_bench.exchange.scores.collect import Floats, Run, TaskFacts
from lora_bench.report.blocks import Block, Heading, SectionAnswer, TextTable
from lora_bench.report.model.rows import grouped
from lora_bench.report.text import code, inert, listed, once_words, plural, score, span
from lora_bench.stats import Estimate, Uncertainty, holm, sign_flip
from lora_bench.stats.paired import FEWEST_FLIPS

# So many differences that are not zero have all their signs flipped; so many runs and tasks are named in an answer.
MOST_FLIPS, MOST_NAMED = 13, 4


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
        answer = (
            f"no difference is shown, as all {len(results)} have the same result on every item"
            if alike
            else _answer(ranked)
        )
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
    words = [f"{answer} on {first_named(tasks)}" if len(found) > 1 else answer for answer, tasks in said.items()]
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


def _ranked(results: Mapping[str, Floats], sign: int, told: Sequence[Sequence[str]]) -> list[OnItems]:
    means = {label: sign * float(own.mean()) for label, own in results.items()}
    found = []
    for label, own in results.items():
        others = [other for pair in told if label in pair for other in pair if other != label]
        above = sum(means[other] > means[label] for other in others)
        error = float(own.std(ddof=1)) / math.sqrt(len(own)) if len(own) > 1 else math.nan
        found.append(OnItems(label, sign * means[label], error, 1 + above, len(means) - len(others) + above))
    return sorted(found, key=lambda one: (-means[one.label], one.label))


def first_named(names: Sequence[str]) -> str:
    """Return the first of some names in words, and how many more there are."""
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return listed([*names[:MOST_NAMED], *more])


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


def _answer(ranked: Sequence[OnItems]) -> str:
    """Return which runs may be the first."""
    first = [code(one.label) for one in ranked if one.best == 1]
    if len(first) == 1:
        return f"that of {first[0]} scores highest, above {plural(len(ranked) - 1, 'other')}"
    if len(first) == len(ranked):
        return f"any of the {len(ranked)} may score highest"
    return f"{first_named(first)} may each score highest, of {len(ranked)}"
