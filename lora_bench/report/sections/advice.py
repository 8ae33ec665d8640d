"""A headline's answer: the method to take with what it may lose, and what verdicts show of the others.

Every number is a loss of `choose_method`, or a difference, a margin or a ratio of files of the report's verdicts.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from lora_bench.report.model.choose_method import LIKE_COST, POINTS, Taken, amount_words, loss_words
from lora_bench.report.model.overview import UNLESS, WITHIN, Contrast, Line, Overview, unless_words
from lora_bench.report.model.rows import grouped
from lora_bench.report.sections.method_tables import MOST_NAMES, metric_name
from lora_bench.report.text import amount, code, cost, listed, percent, plural, score, span
from lora_bench.stats.apart import fewest_unseen
from lora_bench.stats.expected_loss import SURE

_WORDS = {"equivalent": "as good", "non-inferior": "not worse", "inconclusive": "undecided"}


def take_words(seen: Overview, taken: Taken) -> str:
    """Return the method to take, with what it may lose, and where another loses less, why not that one."""
    said = f"Take {code(taken.label)}"
    if taken.loss is None or taken.least_loss is None:
        if any(choice.uneven for choice in seen.choices):
            return f"{said}: its mean over the seeds that all have is the best; one such seed does not tell what it may lose."
        several = any(len(row.scores) > 1 for choice in seen.choices for row in choice.rows)
        known = "all seeds gave the same differences between methods, which do" if several else "one seed does"
        return f"{said}: its mean is the best; {known} not tell what it may lose."
    counts = _kinds(seen)
    mean = f", in the mean of {listed(counts)}," if counts else ""
    loss, unit = taken.loss, taken.unit
    expected, most = amount_words(loss.expected, unit), amount_words(loss.at_most, unit, bound=True)
    off = "below" if all(choice.setting.spec.task.higher_is_better is not False for choice in seen.choices) else "above"
    if expected.startswith("under"):
        below = most if most.startswith("under") else f"at most {most}"
        said += f": most likely the best of {taken.of}{mean or ','} or {below} {taken.unit} {off} it"
    else:
        said += f": expected to score {expected} {taken.unit} {off} the best of {taken.of}{mean or ','}"
        bound = f"with {percent(SURE, 0)} no more" if most == expected else f"at most {most} with {percent(SURE, 0)}"
        said += f" {bound}{', unseen collapses aside' if seen.comparison.scores_alone else ''}"
    said += next((choice.by_usual for choice in seen.choices if choice.usual), "")
    if taken.least == taken.label:
        alike = taken.alike if seen.comparison.scores_alone and taken.cost is None else ()
        mean = "".join(
            f" {code(label)} has the best mean; it is expected to lose more if methods score alike, as they usually do."
            for label in _better_means(seen, taken.label)[:1]
            if label not in alike
        )
        if alike:
            named = [*map(code, alike)] if len(alike) <= MOST_NAMES else [plural(len(alike), "other")]
            mean += f" {listed(named)} {'is' if len(alike) == 1 else 'are'} expected to lose as much."
        return f"{said}.{mean}{_not_chosen(seen)}"
    margin = f" within the margin of {amount(taken.margin, taken.unit == POINTS)}" if taken.margin is not None else ""
    lost = f"The least loss is that of {code(taken.least)}: {loss_words(taken.least_loss, taken.unit)}"
    if seen.comparison.scores_alone:
        mine, theirs = (f"{cost(of)} {code(seen.cost_name)}" for of in (taken.cost, taken.least_cost))
        return f"{said}, the best for about the least cost{margin}: {mine}. {lost}, for {theirs}.{_not_chosen(seen)}"
    own, least = (next(line for line in seen.methods if line.label == label) for label in (taken.label, taken.least))
    ratios = [theirs / mine for mine, theirs in zip(own.file_ratios, least.file_ratios, strict=False)]
    larger = span(ratios, lambda ratio: f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}")
    file = f", with a file {larger} times as large" if min(ratios, default=0.0) > 1 + LIKE_COST else ""
    smallest = f", the smallest file{margin}" if margin else ""
    return f"{said}{smallest}. {lost}{file}."


def _better_means(seen: Overview, taken: str) -> list[str]:
    """Return the methods with a better mean over all tables than the one to take, the best first."""
    gains: dict[str, list[float]] = {}
    for choice in seen.choices:
        for row in choice.rows:
            if row.score is not None and not row.failures:
                gains.setdefault(row.label, []).append(choice.setting.sign * row.score.mean)
    means = {label: math.fsum(of) for label, of in gains.items() if len(of) == len(seen.choices)}
    return sorted(
        (label for label in means if means[label] > means.get(taken, math.inf)), key=lambda label: -means[label]
    )


def _not_chosen(seen: Overview) -> str:
    """Return a sentence on methods of a stranger's table that a choice leaves out, for lack of a score or for failed runs."""
    if not seen.comparison.scores_alone:
        return ""
    said = []
    rows = grouped((row for choice in seen.choices for row in choice.rows), lambda row: row.label)
    whole = [of for of in rows.values() if len(of) == len(seen.choices)]
    some_failed = not all(any(row.failures for row in of) for of in whole)
    for label, of in sorted(rows.items()):
        lacks = [choice for choice in seen.choices if label not in [row.label for row in choice.rows]]
        on = code(lacks[0].setting.spec.task.name) if len(lacks) == 1 else f"{len(lacks)} of {len(seen.choices)} tables"
        failed = sum(len(row.failures) for row in of)
        if lacks:
            said.append(f"{code(label)} (no score on {on})")
        elif failed and some_failed:
            said.append(f"{code(label)} ({plural(failed, 'run')} without a score)")
    return f" Left out of the choice: {listed(said)}." if said else ""


