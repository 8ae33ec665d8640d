"""The headline of a report: a recommendation as strong as the verdicts allow, and the command that goes on from it.

Each sentence restates verdicts of the report. What makes a ranking doubtful stands before it: rates that were not tuned, runs
that were still improving, runs that learned nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lora_bench.records.record import Record
from lora_bench.report import text
from lora_bench.report.model.choose_method import GRADES
from lora_bench.report.model.judged import Judged
from lora_bench.report.model.overview import LIKE_COST, UNLESS, Contrast, Line, Overview
from lora_bench.report.sections.improving import improving_runs
from lora_bench.report.sections.next_step import learned_little, more_seeds, next_lines, work_key
from lora_bench.report.sections.not_judged import why_not_judged
from lora_bench.report.sections.tuning import edges_tried, tried_searches, untuned_tasks
from lora_bench.report.sections.verdicts import DECIDED, counted
from lora_bench.report.text import code, inert, listed, plural
from lora_bench.stats.apart import fewest_unseen, least_p
from lora_bench.stats.power import ALPHA
from lora_bench.stats.verdict import FEWEST_PAIRS, Grade
from lora_bench.stats.verdict import grade as grade_of

# The share of runs from which on a fact about them stands before any ranking.
MANY = 0.1

# Verdicts that a pick may have, and those that hold unless runs collapse.
WITHIN = ("equivalent", "non-inferior")
UNLESS_COLLAPSE = tuple(f"{word} {UNLESS}" for word in WITHIN)
NOT_WORSE = ("better", *WITHIN, *UNLESS_COLLAPSE)


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The first words of a report, as pieces of Markdown.

    Args:
        cautions: What a reader must know before any ranking, a paragraph each.
        lead: The answer.
        further: Sentences that follow it.
        strength: How sure it is and what it is about; None where nothing was judged.
        next: Commands and what they do.
    """

    cautions: tuple[str, ...]
    lead: str
    further: tuple[str, ...]
    strength: str | None
    next: tuple[str, ...]


def headline_lines(headline: Headline) -> list[str]:
    """The headline as lines of Markdown, without the next step."""
    parts = [*headline.cautions, f"**{headline.lead}**"]
    parts += [" ".join(headline.further)] if headline.further else []
    parts += [headline.strength] if headline.strength is not None else []
    return [line for part in parts for line in (part, "")][:-1]


def headline_of(seen: Overview, records: Sequence[Record]) -> Headline:
    """The headline of a report of runs."""
    if seen.judged is None or not seen.contrasts:
        lead, further, following = why_not_judged(seen.comparison)
        return Headline(cautions=(), lead=lead, further=tuple(further), strength=None, next=tuple(following))
    grade = grade_of(min(contrast.verdict.pairs for contrast in seen.contrasts))
    decided = any(contrast.shown in (*DECIDED, *UNLESS_COLLAPSE) for contrast in seen.contrasts)
    pick = _pick(seen) if decided else None
    if pick is not None:
        chosen = [choice.grade for choice in seen.choices if choice.grade is not None]
        if any(contrast.shown in UNLESS_COLLAPSE for contrast in pick.contrasts):
            chosen.append("indicative")
        grade = min([grade, *chosen], key=GRADES.index)
    if not decided:
        lead, further = _undecided(seen)
    elif pick is None:
        lead, further = _unpicked(seen)
    elif pick.reference or _all(pick, NOT_WORSE):
        lead, further = _advice(seen, pick, grade)
    else:
        lead, further = _open(seen, pick)
        pick, decided = None, False
    return Headline(
        cautions=tuple(_cautions(seen, seen.judged, records)),
        lead=lead,
        further=tuple(further),
        strength=_strength(seen, seen.judged, grade, decided),
        next=tuple(next_lines(seen, pick, grade)),
    )


def _cautions(seen: Overview, judged: Judged, records: Sequence[Record]) -> list[str]:
    said = []
    untuned = untuned_tasks(seen.comparison)
    if untuned:
        every = len(untuned) == len({setting.spec.task.name for setting in seen.comparison.results})
        on = "" if every else f" on {listed([code(task) for task in untuned])}"
        said.append(
            f"**No learning rate was tuned in these runs{on}:** "
            "each was given, found elsewhere or not at all. Another may change the order of the methods."
        )
    sources = dict.fromkeys(setting.spec.source for setting in seen.comparison.results if setting.spec.source)
    if sources:
        said.append(f"**No suite planned these runs** (source: {listed([text.inert(source) for source in sources])}).")
    said += _at_edge(seen)
    said += _doubts(seen, judged, records)
    if judged.declared == "changed":
        said.append("**The rules of the comparison were changed after some of the runs**, when scores were known.")
    return said


