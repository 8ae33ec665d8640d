"""A headline's advice: the method that `choose_method` names, how it compares with the reference, and the others.

Every number is a difference, a margin or a ratio of files of the report's verdicts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from lora_bench.report import text
from lora_bench.report.model.choose_method import LIKE_COST
from lora_bench.report.model.decision import Decision
from lora_bench.report.model.overview import DECIDED, NOT_WORSE, UNLESS, WITHIN, Contrast, Line, Overview, unless_words
from lora_bench.report.sections.method_tables import metric_name
from lora_bench.report.text import code, listed, plural
from lora_bench.stats.apart import fewest_unseen
from lora_bench.stats.verdict import Grade

# Follows the first number of comparisons.
COMPARISONS = " comparisons"


def _cheaper(seen: Overview, pick: Line) -> Line | None:
    """The method with the smallest files that is shown not to be worse than the reference, if they are smaller than the pick's.

    The reference is one itself. Of several whose files are about equally large it is the reference, else the one with the
    largest mean difference.
    """
    fit = [
        line for line in seen.methods if line.file_ratio is not None and (line.reference or line.all_shown(NOT_WORSE))
    ]
    smallest = min((_larger(line, pick) for line in fit), default=1.0)
    if smallest >= 1 - LIKE_COST:
        return None
    like = [line for line in fit if _larger(line, pick) <= smallest * (1 + LIKE_COST)]
    return max(like, key=lambda line: (line.reference, line.difference or 0.0))


_TAKE: dict[Grade, str] = {
    "recommendation": "Take {}", "indicative": "Lean towards {}", "exploratory": "Try {} first",
}  # fmt: skip


def advice(seen: Overview, pick: Line, grade: Grade) -> tuple[str, list[str]]:
    """Return the recommendation, and sentences on the other methods."""
    reference = code(seen.reference)
    others = [line for line in seen.methods if line is not pick and line.contrasts]
    if not pick.reference:
        take = _TAKE[grade].format(code(pick.label))
        if pick.all_shown(("better",)):
            number = times(len(pick.contrasts), len(pick.contrasts))
            noun = COMPARISONS if number else ""
            by = f"{sizes(pick.contrasts)}{_shown_on(pick.contrasts)}"
            lead = f"{take}: it beats {reference}{number}{noun} by {by}{_file(pick)}"
        else:
            # Without a smaller file, the mean is what speaks for it.
            best = not _file(pick) and all(choice.best.label == pick.label for choice in seen.choices)
            first = "its mean is the best, and " if best else ""
            lead = f"{take}: {first}compared with {reference} it is {_shown(pick, COMPARISONS)}{_file(pick)}"
    else:
        lead = _TAKE[grade].format(code(pick.label)) + _beside(seen, pick, others)
    cheaper = _cheaper(seen, pick)
    said = [f"Where that file is too large: {code(cheaper.label)}."] if cheaper is not None else []
    said += _compared(seen, others, "" if pick.contrasts else COMPARISONS)
    return f"{lead}.", [*said, *_no_equality(seen)]


def _compared(seen: Overview, lines: Sequence[Line], noun: str) -> list[str]:
    """Return the findings on some methods, and what their comparisons are; *noun* stands where they are first counted."""
    on = [f"{code(line.label)} is {_shown(line, noun if line is lines[0] else '')}" for line in lines]
    of = comparisons_of(seen.methods)
    if not on:
        return [f"Comparisons: {of}."] if of else []
    return [f"Compared with {code(seen.reference)}{f' ({of})' if of else ''}, {'; '.join(on)}."]


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


def _beside(seen: Overview, pick: Line, others: Sequence[Line]) -> str:
    """Words on the other methods' scores, to follow the name of the reference."""
    contrasts = [contrast for line in others for contrast in line.contrasts]
    if contrasts and all(contrast.shown == "worse" for contrast in contrasts):
        who = f"{len(others)} other methods score" if len(others) > 1 else "other method scores"
        return f": the {who} {sizes(contrasts)} worse"
    if not any(line.all_shown(NOT_WORSE) for line in others):
        smaller = all(_larger(pick, line) > 1 + LIKE_COST for line in others)
        return f": no {'method with a smaller file' if smaller else 'other method'} is shown to be as good"
    better = [line for line in others if line.all_shown(("better",))]
    if better:
        return (
            f": {listed([f'{code(line.label)} scores {sizes(line.contrasts)} better{_file(line)}' for line in better])}"
        )
    return ": no method shown to be as good has a smaller file"