def _kinds(seen: Overview) -> list[str]:
    """Return in what the tables of an answer differ, with the numbers of each."""
    settings = [choice.setting for choice in seen.choices]
    kinds: dict[str, set[object]] = {
        "task": {setting.spec.task.name for setting in settings},
        "base model": {choice.table.model.shown for choice in seen.choices},
        "row count": {setting.distinct_examples for setting in settings},
        "parameter target": {setting.parameter_target for setting in settings},
    }
    return [plural(len(values), kind) for kind, values in kinds.items() if len(values) > 1]


def by_place(seen: Overview) -> list[str]:
    """Return what `choose` names for each table, where that is not one method."""
    names = []
    for choice in seen.choices:
        alike = choice.alike if seen.comparison.scores_alone else [choice.method]
        names.append(f"any of {listed([*map(code, alike)])}" if len(alike) > 1 else code(choice.method))
    counts = Counter(names)
    if len(counts) < 2:
        return []
    tasks = [choice.setting.spec.task.name for choice in seen.choices]
    if len({*tasks}) == len(tasks) <= MOST_NAMES:
        of_names = grouped(zip(names, tasks, strict=True), lambda one: one[0])
        named = "; ".join(f"{label} on {listed([code(task) for _, task in of])}" for label, of in of_names.items())
    else:
        named = listed([f"{label} in {number} of {counts.total()}" for label, number in counts.most_common()])
    chosen = "the choice is" if seen.comparison.scores_alone else "`lora-bench choose` names"
    return [f"Table by table {chosen} {named}."]


def compared(seen: Overview) -> list[str]:
    """Return the verdicts on all methods but the reference, and what their comparisons are."""
    lines = [line for line in seen.methods if line.contrasts]
    on = [f"{code(line.label)} is {_shown(line, first=line is lines[0])}" for line in lines]
    of = comparisons_of(seen.methods)
    return [f"Compared with {code(seen.reference)}{f' ({of})' if of else ''}, {'; '.join(on)}.", *_no_equality(seen)]


def comparisons_of(lines: Iterable[Line]) -> str:
    """Return the comparisons of each method, such as "3 base models × 2 parameter targets"; "" if one, or if methods differ."""
    found = {_factors(line.contrasts) for line in lines if line.contrasts}
    return next(iter(found)) if len(found) == 1 else ""


def _factors(contrasts: Sequence[Contrast]) -> str:
    kinds: dict[str, set[object]] = {
        "task": {contrast.setting.spec.task.name for contrast in contrasts if contrast.tasks == 1},
        "base model": {(contrast.table.model.shown, contrast.table.weights) for contrast in contrasts},
        "parameter target": {contrast.setting.parameter_target for contrast in contrasts},
    }
    several = [plural(len(values), noun) for noun, values in kinds.items() if len(values) > 1]
    number = math.prod(max(1, len(values)) for values in kinds.values())
    return " × ".join(several) if number == len(contrasts) else ""