def _at_edge(seen: Overview) -> list[str]:
    """Whose best learning rates are the last ones tried, so that better ones may be outside."""
    found = edges_tried(seen.comparison)
    if not found:
        return []
    names = listed([code(label) for label in sorted({edge.row.label for edge in found})])
    ends = " or ".join(sorted({edge.end for edge in found}))
    several = len({edge.row.label for edge in found}) > 1 or len(found) > 1
    rates = "best learning rates" if several else "best learning rate"
    where = f" ({len(found)} of {tried_searches(seen.comparison)} searches)"
    return [
        f"**The {rates} of {names} {'are' if several else 'is'} the {ends} tried{where}:** "
        "widen the range before you rank them."
    ]


def _doubts(seen: Overview, judged: Judged, records: Sequence[Record]) -> list[str]:
    """What many of the runs suffer from."""
    ends = [*counted(judged).values()]
    runs, failed, fallen = (sum(getattr(one, name) for one in ends) for name in ("runs", "failed", "fallen"))
    improving, ended = improving_runs(records, seen.comparison)
    said = []
    if failed >= MANY * runs:
        said.append(f"{failed} of {runs} runs ended without a score")
    if fallen >= MANY * runs:
        said.append(f"{fallen} of {runs} runs scored no better than the majority class (or the mean)")
    if improving >= MANY * max(ended, 1):
        said.append(f"{improving} of {ended} runs were still improving when their budget ended")
    if not said:
        return []
    many = "**Most runs learned nothing.** " if fallen > runs / 2 else ""
    return [f"{many}Read the ranking with care: {listed(said)}."]


def _pick(seen: Overview) -> Line | None:
    """The method that `choose_method` names everywhere, or None."""
    named = {choice.method for choice in seen.choices}
    return next((line for line in seen.methods if {line.label} == named), None)


def _cheaper(seen: Overview, pick: Line) -> Line | None:
    """The method with the smallest files that is shown not to be worse than the reference, if they are smaller than the pick's.

    The reference is one itself. Of several whose files are about equally large it is the reference, else the one with the
    largest mean difference.
    """
    fit = [line for line in seen.methods if line.file_ratio is not None and (line.reference or _all(line, NOT_WORSE))]
    smallest = min((_larger(line, pick) for line in fit), default=1.0)
    if smallest >= 1 - LIKE_COST:
        return None
    like = [line for line in fit if _larger(line, pick) <= smallest * (1 + LIKE_COST)]
    return max(like, key=lambda line: (line.reference, line.difference or 0.0))


def _all(line: Line, words: Sequence[str]) -> bool:
    """Whether every comparison of a method has one of these verdicts."""
    return bool(line.contrasts) and all(contrast.shown in words for contrast in line.contrasts)


_TAKE: dict[Grade, str] = {
    "recommendation": "Take {}", "indicative": "Lean towards {}", "exploratory": "Try {} first",
}  # fmt: skip


def _advice(seen: Overview, pick: Line, grade: Grade) -> tuple[str, list[str]]:
    """The recommendation, and sentences on the other methods."""
    reference = code(seen.reference)
    others = [line for line in seen.methods if line is not pick and line.contrasts]
    if not pick.reference:
        lead = f"{_TAKE[grade].format(code(pick.label))}: compared with {reference} it is {_shown(pick)}{_file(pick)}"
    else:
        lead = _TAKE[grade].format(code(pick.label)) + _beside(seen, pick, others)
    cheaper = _cheaper(seen, pick)
    said = [f"Where that file is too large: {code(cheaper.label)}."] if cheaper is not None else []
    on = [_on(line) for line in others]
    said += [f"Compared with {reference}, {'; '.join(on)}."] if on else []
    return f"{lead}.", [*said, *_no_equality(seen)]


