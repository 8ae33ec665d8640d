"""The headline of a report: a recommendation as strong as the verdicts allow, and the command that goes on from it.

Each sentence restates verdicts of the report. What makes a ranking doubtful stands before it: rates that were not tuned,
runs that learned nothing, many runs that were still improving. A few of those stand after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lora_bench.records.record import Record
from lora_bench.report import text
from lora_bench.report.model.choose_method import GRADES
from lora_bench.report.model.judged import Judged
from lora_bench.report.model.overview import Line, Overview
from lora_bench.report.sections.advice import (
    UNLESS_COLLAPSE,
    advice,
    alike,
    any_of,
    is_advised,
    open_pick,
    pick_of,
    ruled_out,
    unpicked,
)
from lora_bench.report.sections.improving import improving_runs
from lora_bench.report.sections.next_step import learned_little, more_seeds, next_lines, work_key
from lora_bench.report.sections.not_judged import search_strength, why_not_judged
from lora_bench.report.sections.range_words import range_words
from lora_bench.report.sections.tuning import edges_tried, tried_searches, untuned_tasks
from lora_bench.report.sections.verdicts import DECIDED, MANY, counted, seeds_added, without_result
from lora_bench.report.text import code, listed, plural
from lora_bench.stats.apart import least_p
from lora_bench.stats.verdict import FEWEST_PAIRS, Grade
from lora_bench.stats.verdict import grade as grade_of

# Runs that were still improving change an answer less: only from this share on they stand before it.
MANY_IMPROVING = 0.25


# "partly": some comparisons are decided, and no method is advised.
Level = Grade | Literal["partly", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The first words of a report, as pieces of Markdown.

    Args:
        cautions: What a reader must know before any ranking, a paragraph each.
        lead: The answer.
        further: Sentences that follow it.
        strength: How sure it is and what it is about; None where nothing was judged or searched for.
        next: Commands and what they do.
        advised: Labels of the methods that the lead advises, any of them; none where it advises none.
        ruled_out: Labels of the methods that the lead names in place of many advised ones.
        level: The strength in a word; None where nothing was judged.
    """

    cautions: tuple[str, ...]
    lead: str
    further: tuple[str, ...]
    strength: str | None
    next: tuple[str, ...]
    advised: tuple[str, ...] = ()
    ruled_out: tuple[str, ...] = ()
    level: Level | None = None

    @property
    def winner(self) -> str | None:
        """Label of the one method that the lead advises, or None."""
        return self.advised[0] if len(self.advised) == 1 else None


def headline_lines(headline: Headline, *, alone: bool = False) -> list[str]:
    """The headline as lines of Markdown, without the next step.

    Args:
        headline: Of a report.
        alone: Whether the rest of the report is missing, so that there is nothing to link to.
    """
    parts = [*headline.cautions, f"**{headline.lead}**"]
    parts += [" ".join(headline.further)] if headline.further else []
    how = "" if alone or headline.level is None else " [How this is decided](#verdicts)."
    parts += [f"{headline.strength}{how}"] if headline.strength is not None else []
    return [line for part in parts for line in (part, "")][:-1]


def headline_of(seen: Overview, records: Sequence[Record]) -> Headline:
    """The headline of a report of runs."""
    if seen.judged is None or not seen.contrasts:
        lead, further, following = why_not_judged(seen.comparison)
        strength = search_strength(seen.comparison)
        return Headline(cautions=(), lead=lead, further=tuple(further), strength=strength, next=tuple(following))
    grade = grade_of(min(contrast.verdict.pairs for contrast in seen.contrasts))
    decided = any(contrast.shown in (*DECIDED, *UNLESS_COLLAPSE) for contrast in seen.contrasts)
    pick = pick_of(seen) if decided else None
    advised = _advised(seen, pick) if decided else []
    if advised:
        chosen = [choice.grade for choice in seen.choices if choice.grade is not None]
        if any(contrast.shown in UNLESS_COLLAPSE for line in advised for contrast in line.contrasts):
            chosen.append("indicative")
        grade = min([grade, *chosen], key=GRADES.index)
    level: Level = grade if decided else "undecided"
    if not decided:
        lead, further = _undecided(seen)
    elif len(advised) > 1:
        lead, further = any_of(seen, advised, grade)
    elif pick is None:
        lead, further = unpicked(seen)
        level = _share_decided(seen, grade)
    elif is_advised(pick):
        lead, further = advice(seen, pick, grade)
    else:
        lead, further = open_pick(seen, pick)
        level = _share_decided(seen, "partly")
        pick, advised = None, []
    return Headline(
        cautions=tuple(_cautions(seen, seen.judged, records)),
        lead=lead,
        further=(*further, *_improving(seen, records)),
        level=level,
        strength=_strength(seen, seen.judged, level),
        next=tuple(next_lines(seen, pick, grade)),
        advised=tuple(line.label for line in advised),
        ruled_out=tuple(line.label for line in ruled_out(seen, advised)),
    )


def _share_decided(seen: Overview, if_all: Level) -> Level:
    """How much is decided where no method is advised."""
    shown = [contrast.shown in DECIDED for contrast in seen.contrasts]
    return if_all if all(shown) else "partly" if any(shown) else "undecided"


