"""The headline of a report: a recommendation as strong as the verdicts allow, and the command that goes on from it.

Each sentence restates verdicts of the report. What makes a ranking doubtful stands before it: rates that were not tuned, runs
that were still improving, runs that learned nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lora_bench.records.record import Record
from lora_bench.report import text
from lora_bench.report.model.judged import Judged
from lora_bench.report.model.overview import LIKE_COST, UNLESS, Contrast, Line, Overview
from lora_bench.report.sections.improving import improving_runs
from lora_bench.report.sections.next_step import more_seeds, next_lines
from lora_bench.report.sections.not_judged import why_not_judged
from lora_bench.report.sections.tuning import untuned_tasks
from lora_bench.report.sections.verdicts import DECIDED, counted
from lora_bench.report.text import code, listed, plural
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
    if pick is not None and any(contrast.shown in UNLESS_COLLAPSE for contrast in pick.contrasts):
        grade = "indicative" if grade == "recommendation" else grade
    lead, further = _advice(seen, pick, grade) if pick is not None else _undecided(seen)
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
            f"**No learning rate was tuned in these runs{on}:** another rate may change the order of the methods."
        )
    sources = dict.fromkeys(setting.spec.source for setting in seen.comparison.results if setting.spec.source)
    if sources:
        said.append(f"**No suite planned these runs** (source: {listed([text.inert(source) for source in sources])}).")
    said += _doubts(seen, judged, records)
    if judged.declared == "changed":
        said.append("**The rules of the comparison were changed after some of the runs**, when scores were known.")
    return said


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
    """The method with the smallest files that is shown not to be worse than the reference; the reference is one itself.

    Of several whose files are about equally large it is the one that is better everywhere, else the reference, else the one
    with the largest mean difference.
    """
    reference = next((line for line in seen.methods if line.reference), None)
    fit = [line for line in seen.methods if not line.reference and _all(line, NOT_WORSE)]
    lines = [line for line in (reference, *fit) if line is not None and line.file_ratio is not None]
    if not lines:
        return reference
    smallest = min(line.file_ratio or 1.0 for line in lines)
    like = [line for line in lines if (line.file_ratio or 1.0) <= smallest * (1 + LIKE_COST)]
    return max(like, key=lambda line: (_all(line, ("better",)), line.reference, line.difference or 0.0))


def _all(line: Line, words: Sequence[str]) -> bool:
    """Whether every comparison of a method has one of these verdicts."""
    return bool(line.contrasts) and all(contrast.shown in words for contrast in line.contrasts)


_TAKE: dict[Grade, str] = {
    "recommendation": "Take {}", "indicative": "Lean towards {}", "exploratory": "Try {} first",
}  # fmt: skip


def _advice(seen: Overview, pick: Line, grade: Grade) -> tuple[str, list[str]]:
    """The recommendation, and a sentence on the other methods."""
    others = [line for line in seen.methods if line is not pick and line.contrasts]
    dearer = [line for line in others if _all(line, ("better",)) and _larger(line, pick) > 1 + LIKE_COST]
    gains = [line for line in dearer if pick.reference or (line.difference or 0) > (pick.difference or 0)]
    best = max(gains, key=lambda line: min(contrast.gain for contrast in line.contrasts), default=None)
    worse = [contrast for line in others for contrast in line.contrasts]
    lead = _TAKE[grade].format(code(pick.label))
    if not pick.reference:
        lead += f": compared with {code(seen.reference)} it is {_shown(pick)}{_saved(pick)}"
    if best is not None:
        against = "" if pick.reference else f" than {code(seen.reference)}"
        lead += f", or {code(best.label)} if a file about {_times(_larger(best, pick))} times as large is no matter: "
        lead += f"it scores {sizes(best.contrasts)} better{against}"
    elif pick.reference and worse and all(contrast.shown == "worse" for contrast in worse):
        number = len({contrast.label for contrast in worse})
        lead += f": the {f'{number} other methods score' if number > 1 else 'other method scores'} {sizes(worse)} worse"
    elif pick.reference:
        lead += f": no other method is shown to be as good{_with_smaller(seen, pick)}"
    said = [_on(line, grade) for line in others if line is not best]
    return f"{lead}.", [f"Compared with {code(seen.reference)}, {'; '.join(said)}."] if said else []


def _with_smaller(seen: Overview, pick: Line) -> str:
    """What the other methods would have saved, where all have smaller files."""
    smaller = all(_larger(pick, line) > 1 + LIKE_COST for line in seen.methods if line is not pick and line.contrasts)
    return " with a smaller file" if smaller else ""


def _on(line: Line, grade: Grade) -> str:
    """What is shown of a method that was not picked."""
    avoid = ": avoid it" if grade == "recommendation" and _all(line, ("worse",)) else ""
    return f"{code(line.label)} is {_shown(line)}{avoid}"


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


def _saved(pick: Line) -> str:
    """How small the files of the pick are beside the reference's, where that is worth a word."""
    if pick.file_ratio is None or pick.file_ratio > 1 - LIKE_COST:
        return ""
    return f", with a file {_times(1 / pick.file_ratio)} times smaller"


def _undecided(seen: Overview) -> tuple[str, list[str]]:
    """Why nothing is decided, and what would decide."""
    most = max(contrast.verdict.pairs for contrast in seen.contrasts)
    if most < FEWEST_PAIRS:
        seeds = f"{plural(most, 'seed')} of each method {'is' if most == 1 else 'are'} too few"
        lead = f"Nothing is decided: {seeds}, a verdict takes {FEWEST_PAIRS}."
    elif len(seen.contrasts) == 1:
        lead = "Nothing is decided: neither a difference is shown, nor that it is smaller than the margin."
    else:
        lead = (
            f"Nothing is decided: none of {len(seen.contrasts)} comparisons with {code(seen.reference)} shows a difference, "
            "or that it is smaller than the margin."
        )
    return lead, more_seeds(seen)


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
    these = "this base model" if len(models) == 1 else f"these {len(models)} base models"
    return (
        f"Strength: **{grade if decided else 'undecided'}** ({seeds}, {rules[judged.declared]}). Range: {these} and {on}; "
        "not tested on others. [How this is decided](#verdicts)."
    )
