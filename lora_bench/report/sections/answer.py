"""The verdicts of a report in three paragraphs: the comparison, its outcome, and how far it carries.

The sentences count verdicts and name their methods; they say nothing that a row of a table below does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lora_bench.metrics import default_margin
from lora_bench.report import text
from lora_bench.report.model.judged import Held, Judged
from lora_bench.report.model.overview import UNLESS, shown_verdict
from lora_bench.report.sections.advice import UNLESS_COLLAPSE
from lora_bench.report.sections.verdicts import DECIDED, without_result
from lora_bench.report.text import code, listed, plural
from lora_bench.stats.looks import LAST
from lora_bench.stats.verdict import FEWEST_PAIRS, Grade

# Verdicts that are counted by name.
_SAID = (*DECIDED, *UNLESS_COLLAPSE)

_GRADES: dict[Grade, str] = {
    "recommendation": "carry a recommendation for these tasks and base models",
    "indicative": "are indicative: repeat them with ten seeds",
    "exploratory": "are exploratory: a hint; confirm with more seeds before choosing",
}


def answer(judged: Judged) -> list[str]:
    """The three paragraphs, as pieces of Markdown."""
    return [_what_was_judged(judged), _how_it_came_out(judged), _how_far_it_carries(judged)]


def _what_was_judged(judged: Judged) -> str:
    labels: dict[str, str] = {}
    for held in judged.held:
        free = held.row.exempt and held.setting.parameter_target is not None
        labels[held.row.label] = code(held.row.label) + (" (exempt from the parameter budget)" if free else "")
    tasks = {held.setting.spec.task.name for held in judged.held}
    models = {(held.table.model.shown, held.table.weights) for held in judged.held}
    targets = {held.setting.parameter_target for held in judged.held}
    exempt = any(held.reference.exempt and held.setting.parameter_target is not None for held in judged.held)
    reference = code(judged.analysis.reference) + (" (exempt from the parameter budget)" if exempt else "")
    where = f"on {plural(len(tasks), 'task')} and {plural(len(models), 'base model')}"
    if len(targets) > 1:
        where += f" at {len(targets)} parameter targets"
    number = len(judged.held)
    level = f"an error level of {judged.analysis.alpha:g}"
    family = (
        f"{number} comparisons with {level} over all of them (Holm)" if number > 1 else f"one comparison with {level}"
    )
    declared = {
        "before": "by rules declared before the runs",
        "added": "by rules declared before the runs, with seeds added after verdicts had been seen",
        "changed": "by rules that were changed after some of the runs",
        "never": "by default rules",
    }
    return (
        f"{listed([*labels.values()])} {'was' if len(labels) == 1 else 'were'} compared with {reference} {where}, paired by "
        f"seed: {family} and {margin_words(judged.held)}, {declared[judged.declared]}.{_looks(judged)}"
    )


def _looks(judged: Judged) -> str:
    """How seeds were added; empty where their number was fixed."""
    rule = judged.analysis.seeds
    if rule is None or len(rule.looks) == 1:
        return ""
    each = (1 - LAST) / (len(rule.looks) - 1)
    limit = f" No seeds were added for which {rule.minutes:g} minutes were too few." if rule.minutes is not None else ""
    return (
        f" Seeds were added until a comparison was decided, after looks at {listed([str(look) for look in rule.looks])} seeds: "
        f"the last look has {LAST:.0%} of the error level, each other {each:.1%} of it.{limit}"
    )


def margin_words(held: Sequence[Held]) -> str:
    """The margins of some comparisons, with their unit."""
    margins = dict.fromkeys(one.verdict.margin for one in held)
    known = sorted(margin for margin in margins if margin is not None)
    if not known:
        return "no margin"
    judged = [one.setting.spec.task.metric for one in held if one.verdict.margin is not None]
    shares = all(default_margin(metric) is not None for metric in judged)
    values = listed([f"{margin:g}" for margin in known])
    points = [f"{100 * margin:g}" for margin in known]
    of_100 = f"{listed(points)} {'point' if points == ['1'] else 'points'} of 100"
    unit = of_100 if shares else "in the unit of the score"
    some = "" if None not in margins else ", and none where no margin was declared"
    return f"{'a margin' if len(known) == 1 else 'margins'} of {values} ({unit}{some})"


def _how_it_came_out(judged: Judged) -> str:
    further = [*_shared_runs(judged), *_over_tasks(judged), *without_result(judged)]
    return "; ".join([_decided(judged), *further]) + "."


def _decided(judged: Judged) -> str:
    if not any(shown_verdict(held.verdict) in _SAID for held in judged.held):
        several = len(judged.held) > 1
        not_one = "Not one of them is decided" if several else "It is not decided"
        most = max(held.difference.pairs for held in judged.held)
        if most < FEWEST_PAIRS:
            return (
                f"{not_one}: {plural(most, 'seed')} of each method {'is' if most == 1 else 'are'} too few for a verdict"
            )
        shown = "together they show neither a difference" if several else "neither a difference is shown,"
        return f"{not_one}: {shown} nor that it is smaller than the margin"
    by_label: dict[str, list[Held]] = {}
    for held in judged.held:
        by_label.setdefault(held.row.label, []).append(held)
    said = [f"{code(label)} is {_counts(found)}" for label, found in by_label.items()]
    return f"Against {code(judged.analysis.reference)}, {'; '.join(said)}"


def _counts(held: Sequence[Held]) -> str:
    """The counts of a method's verdicts, and the sizes of the shown differences."""
    words = []

    def times(number: int) -> str:
        if len(held) == 1:
            return ""
        if number < len(held):
            return f" in {number} of {len(held)}"
        return " in both" if number == 2 else f" in all {number}"

    for word in _SAID:
        found = [one.verdict for one in held if shown_verdict(one.verdict) == word]
        sizes = sorted(abs(verdict.difference) for verdict in found)
        by = f" (by {' to '.join(dict.fromkeys(text.score(size) for size in (sizes[0], sizes[-1])))})" if sizes else ""
        if found:
            words.append(f"{word}{times(len(found))}{by if word in ('better', 'worse') else ''}")
    open_ones = sum(shown_verdict(one.verdict) == "inconclusive" for one in held)
    return listed([*words, *([f"undecided{times(open_ones)}"] if open_ones else [])])