def _beside(seen: Overview, pick: Line, others: Sequence[Line]) -> str:
    """How the others score, to follow the name of the reference."""
    contrasts = [contrast for line in others for contrast in line.contrasts]
    if contrasts and all(contrast.shown == "worse" for contrast in contrasts):
        who = f"{len(others)} other methods score" if len(others) > 1 else "other method scores"
        return f": the {who} {sizes(contrasts)} worse"
    if not any(_all(line, NOT_WORSE) for line in others):
        return f": no other method is shown to be as good{_with_smaller(seen, pick)}"
    better = [line for line in others if _all(line, ("better",))]
    if better:
        return (
            f": {listed([f'{code(line.label)} scores {sizes(line.contrasts)} better{_file(line)}' for line in better])}"
        )
    return ": no other method that is shown to be as good has smaller files"


def _unpicked(seen: Overview) -> tuple[str, list[str]]:
    """What is shown where no one method is chosen everywhere."""
    counts = Counter(choice.method for choice in seen.choices)
    named = listed([f"{code(label)} in {number} of {counts.total()}" for label, number in counts.most_common()])
    on = [f"{code(line.label)} is {_shown(line)}" for line in seen.methods if line.contrasts]
    return (
        f"No one method fits all: by task, base model and target `lora-bench choose` names {named}.",
        [f"Compared with {code(seen.reference)}, {'; '.join(on)}.", *_no_equality(seen)],
    )


def _open(seen: Overview, pick: Line) -> tuple[str, list[str]]:
    """What is shown where the method that is chosen is not shown to be as good as the reference."""
    highest = all(choice.best.label == pick.label for choice in seen.choices)
    what = "has the best mean" if highest else "has the smallest files of those as good as the best mean"
    on = [_on(line) for line in seen.methods if line is not pick and line.contrasts]
    return (
        f"{code(pick.label)} {what}, but compared with {code(seen.reference)} it is {_shown(pick)}.",
        [f"Compared with {code(seen.reference)}, {'; '.join(on)}."] if on else [],
    )


def _no_equality(seen: Overview) -> list[str]:
    """That so few seeds cannot show that two methods are as good, where some are undecided."""
    open_ones = [
        one.verdict for one in seen.contrasts if one.shown == "inconclusive" and one.verdict.margin is not None
    ]
    fewest = fewest_unseen(ALPHA)
    most = max((verdict.pairs for verdict in open_ones), default=fewest)
    return [f"{plural(most, 'seed')} cannot show equality; {fewest} may."] if most < fewest else []


def _with_smaller(seen: Overview, pick: Line) -> str:
    """What the other methods would have saved, where all have smaller files."""
    smaller = all(_larger(pick, line) > 1 + LIKE_COST for line in seen.methods if line is not pick and line.contrasts)
    return " with a smaller file" if smaller else ""


def _on(line: Line) -> str:
    """What is shown of a method that was not picked."""
    return f"{code(line.label)} is {_shown(line)}"


def _shown(line: Line) -> str:
    """The verdicts on a method with the sizes of shown differences, such as "worse in all 6, by 4.6 to 16.6 points"."""
    said = []
    for word in (*DECIDED, *UNLESS_COLLAPSE, "inconclusive"):
        found = [contrast for contrast in line.contrasts if contrast.shown == word]
        if found:
            by = f", by {sizes(found)}" if word in ("better", "worse") else ""
            name, *unless = word.split(f" {UNLESS}")
            by = _margin(found) + (f" {UNLESS}" if unless else "") if name in WITHIN else by
            said.append(f"{_WORDS.get(name, name)}{times(len(found), len(line.contrasts))}{by}")
    return listed(said)


_WORDS = {"equivalent": "as good", "non-inferior": "not worse", "inconclusive": "undecided"}


def _margin(contrasts: Sequence[Contrast]) -> str:
    margins = dict.fromkeys(contrast.verdict.margin for contrast in contrasts if contrast.verdict.margin is not None)
    return f" within {listed([amount(margin, contrasts[0].shares) for margin in margins])}" if margins else ""


def times(number: int, of: int) -> str:
    """How many of several comparisons: "", " in both", " in all 6", " in 2 of 6"."""
    if of == 1:
        return ""
    if number < of:
        return f" in {number} of {of}"
    return " in both" if number == 2 else f" in all {number}"


def sizes(contrasts: Sequence[Contrast]) -> str:
    """The sizes of differences from the smallest to the largest, such as "2.0 to 4.6 points"."""
    found = sorted(abs(contrast.verdict.difference) for contrast in contrasts)
    shares = all(contrast.shares for contrast in contrasts)
    ends = dict.fromkeys(_number(value, shares) for value in (found[0], found[-1]))
    return " to ".join(ends) + (" points" if shares else "")