def any_of(seen: Overview, decision: Decision) -> tuple[str, list[str]]:
    """Return the recommendation where any of several methods will do, and sentences on the other methods."""
    lines, worse = decision.advised, decision.ruled_out
    others = [line for line in lines if line.contrasts]
    rest = [line for line in seen.methods if line not in lines and line.contrasts]
    contrasts = [contrast for line in others for contrast in line.contrasts]
    number = times(len(contrasts), len(contrasts)) if len(contrasts) > len(others) else ""
    unless = _unless([contrast for contrast in contrasts if contrast.shown != "equivalent"])
    reference = code(seen.reference)
    as_good = (
        f"as good as {reference}{f'{number}{COMPARISONS}' if number else ''}{_margin(contrasts)}{unless}, "
        "with files of about the same size."
    )
    if worse:
        losses = [contrast for line in worse for contrast in line.contrasts]
        lead = (
            f"{listed([code(line.label) for line in worse])} {'are' if len(worse) > 1 else 'is'} worse than {reference}, "
            f"by {sizes(losses)}: the {len(others)} others are {as_good}"
        )
    else:
        first = (
            _TAKE[decision.grade].format(any_of_names([line.label for line in lines]))
            if rest
            else "The choice matters little here"
        )
        who = listed([code(line.label) for line in others])
        lead = f"{first}: {who} {'are' if len(others) > 1 else 'is'} {as_good}"
    best = {choice.best.label for choice in seen.choices}
    said = [f"{code(best.pop())} has the best mean."] if len(best) == 1 else []
    return lead, [*said, *(_compared(seen, rest, COMPARISONS) if rest and not worse else []), *_no_equality(seen)]


def any_of_names(labels: Sequence[str]) -> str:
    """Return one method's name, or "either of" two, or "any of" more."""
    several = {1: "", 2: "either of "}.get(len(labels), "any of ")
    return f"{several}{listed([code(label) for label in labels])}"


def unpicked(seen: Overview) -> tuple[str, list[str]]:
    """Return the findings where no one method is chosen everywhere."""
    counts = Counter(choice.method for choice in seen.choices)
    named = listed([f"{code(label)} in {number} of {counts.total()}" for label, number in counts.most_common()])
    settings = [choice.setting for choice in seen.choices]
    kinds: dict[str, set[object]] = {
        "task": {setting.spec.task.name for setting in settings},
        "base model": {choice.table.model.shown for choice in seen.choices},
        "number of rows": {setting.distinct_examples for setting in settings},
        "parameter target": {setting.target for setting in settings},
    }
    by = listed([kind for kind, values in kinds.items() if len(values) > 1])
    shown = all(contrast.shown in DECIDED for contrast in seen.contrasts)
    choose = f"{f'by {by} ' if by else ''}`lora-bench choose` names {named}."
    others = [line for line in seen.methods if line.contrasts]
    worse = [line for line in others if line.all_shown(("worse",))]
    if shown or not worse:
        lead = "No one method fits all" if shown else "No one winner is shown"
        return f"{lead}: {choose}", [*_compared(seen, others, COMPARISONS), *_no_equality(seen)]
    losses = _compared(seen, worse, COMPARISONS)[0]
    rest = [line for line in others if line not in worse]
    return (
        f"No one winner is shown, but {losses[0].lower()}{losses[1:]}",
        [f"{choose[0].upper()}{choose[1:]}", *_compared(seen, rest, ""), *_no_equality(seen)],
    )


def no_winner(seen: Overview, decision: Decision) -> tuple[str, list[str]]:
    """Return the findings where other methods may be better than the reference at its cost."""
    rivals = [line.label for line in decision.rivals]
    worse = [line for line in seen.methods if line.all_shown(("worse",))]
    rest = [line for line in seen.methods if line.contrasts and line not in worse]
    are = f"; {listed([code(line.label) for line in worse])} {'are' if len(worse) > 1 else 'is'} worse" if worse else ""
    lead = f"No winner among {listed([code(label) for label in (seen.reference, *rivals)])}{are}."
    losses = _compared(seen, [*rest, *worse], COMPARISONS)
    return lead, [f"`lora-bench choose` names {code(seen.reference)}.", *losses, *_no_equality(seen)]


def open_pick(seen: Overview, pick: Line) -> tuple[str, list[str]]:
    """Return the findings where no verdict speaks for the chosen method."""
    highest = all(choice.best.label == pick.label for choice in seen.choices)
    what = "has the best mean" if highest else "has the smallest files of those as good as the best mean"
    others = [line for line in seen.methods if line is not pick and line.contrasts]
    reference = code(seen.reference)
    if not pick.all_shown(NOT_WORSE):
        lead = f"{code(pick.label)} {what}, but compared with {reference} it is {_shown(pick, COMPARISONS)}."
        return lead, _compared(seen, others, "")
    by = f", {_seen(pick.contrasts[0])} better than that of {reference}" if len(pick.contrasts) == 1 else ""
    lead = (
        f"{code(pick.label)} {what}{by}, with a file {_span(pick.file_ratios)} times as large; "
        f"that it is better than {reference} is not shown."
    )
    said = _compared(seen, [pick, *others], COMPARISONS)
    if all(contrast.verdict.needed is None for contrast in pick.contrasts):
        trials = " or trials of learning rates" if any(one.verdict.choice_sd for one in pick.contrasts) else ""
        also = f"more test items{trials} may"
        said = [f"No number of seeds up to 1,000 decides that with a probability of 80 %; {also}.", *said]
    return lead, said