def _shared_runs(judged: Judged) -> list[str]:
    """A note that a method exempt from several targets has one set of runs for all of them."""
    compared: dict[str, int] = Counter(held.row.label for held in judged.held if held.row.exempt)
    said = []
    for label, number in compared.items():
        sets = len({held.row.run_ids for held in judged.held if held.row.label == label})
        if sets < number:
            reference = code(judged.analysis.reference)
            said.append(
                f"{code(label)} has {plural(sets, 'set')} of runs, compared with {reference} at each of its sizes"
            )
    return said


def _over_tasks(judged: Judged) -> list[str]:
    """The findings of the means over tasks, if there are any."""
    by_label: dict[str, Counter[str]] = {}
    for group in judged.over_tasks:
        for one in group.methods:
            if one.verdict is not None:
                by_label.setdefault(one.label, Counter())[one.verdict.verdict] += 1
    if not by_label:
        return []
    number = sum(counts.total() for counts in by_label.values())
    said = [
        f"{code(label)} is {listed([f'{word} in {counts[word]}' for word in DECIDED if counts[word]])} of {counts.total()}"
        if counts.total() > 1
        else f"{code(label)} is {next(iter(counts))}"
        for label, counts in by_label.items()
        if any(counts[word] for word in DECIDED)
    ]
    if said:
        return [f"in means over tasks, {listed(said)}"]
    return [f"of {plural(number, 'difference')} of means over tasks none is decided"]


def _how_far_it_carries(judged: Judged) -> str:
    return f"{_grades(judged.held)}; {_scope(judged.held)}{_needed(judged.held)}."


def _grades(held: Sequence[Held]) -> str:
    """The number of seeds behind the verdicts, and what it is good for; comparisons may differ in it."""
    grades = {grade: [one for one in held if one.verdict.grade == grade] for grade in _GRADES}
    found = {grade: of for grade, of in grades.items() if of}
    if len(found) == 1:
        (grade,) = found
        if grade != "recommendation":
            return f"With {_seeds(held)} a method these verdicts {_GRADES[grade]}"
        decided = any(one.verdict.verdict in DECIDED for one in held)
        unless = any(shown_verdict(one.verdict) in UNLESS_COLLAPSE for one in held)
        but = f"those that hold {UNLESS} are indicative"
        if decided:
            return f"With {_seeds(held)} a method these verdicts {_GRADES[grade]}{f'; {but}' if unless else ''}"
        if unless:
            return f"Of verdicts of {_seeds(held)} a method {but}"
        return (
            f"{_seeds(held)[0].upper()}{_seeds(held)[1:]} a method would carry a recommendation, but nothing is decided"
        )
    said = [
        f"{len(of)} ({sum(one.verdict.verdict in DECIDED for one in of)} decided) rest on {_seeds(of)} a method and "
        f"{_GRADES[grade]}"
        for grade, of in found.items()
    ]
    return f"Of these verdicts {'; '.join(said)}"


def _seeds(held: Sequence[Held]) -> str:
    pairs = sorted({one.difference.pairs for one in held})
    return plural(pairs[0], "seed") if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]} seeds"


def _scope(held: Sequence[Held]) -> str:
    """The scope of the intervals: what they cover and what they do not."""
    with_items = sum(one.difference.crossed is not None for one in held)
    if with_items == len(held):
        new = "new seeds and new test items"
    elif with_items:
        new = f"new seeds, and in {with_items} of {len(held)} comparisons new test items"
    else:
        new = "new seeds on these test items"
    return f"the intervals cover {new}, not new data sets, base models or learning rates"


def _needed(held: Sequence[Held]) -> str:
    """With how many seeds the undecided would be decided, as far as that can be estimated."""
    open_ones = [one for one in held if one.verdict.verdict == "inconclusive"]
    needed = sorted(one.verdict.needed.seeds for one in open_ones if one.verdict.needed is not None)
    if not needed:
        return ""
    if len(open_ones) == 1:
        return f"; {needed[0]} seeds would likely decide the open one, if the difference seen is the true one"
    if len(needed) == 1:
        return (
            f"; of the {len(open_ones)} undecided, one has an estimate of the seeds that would decide: {needed[0]}, if the "
            "difference seen is the true one"
        )
    most = [*dict.fromkeys(needed)]
    shown = listed([str(one) for one in most]) if len(most) <= 6 else f"{most[0]} to {most[-1]}"
    have = "all" if len(needed) == len(open_ones) else f"{len(needed)}"
    return (
        f"; of the {len(open_ones)} undecided, {have} have an estimate of the seeds that would decide: {shown}, "
        "if the differences seen are the true ones"
    )