def _advised(seen: Overview, pick: Line | None) -> list[Line]:
    """The method of choice, with all that are alike if it is one of them; all methods if all are alike."""
    like = alike(seen)
    if len(like) == len(seen.methods) or (pick in like and len(like) > 1):
        return like
    return [] if pick is None else [pick]


def _cautions(seen: Overview, judged: Judged, records: Sequence[Record]) -> list[str]:
    said = []
    untuned = untuned_tasks(seen.comparison)
    if untuned:
        every = len(untuned) == len({setting.spec.task.name for setting in seen.comparison.results})
        on = "" if every else f" on {listed([code(task) for task in untuned])}"
        said.append(
            f"**No learning rate was tuned in these runs{on}:** "
            "they were given. Others may change the order of the methods."
        )
    sources = dict.fromkeys(setting.spec.source for setting in seen.comparison.results if setting.spec.source)
    if sources:
        said.append(f"**No suite planned these runs** (source: {listed([text.inert(source) for source in sources])}).")
    said += _at_edge(seen)
    said += _doubts(seen, judged, records)
    if judged.declared == "added":
        said.append(seeds_added(judged))
    if judged.declared == "changed":
        said.append("**The rules of the comparison were changed after some of the runs**, when scores were known.")
    return said


def _at_edge(seen: Overview) -> list[str]:
    """Methods whose best learning rates are the last ones tried, so that better ones may be outside."""
    found = edges_tried(seen.comparison)
    if not found:
        return []
    names = listed([code(label) for label in sorted({edge.row.label for edge in found})])
    ends = " or ".join(sorted({edge.end for edge in found}))
    several = len({edge.row.label for edge in found}) > 1 or len(found) > 1
    return [
        f"In {len(found)} of {tried_searches(seen.comparison)} searches the best learning rate is the {ends} tried "
        f"({names}): a wider range may raise {'their scores' if several else 'its score'}."
    ]


def _doubts(seen: Overview, judged: Judged, records: Sequence[Record]) -> list[str]:
    """The problems that many of the runs share."""
    said = without_result(judged)
    improving, ended = improving_runs(records, seen.comparison)
    if improving >= MANY_IMPROVING * max(ended, 1):
        said.append(f"{improving} of {ended} runs were still improving when their budget ended")
    if not said:
        return []
    ends = counted(judged).values()
    most = sum(one.fallen for one in ends) > sum(one.runs for one in ends) / 2
    many = "**Most runs learned nothing.** " if most else ""
    return [f"{many}Read the ranking with care: {listed(said)}."]


def _improving(seen: Overview, records: Sequence[Record]) -> list[str]:
    """A note that some runs were still improving: the answer is that of their budget."""
    improving, ended = improving_runs(records, seen.comparison)
    if not MANY <= improving / max(ended, 1) < MANY_IMPROVING:
        return []
    return [
        f"Longer training may change this: {improving} of {ended} runs were still improving when their budget ended."
    ]


def _undecided(seen: Overview) -> tuple[str, list[str]]:
    """The reason that nothing is decided, and the step that would decide."""
    most = max(contrast.verdict.pairs for contrast in seen.contrasts)
    if most < FEWEST_PAIRS:
        seeds = f"{plural(most, 'seed')} of each method {'is' if most == 1 else 'are'} too few"
        lead = f"Nothing is decided: {seeds}, a verdict takes {FEWEST_PAIRS}."
    elif _out_of_reach(seen):
        lead = f"Nothing is decided: {plural(most, 'seed')} cannot decide where runs collapse."
    elif len(seen.contrasts) == 1:
        lead = "Nothing is decided: neither a difference is shown, nor that it is smaller than the margin."
    else:
        lead = (
            f"Nothing is decided: none of {len(seen.contrasts)} comparisons with {code(seen.reference)} shows a difference, "
            "or that it is smaller than the margin."
        )
    if learned_little(seen):
        lead = "No result: too many runs did no better than a constant answer."
        longer = f"Train longer before adding seeds: raise {code(work_key(seen))}."
        return lead, [longer]
    return lead, more_seeds(seen)


def _out_of_reach(seen: Overview) -> bool:
    """Tell if collapsed runs keep the least p after Holm's procedure above the error level in every comparison."""
    verdicts = [contrast.verdict for contrast in seen.contrasts]
    return all(one.apart and one.family * least_p(one.pairs) > one.alpha for one in verdicts)


def _strength(seen: Overview, judged: Judged, level: Level) -> str:
    """The strength of the evidence, and its subject."""
    pairs = sorted({contrast.verdict.pairs for contrast in seen.contrasts})
    seeds = plural(pairs[0], "seed") if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]} seeds"
    rules = {
        "before": "rules declared before the runs",
        "added": "seeds added after verdicts",
        "changed": "rules changed afterwards",
        "never": "default rules, none declared before the runs",
    }
    if judged.analysis.seeds is not None:
        seeds += f", added until decided, {judged.analysis.seeds.at_most} at most"
    hint = ": a hint; confirm with more seeds before choosing" if level == "exploratory" else ""
    unless = [contrast.verdict.pairs for contrast in seen.contrasts if contrast.shown in UNLESS_COLLAPSE]
    few = f"{plural(max(unless), 'seed')} cannot exclude that runs collapse now and then. " if unless else ""
    return (
        f"Strength: **{'partly decided' if level == 'partly' else level}**{hint} ({seeds}, {rules[judged.declared]}). {few}"
        f"{range_words([(held.setting, held.table) for held in judged.held])}"
    )