def _no_equality(seen: Overview) -> list[str]:
    """A note that so few seeds cannot show equality, where some verdicts are undecided and more seeds may decide them."""
    undecided = [one for one in seen.contrasts if one.shown == "inconclusive"]
    open_ones = [one for one in undecided if one.verdict.margin is not None and one.verdict.needed is not None]
    if not open_ones:
        return []
    most = max(one.verdict.pairs for one in open_ones)
    claims = sum(one.verdict.margin is not None for one in seen.contrasts)
    fewest = fewest_unseen(open_ones[0].verdict.alpha / claims)
    labels = [*dict.fromkeys(code(one.label) for one in open_ones)]
    # Of the others no margin is claimed: their seeds have no spread on some task.
    named = f"{listed(labels)} {'is' if len(labels) == 1 else 'are'} not"
    alike = [*dict.fromkeys(code(one.label) for one in undecided if one.verdict.margin is None)]
    never = f"; {listed(alike)} cannot be while all seeds agree on a task" if alike else ""
    return (
        [f"Below {fewest} seeds {named if alike else 'no method is'} shown to be equivalent{never}."]
        if most < fewest
        else []
    )


def _shown(line: Line, *, first: bool) -> str:
    """Return the verdicts on a method with the sizes of shown differences, such as "worse in all 6, by 4.6 to 16.6 points"."""
    said: list[str] = []
    for word, found in line.by_verdict.items():
        by = f", by {sizes(found)}{_shown_on(line.contrasts)}" if word in ("better", "worse") else ""
        name, *unless = word.split(f" {UNLESS}")
        if name in WITHIN:
            by = _margin(found) + (f" {unless_words(one.verdict for one in found)}" if unless else "")
        counted = times(len(found), len(line.contrasts))
        # The first number has its noun.
        noun = " comparisons" if first and counted and not said else ""
        alone = "" if word in ("better", "worse") else shown_alone(line.contrasts)
        mean = " in the mean" if alone else ""
        said.append(f"{_WORDS.get(name, name)}{mean}{counted}{noun}{by}{alone}")
    return listed(said)


def _shown_on(contrasts: Sequence[Contrast]) -> str:
    """Words on the tasks that show by themselves what is shown of their mean, or the opposite: it may rest on one of them."""
    only = contrasts[0]
    if len(contrasts) > 1 or only.tasks == 1:
        return ""
    word = only.verdict.verdict
    same = _tasks_that_show(only, word)
    opposite = "worse" if word == "better" else "better"
    others = _tasks_that_show(only, opposite)
    if len(same) == only.tasks:
        return " in the mean and shown on each task"
    where = {0: "no single task", 1: f"{''.join(same)} alone"}.get(len(same), f"{len(same)} of {only.tasks} tasks")
    against = f", but {opposite} on {listed(others)}" if others else ""
    return f" in the mean, shown on {where}{against}"


def shown_alone(contrasts: Sequence[Contrast]) -> str:
    """Return words on the tasks that show a difference by themselves where their mean shows none."""
    only = contrasts[0]
    if len(contrasts) > 1 or only.tasks == 1:
        return ""
    found = [(word, _tasks_that_show(only, word)) for word in ("better", "worse")]
    said = [f"{word} on {listed(tasks)}" for word, tasks in found if tasks]
    return f", {listed(said)}" if said else ""


def _tasks_that_show(contrast: Contrast, word: str) -> list[str]:
    return [code(task) for task, verdict in contrast.by_task.items() if verdict == word]


def _margin(contrasts: Sequence[Contrast]) -> str:
    margins = dict.fromkeys(contrast.verdict.margin for contrast in contrasts if contrast.verdict.margin is not None)
    return f" within {listed([amount(margin, contrasts[0].shares) for margin in margins])}" if margins else ""


def times(number: int, of: int) -> str:
    """Return the number of comparisons in words: "", " in both", " in all 6", " in 2 of 6"."""
    if of == 1:
        return ""
    if number < of:
        return f" in {number} of {of}"
    return " in both" if number == 2 else f" in all {number}"


def sizes(contrasts: Sequence[Contrast]) -> str:
    """Return the least sizes of claimed differences, such as "at least 2.0 to 4.6 points" or "at least 0.10 bleu"."""
    shares = all(contrast.shares for contrast in contrasts)
    form = _points if shares else score
    least = [one.verdict.at_least for one in contrasts]
    some = float(form(max(least)).replace(",", "")) > 0
    found = f"{'at least' if some else 'more than'} {span(least, form)}"
    metrics = {metric_name(contrast.setting) for contrast in contrasts}
    unit = "points" if shares else next(iter(metrics)) if len(metrics) == 1 else ""
    return f"{found} {unit}".rstrip()


def _points(share: float) -> str:
    """Return a least share in points of 100, rounded down, with another digit below a tenth of a point."""
    points, digits = 100 * share + 1e-9, 1 if share >= 0.001 else 2
    least = math.floor(points * 10**digits) / 10**digits
    return f"{least:.{digits}f}" if least > 0 else "0"
