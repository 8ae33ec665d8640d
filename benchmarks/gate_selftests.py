"""Self-tests of a gate on its accepted nights: its false alarms, and the losses it would have detected.

    python -m benchmarks.gate_selftests baselines/nightly --replay       how often nights would have alarmed before confirmation
    python -m benchmarks.gate_selftests baselines/nightly --inject 5%    how often such a loss would have been suspect

It exits with 4 where no accepted night has enough nights before it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_bench.errors import LoraBenchError
from lora_bench.gate.baseline import read_nights
from lora_bench.gate.judge import judge
from lora_bench.gate.night_answer import Answer, SeriesAnswer
from lora_bench.gate.past import declared, indexed, mean_of, past_of
from lora_bench.gate.series import CellName, Night
from lora_bench.report.text import plain, plural, score
from lora_bench.stats.gate import judge_night


@dataclass(frozen=True)
class Replay:
    """The gate's answers on every accepted night, compared with the nights before it.

    Args:
        answers: One for each night that has a series with enough history, oldest first; without second seeds.
        acknowledged: Series whose change was acknowledged with a night, by its label.
    """

    answers: tuple[Answer, ...]
    acknowledged: dict[str, frozenset[str]]

    def cried(self, answer: Answer) -> list[SeriesAnswer]:
        """Return the series with an alarm in a night, without those whose change was acknowledged."""
        known = self.acknowledged.get(answer.label, frozenset())
        alarms = ("regression", "failed")
        return [one for one in answer.series if (one.status in alarms or one.suspect) and one.series not in known]


def replay(nights: Sequence[Night], baseline: str, margin: float | None = None) -> Replay:
    """Compare every accepted night with those before it."""
    answers = []
    nights = with_margin(nights, margin)
    for index, night in enumerate(nights):
        answer = judge(night, nights[:index], baseline)
        if any(one.expected is not None for one in answer.series):
            answers.append(answer)
    return Replay(tuple(answers), {night.label: frozenset(night.acknowledged) for night in nights})


def with_margin(nights: Sequence[Night], margin: float | None) -> list[Night]:
    """Return nights that declare *margin* for scores, or as they are without one."""
    return [
        night.model_copy(update={"cells": tuple(declared(cell, margin) for cell in night.cells)}) for night in nights
    ]


def replay_lines(found: Replay) -> list[str]:
    """Describe a replay for a terminal."""
    if not found.answers:
        return ["cannot decide: no accepted night has enough nights before it"]
    cried = {answer.label: alarms for answer in found.answers if (alarms := found.cried(answer))}
    lines = [f"{label}: {plain('; '.join(_alarm(one) for one in alarms), 1000)}" for label, alarms in cried.items()]
    judged = sum(one.expected is not None for answer in found.answers for one in answer.series)
    share = len(cried) / len(found.answers)
    said = (
        f"{len(cried)} of {plural(len(found.answers), 'night')} with enough history would have cried ({share:.1%}), over "
        f"{judged:,} means held against their history; before suspects are run again with new seeds"
    )
    return [*lines, said]


def _alarm(one: SeriesAnswer) -> str:
    return f"{' · '.join(one.name.words)}: {one.findings[0].text}"


@dataclass(frozen=True)
class DropsSeen:
    """Detection rate of a loss injected into a series.

    Args:
        nights: Number of nights that it was injected into, one at a time.
        seen: Number of them in which the series is suspect in the same night.
        smallest: The loss that would be detected in half of them, in the unit of the tests.
        scale: Scale of the tests.
    """

    series: str
    name: CellName
    nights: int
    seen: int
    smallest: float
    scale: str


def inject(nights: Sequence[Night], loss: float, *, relative: bool, margin: float | None = None) -> list[DropsSeen]:
    """Inject a loss into every accepted night that has enough history, series by series.

    Args:
        nights: Accepted nights, oldest first.
        loss: Above 0: a share of the night's mean if *relative*, else in the unit of the metric.
        relative: Whether *loss* is a share of the mean.
        margin: Replaces the margins that the suite declares.

    Raises:
        LoraBenchError: If the loss is not above 0, or, of a time, not relative.
    """
    if not loss > 0:
        raise LoraBenchError(f"a loss to inject is above 0, such as 5%, got {loss:g}")
    tries: dict[str, list[tuple[bool, float]]] = {}
    cells = {}
    known = indexed(with_margin(nights, margin))
    for index, (_, of_night) in enumerate(known):
        means = {series: mean for series, cell in of_night.items() if (mean := mean_of(cell)) is not None}
        pasts = {series: past_of(series, of_night[series], known[:index]).history for series in means}
        for series, mean in means.items():
            cell = of_night[series]
            shifted = _shifted(mean, loss, relative, cell.scale, cell.higher_is_better)
            level = judge_night({**means, series: shifted}, pasts)[series].level
            if level is not None:
                tries.setdefault(series, []).append((level.direction == "worse", abs(level.worst - level.expected)))
                cells[series] = cell
    found = []
    for series, tried in tries.items():
        reaches = sorted(reach for _, reach in tried)
        found.append(
            DropsSeen(
                series=series,
                name=cells[series].name,
                nights=len(tried),
                seen=sum(seen for seen, _ in tried),
                smallest=reaches[len(reaches) // 2],
                scale=cells[series].scale,
            )
        )
    return sorted(found, key=lambda one: (one.seen / one.nights, one.name.words))


def _shifted(mean: float, loss: float, relative: bool, scale: str, higher_is_better: bool) -> float:
    sign = -1 if higher_is_better else 1
    if scale == "log":
        if not relative:
            raise LoraBenchError("a loss of a time is given as a share, such as 5%")
        return mean + sign * math.log1p(loss)
    return mean + sign * (abs(mean) * loss if relative else loss)


def inject_lines(found: Sequence[DropsSeen], said: str) -> list[str]:
    """Describe injected losses for a terminal, least detected first.

    Args:
        found: A result for each series.
        said: The loss as the user gave it.
    """
    if not found:
        return ["cannot decide: no accepted night has enough nights before it"]
    lines = [
        f"{one.seen} of {plural(one.nights, 'night')}: {plain(' · '.join(one.name.words))}; it takes "
        f"{score(one.smallest) if one.scale == 'linear' else f'{one.smallest:.1%}'} in half of them"
        for one in found
    ]
    seen, tried = sum(one.seen for one in found), sum(one.nights for one in found)
    return [
        *lines,
        f"a loss of {said} would have been suspect in the same night in {seen / tried:.1%} of {tried:,} tries",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the self-tests that are asked for; return 4 if one cannot decide."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("baseline", type=Path, help="folder of a baseline with nights")
    parser.add_argument("--replay", action="store_true", help="count the false alarms that the gate would have raised")
    parser.add_argument("--inject", metavar="LOSS", help="say whether the gate would see a loss, such as 5%% or 0.01")
    parser.add_argument("--margin", type=float, help="replaces the margins that the suite declares")
    options = parser.parse_args(arguments)
    accepted = read_nights(options.baseline)
    decided = True
    if options.replay:
        replayed = replay(accepted, options.baseline.name, options.margin)
        print(*replay_lines(replayed), sep="\n")
        decided = bool(replayed.answers)
    if options.inject is not None:
        relative = options.inject.endswith("%")
        try:
            loss = float(options.inject.removesuffix("%")) / (100 if relative else 1)
        except ValueError:
            parser.error(f"--inject takes a loss such as 5% or 0.01, got {options.inject!r}")
        seen = inject(accepted, loss, relative=relative, margin=options.margin)
        print(*inject_lines(seen, options.inject), sep="\n")
        decided = decided and bool(seen)
    return 0 if decided else 4


if __name__ == "__main__":
    sys.exit(main())