def _no_equality(seen: Overview) -> list[str]:
    """A note that so few seeds cannot show equality, where some verdicts are undecided and more seeds may decide them."""
    open_ones = [
        one.verdict
        for one in seen.contrasts
        if one.shown == "inconclusive" and one.verdict.margin is not None and one.verdict.needed is not None
    ]
    if not open_ones:
        return []
    most = max(verdict.pairs for verdict in open_ones)
    fewest = min(fewest_unseen(verdict.alpha / verdict.family) for verdict in open_ones)
    return [f"To show that methods are equal takes at least {fewest} seeds."] if most < fewest else []


def _shown(line: Line, noun: str = "") -> str:
    """Return the verdicts on a method with the sizes of shown differences, such as "worse in all 6, by 4.6 to 16.6 points"."""
    said: list[str] = []
    for word, found in line.by_verdict.items():
        by = f", by {sizes(found)}{_shown_on(line.contrasts)}" if word in ("better", "worse") else ""
        name, *unless = word.split(f" {UNLESS}")
        by = _margin(found) + (_unless(found) if unless else "") if name in WITHIN else by
        counted = times(len(found), len(line.contrasts))
        said.append(f"{_WORDS.get(name, name)}{counted}{noun if counted and not said else ''}{by}")
    return listed(said)


def _unless(contrasts: Sequence[Contrast]) -> str:
    return f" {unless_words(one.verdict for one in contrasts)}" if contrasts else ""


def _shown_on(contrasts: Sequence[Contrast]) -> str:
    """Words on the tasks that show by themselves what is shown of their mean, or the opposite: it may rest on one of them."""
    only = contrasts[0]
    if len(contrasts) > 1 or only.tasks == 1:
        return ""
    word = only.verdict.verdict
    same = [code(task) for task, verdict in only.by_task.items() if verdict == word]
    opposite = "worse" if word == "better" else "better"
    others = [code(task) for task, verdict in only.by_task.items() if verdict == opposite]
    if len(same) == only.tasks:
        return " in the mean and shown on each task"
    where = {0: "no single task", 1: f"{''.join(same)} alone"}.get(len(same), f"{len(same)} of {only.tasks} tasks")
    against = f", but {opposite} on {listed(others)}" if others else ""
    return f" in the mean, shown on {where}{against}"


_WORDS = {"equivalent": "as good", "non-inferior": "not worse", "inconclusive": "undecided"}


def _margin(contrasts: Sequence[Contrast]) -> str:
    margins = dict.fromkeys(contrast.verdict.margin for contrast in contrasts if contrast.verdict.margin is not None)
    return f" within {listed([text.amount(margin, contrasts[0].shares) for margin in margins])}" if margins else ""


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
    form = _points if shares else text.score
    least = [one.verdict.at_least for one in contrasts]
    some = float(form(max(least)).replace(",", "")) > 0
    found = f"{'at least' if some else 'more than'} {text.span(least, form)}"
    metrics = {metric_name(contrast.setting) for contrast in contrasts}
    unit = "points" if shares else next(iter(metrics)) if len(metrics) == 1 else ""
    return f"{found} {unit}".rstrip()


def _points(share: float) -> str:
    """Return a share in points of 100, with another digit below a tenth of a point."""
    points = 100 * share
    return f"{points:.1f}" if points >= 0.095 else f"{points:.2f}" if points >= 0.005 else "0"


def _seen(contrast: Contrast) -> str:
    size = abs(contrast.verdict.difference)
    return f"{100 * size:.1f} points" if contrast.shares else f"{text.score(size)} {metric_name(contrast.setting)}"


def _larger(line: Line, other: Line) -> float:
    """Return the ratio of a method's file size to another's."""
    return (line.file_ratio or 1.0) / (other.file_ratio or 1.0)


def _file(line: Line) -> str:
    """Words on a method's file size against the reference's, over base models and targets; "" if it is about the same."""
    if line.file_ratio is None or line.like_file:
        return ""
    if line.file_ratio < 1:
        return f", with a file {_span([1 / ratio for ratio in line.file_ratios])} times smaller"
    return f", but its file is {_span(line.file_ratios)} times as large"


def _span(ratios: Sequence[float]) -> str:
    return text.span(ratios, lambda ratio: f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}")