def amount(value: float, shares: bool) -> str:
    """A difference in points of 100, or in the unit of its metric."""
    points = f"{100 * value:g}"
    return f"{points} {'point' if points == '1' else 'points'}" if shares else f"{value:g}"


def _number(value: float, shares: bool) -> str:
    return f"{100 * value:.1f}" if shares else text.score(value)


def _larger(line: Line, other: Line) -> float:
    """How many times as large the files of a method are as those of another."""
    return (line.file_ratio or 1.0) / (other.file_ratio or 1.0)


def _times(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"


def _file(line: Line) -> str:
    """How large the files of a method are beside the reference's, over base models and targets, where that is worth a word."""
    if line.file_ratio is None or abs(line.file_ratio - 1) <= LIKE_COST:
        return ""
    if line.file_ratio < 1:
        return f", with a file {_span([1 / ratio for ratio in line.file_ratios])} times smaller"
    return f", but its file is {_span(line.file_ratios)} times as large"


def _span(ratios: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(map(_times, (min(ratios), max(ratios)))))


def _undecided(seen: Overview) -> tuple[str, list[str]]:
    """Why nothing is decided, and what would decide."""
    most = max(contrast.verdict.pairs for contrast in seen.contrasts)
    bound = _bound(seen)
    if most < FEWEST_PAIRS:
        seeds = f"{plural(most, 'seed')} of each method {'is' if most == 1 else 'are'} too few"
        lead = f"Nothing is decided: {seeds}, a verdict takes {FEWEST_PAIRS}."
    elif bound is not None:
        number = len(seen.contrasts)
        of = f"{number} comparisons" if number > 1 else "the comparison"
        lead = (
            f"Nothing could be decided: where runs collapse, {plural(most, 'seed')} cannot bring p of {of} below "
            f"{bound:.2g}."
        )
    elif len(seen.contrasts) == 1:
        lead = "Nothing is decided: neither a difference is shown, nor that it is smaller than the margin."
    else:
        lead = (
            f"Nothing is decided: none of {len(seen.contrasts)} comparisons with {code(seen.reference)} shows a difference, "
            "or that it is smaller than the margin."
        )
    if learned_little(seen):
        longer = f"Train longer before adding seeds: raise {code(work_key(seen))}."
        return lead, [longer]
    return lead, more_seeds(seen)


def _bound(seen: Overview) -> float | None:
    """The least p after Holm's procedure, where collapsed runs keep it above the error level in every comparison."""
    verdicts = [contrast.verdict for contrast in seen.contrasts]
    if not all(verdict.apart for verdict in verdicts):
        return None
    bounds = [min(1.0, verdict.family * least_p(verdict.pairs)) for verdict in verdicts]
    return min(bounds) if all(bound > one.alpha for bound, one in zip(bounds, verdicts, strict=True)) else None


def _strength(seen: Overview, judged: Judged, grade: Grade, decided: bool) -> str:
    """How sure the answer is, and what it is about."""
    pairs = sorted({contrast.verdict.pairs for contrast in seen.contrasts})
    seeds = plural(pairs[0], "seed") if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]} seeds"
    rules = {
        "before": "rules declared before the runs", "changed": "rules changed afterwards", "never": "default rules",
    }  # fmt: skip
    models = {(contrast.table.model.shown, contrast.table.weights) for contrast in seen.contrasts}
    tasks = dict.fromkeys(held.setting.spec.task.name for held in judged.held)
    on = listed([code(task) for task in tasks]) if len(tasks) <= 3 else plural(len(tasks), "task")
    shown = sorted({inert(name, 40) for name, _ in models})
    these = listed(shown) if len(shown) <= 3 else f"these {len(models)} base models"
    steps = {held.setting.spec.training.steps for held in judged.held}
    number = next(iter(steps)) if len(steps) == 1 else None
    after = f", after {plural(number, 'step')}" if number is not None else ""
    hint = ": a hint; confirm with more seeds before choosing" if decided and grade == "exploratory" else ""
    return (
        f"Strength: **{grade if decided else 'undecided'}**{hint} ({seeds}, {rules[judged.declared]}). "
        f"Range: {these} on {on}{after}; not tested on others. [How this is decided](#verdicts)."
    )
