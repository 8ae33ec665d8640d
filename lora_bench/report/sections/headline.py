"""The headline of a report: the method to take and what it may lose, what is shown, and the command that goes on from it.

What makes a ranking doubtful follows: rates that were not tuned, runs that learned nothing or were still improving. Searches,
protocols that choose on the test split and lone methods have no verdicts, and a headline that says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from lora_bench.records.spec import RunSpec
from lora_bench.report.blocks import Block, Lead
from lora_bench.report.model.choose_method import NO_RESULT, Choice
from lora_bench.report.model.comparison import Comparison, Setting
from lora_bench.report.model.judged import Held, Judged
from lora_bench.report.model.overview import DECIDED, UNLESS_COLLAPSE, Overview, rate_words
from lora_bench.report.model.reference import NOTHING_ASKED
from lora_bench.report.model.report import Decision, Level, Report
from lora_bench.report.model.rows import Row, fallen_runs
from lora_bench.report.sections.advice import by_place, compared, shown_alone, take_words
from lora_bench.report.sections.answer import asked_words
from lora_bench.report.sections.chosen_rates import chosen_rates, searches, tried_rates
from lora_bench.report.sections.improving import unrisen_runs
from lora_bench.report.sections.method_tables import range_words, word_model_score
from lora_bench.report.sections.next_step import more_seeds, next_lines, work_key
from lora_bench.report.sections.pool_page import new_tasks
from lora_bench.report.sections.tuning import untuned_tasks
from lora_bench.report.sections.verdicts import MANY, seeds_added, without_result
from lora_bench.report.text import ONCE, code, inert, listed, once_words, plural, plural_span, score
from lora_bench.report.text import seed as seed_name
from lora_bench.stats.verdict import FEWEST_PAIRS, grade

# Tables named with classes that are never found, and methods with runs that are not done.
MOST_TOLD, MOST_UNDONE = 2, 5
# What longer training may change is less of a doubt: only from this share on they stand before it.
MANY_UNFINISHED = 0.25


class Headline(NamedTuple):
    """The first words of a report, as pieces of Markdown: facts to know before any ranking, the answer and what follows.

    *strength* says how sure it is and what it is about; None where nothing was judged or searched for.
    """

    cautions: Sequence[str]
    lead: str
    further: Sequence[str]
    strength: str | None
    next: Sequence[str]
    decision: Decision


def headline_blocks(headline: Headline, *, alone: bool = False) -> list[Block]:
    """Return the headline without the next step; *alone*, without the rest of a report, it has nothing to link to."""
    blocks: list[Block] = [Lead(headline.lead)]
    blocks += [" ".join(headline.further)] if headline.further else []
    blocks += [" ".join(headline.cautions)] if headline.cautions else []
    how = "" if alone or headline.decision.level is None else " [How this is decided](#verdicts)."
    blocks += [f"{headline.strength}{how}"] if headline.strength is not None else []
    return blocks


def headline_of(report: Report) -> Headline:
    """Return the headline of a report of runs."""
    overview, decision = report.overview, report.decision
    if overview.judged is None or decision.level is None:
        lead, further, following = why_not_judged(overview.comparison)
        return Headline(
            _not_done(report.undone), lead, further, search_strength(overview.comparison), following, decision
        )
    shown = _nothing_shown(overview, decision) if decision.level == "undecided" else compared(overview)
    on_new = [] if report.pooled is None else [new_tasks(report.pooled)]
    if overview.judged.no_result:
        until = "Until then `lora-bench choose` names the best of these."
        lead, further = (
            f"{NO_RESULT}.",
            [f"Train longer before adding seeds: raise {code(work_key(overview))}. {until}"],
        )
    elif overview.taken is not None:
        lead, further = take_words(overview, overview.taken), [*by_place(overview), *shown, *on_new]
    else:
        lead, *further = [*by_place(overview), *shown, *on_new]
    if not overview.judged.no_result:
        lead = " ".join([*_words_suffice(overview), lead])
    cautions = [*_not_done(report.undone), *_cautions(overview, overview.judged, decision)]
    strength = _strength(overview, overview.judged, decision.level)
    further = [*further, *_longer(decision)]
    return Headline(cautions, lead, further, strength, next_lines(overview, decision), decision)


def _not_done(specs: Sequence[RunSpec]) -> list[str]:
    """Return a sentence on runs that a stop left undone, with their methods; none without any."""
    seeds: dict[str, dict[str, None]] = {}
    for spec in specs:
        seeds.setdefault(spec.method.label, {})[seed_name(spec.seed)] = None
    if not seeds:
        return []
    named = [f"{code(label)} (seed{'s' if len(of) > 1 else ''} {', '.join(of)})" for label, of in seeds.items()]
    more = [f"{len(named) - MOST_UNDONE} more"] if len(named) > MOST_UNDONE else []
    return [
        f"**{plural(len(specs), 'run')} not done:** the work was stopped before the end of "
        f"{listed([*named[:MOST_UNDONE], *more])}; the same command goes on with {'them' if len(specs) > 1 else 'it'}."
    ]


def _cautions(seen: Overview, judged: Judged, decision: Decision) -> list[str]:
    said = _never_found(seen)
    if judged.asked != NOTHING_ASKED:
        said.insert(0, f"**Asked afterwards:** {asked_words(judged)}, not declared before the runs.")
    untuned = untuned_tasks(seen.comparison)
    if untuned:
        every = len(untuned) == len({setting.spec.task.name for setting in seen.comparison.results})
        on = "" if every else f" on {listed([code(task) for task in untuned])}"
        said.append(
            f"**No learning rate was tuned in these runs{on}:** "
            "they were given. Others may change the order of the methods."
        )
    said += _sources(seen.comparison, "**No suite planned these runs**")
    said += _at_edge(seen)
    said += _doubts(seen, judged, decision)
    if judged.declared == "added":
        said.append(seeds_added(judged))
    if judged.declared == "several":
        said.append("**The suites of these runs declared different rules**; those of most runs hold here for all.")
    if judged.declared == "changed":
        said.append("**The rules of the comparison were changed after some of the runs**, when scores were known.")
    return said


def _taken_rows(seen: Overview) -> list[tuple[Choice, Row]]:
    """Return the row of the method to take in each table."""
    labels = [choice.method if seen.taken is None else seen.taken.label for choice in seen.choices]
    return [
        (choice, next(row for row in choice.rows if row.label == label))
        for choice, label in zip(seen.choices, labels, strict=True)
    ]


def _words_suffice(seen: Overview) -> list[str]:
    """Return a sentence where words alone score as well as the method to take."""
    found = []
    for choice, row in _taken_rows(seen):
        words = word_model_score(choice.rows)
        assert row.score is not None
        sign = choice.setting.sign
        if words is not None and sign * words >= sign * row.score.mean:
            where = "" if len(seen.choices) == 1 else f" on {code(choice.setting.spec.task.name)}"
            found.append(f"{score(words)}{where} ({code(row.label)}: {score(row.score.mean)})")
    if not found:
        return []
    more = [f"in {plural(len(found) - MOST_TOLD, 'further table')} too"] if len(found) > MOST_TOLD else []
    said = listed([*found[:MOST_TOLD], *more])
    return [f"Fine-tuning buys nothing here: words alone (tf-idf), in seconds, score {said}. Of these methods:"]


def _never_found(seen: Overview) -> list[str]:
    """Return a sentence on classes that the chosen method never finds, for the first tables that have such."""
    found = []
    for choice, row in _taken_rows(seen):
        if (lost := choice.never_found(row)) is not None:
            words = lost.words(by=code(row.label), shown=partial(inert, limit=60))
            found.append(words if len(seen.choices) == 1 else f"{words}, on {code(choice.setting.spec.task.name)}")
    if not found:
        return []
    more = [f"and so in {plural(len(found) - MOST_TOLD, 'further table')}"] if len(found) > MOST_TOLD else []
    said = "; ".join([*found[:MOST_TOLD], *more])
    return [f"**{said[0].upper()}{said[1:]}.**"]


def _at_edge(seen: Overview) -> list[str]:
    """Methods whose best learning rates are the last ones tried, so that better ones may be outside."""
    tried = tried_rates(seen.comparison)
    found = [one for one in tried if one.end]
    if not found:
        return []
    names = listed([code(label) for label in sorted({one.label for one in found})])
    ends = " or ".join(sorted({one.end for one in found}))
    return [
        f"In {len(found)} of {len(tried)} searches the learning rate chosen is the {ends} tried ({names}): a wider range may "
        f"raise {'their scores' if len(found) > 1 else 'its score'}."
    ]


def _doubts(seen: Overview, judged: Judged, decision: Decision) -> list[str]:
    said = without_result(judged)
    unrisen, ended = unrisen_runs(seen.comparison)
    if unrisen > 1:
        said.append(
            f"{unrisen} of {ended} runs were taken to be at a plateau, and ended, before their score had risen once"
        )
    if decision.share_unfinished >= MANY_UNFINISHED:
        said += _unfinished(decision)
    if not said:
        return []
    most = judged.all_ends.fallen > judged.all_ends.runs / 2
    many = "**Most runs learned nothing.** " if most else ""
    return [f"{many}Read the ranking with care: {listed(said)}."]


def _longer(decision: Decision) -> list[str]:
    """Return a note that some runs were still improving, or ended by their cap: the answer is that of their budget."""
    if not MANY <= decision.share_unfinished < MANY_UNFINISHED:
        return []
    return [f"Longer training may change this: {listed(_unfinished(decision))}."]


def _unfinished(decision: Decision) -> list[str]:
    counted = {
        "were still improving when their budget ended": decision.improving,
        "ended by their cap, before they reached a plateau": decision.capped,
    }
    return [f"{number} of {decision.ended} runs {how}" for how, number in counted.items() if number]


def _nothing_shown(seen: Overview, decision: Decision) -> list[str]:
    most = max(contrast.verdict.pairs for contrast in seen.contrasts)
    if decision.why == "seeds" and most == 1 and seen.comparison.scores_alone:
        several = any(len(row.scores) > 1 for choice in seen.choices for row in choice.rows)
        once = (
            "no two have more than one seed in common" if several else once_words(line.label for line in seen.methods)
        )
        said = (
            f"Nothing is shown of the methods: {once}, and one run does not tell "
            f"a method from its seed. A verdict takes at least {FEWEST_PAIRS} seeds, and mostly more of many methods."
        )
    elif decision.why == "seeds":
        seeds = f"{plural(most, 'seed')} of each method {'is' if most == 1 else 'are'} too few"
        said = f"Nothing is shown: {seeds}, a verdict takes {FEWEST_PAIRS}."
    elif decision.why == "collapses":
        said = f"Nothing is shown: {plural(most, 'seed')} cannot show it where runs collapse."
    elif any(one.shown in UNLESS_COLLAPSE for one in seen.contrasts) or any(
        shown_alone(line.contrasts) for line in seen.methods if line.contrasts
    ):
        return [*compared(seen), *more_seeds(seen)]
    elif len(seen.contrasts) == 1:
        said = "Nothing is shown: neither a difference, nor that it is smaller than the margin."
    else:
        said = (
            f"Nothing is shown: in none of {len(seen.contrasts)} comparisons with {code(seen.reference)} a difference, nor "
            "that it is smaller than the margin."
        )
    return [said, *more_seeds(seen)]


def _strength(seen: Overview, judged: Judged, level: Level) -> str:
    seeds = plural_span([contrast.verdict.pairs for contrast in seen.contrasts], "seed")
    rules = {
        "before": "rules declared before the runs",
        "several": "rules of most runs, as their suites declared different ones",
        "added": "seeds added after verdicts",
        "changed": "rules changed afterwards",
        "never": "default rules, none declared before the runs",
    }
    rule = rules[judged.declared] if judged.asked == NOTHING_ASKED else "rules asked afterwards"
    if judged.analysis.seeds is not None:
        seeds += f", added until decided, {judged.analysis.seeds.at_most} at most"
    rates = [contrast.verdict.choice_sd is not None for contrast in seen.contrasts]
    if not seen.comparison.scores_alone:
        seeds += (
            ", choice of learning rates included" if all(rates) else f", {'some ' * any(rates)}at these learning rates"
        )
    return (
        f"Strength: {_worth(seen, judged, level)} ({seeds}, {rule}). {_easily_cancelled(seen, judged)}"
        f"{range_words([(held.setting, held.table) for held in judged.held])}"
    )


def _worth(seen: Overview, judged: Judged, level: Level) -> str:
    """Return the level of an answer, with the grade of what is shown where that is not all or of single tasks alone."""
    said: str = "partly decided" if level == "partly" else level
    claims, where = [one.verdict for one in seen.contrasts if level == "partly" and one.shown in DECIDED], ""
    if level == "undecided" and any(shown_alone(line.contrasts) for line in seen.methods if line.contrasts):
        claims, where = [held.verdict for held in _single_claims(judged)], " on single tasks"
    if claims:
        said += f", {grade(min(verdict.pairs for verdict in claims))}{where}"
    hint = ": a hint" if "exploratory" in said else ""
    hint += "; confirm with more seeds before choosing" if level == "exploratory" else ""
    return f"**{said}**{hint}"


def _single_claims(judged: Judged) -> list[Held]:
    """Return the differences that single tasks show."""
    return [held for held in judged.held if held.verdict.verdict in ("better", "worse")]


def _easily_cancelled(seen: Overview, judged: Judged) -> str:
    """Return a sentence on the claim that the fewest collapses would cancel, and one on those of single tasks beside means."""
    decided = [
        one for one in seen.contrasts if one.shown in DECIDED
    ]  # of the others what cancels stands with the claim
    found = [(one.verdict.cancelled, one.label) for one in decided if one.verdict.cancelled is not None]
    alone = [(held.verdict.cancelled, held) for held in _single_claims(judged) if held.verdict.cancelled is not None]
    single = ""
    if alone and any(one.tasks > 1 for one in seen.contrasts):
        easiest, held = min(alone, key=lambda one: one[0].rate)
        known = easiest.excluded is not None
        claims = "Claims on single tasks hold" if known else "Better and worse on a task hold"
        collapses = "collapses" if known else "collapses to a score of 0"
        whose = code((held.row if easiest.of_first else held.reference).label)
        single = (
            f"{claims} unless {whose} {collapses} there in over {rate_words(easiest.rate)} of runs, or others in more. "
        )
    if not found:
        return single
    least, label = min(found, key=lambda one: one[0].rate)
    of = code(label if least.of_first else seen.reference)
    which = " most easily cancelled" if len(found) > 1 else ""
    which += f", that on {code(label)}," if which and not least.of_first else ""
    known = least.excluded is not None
    claim = "claim" if known else "verdict"  # a size is cancelled sooner
    collapses = "collapses" if known else "collapses to a score of 0"
    excluded = (
        f"; its runs rule out rates over {rate_words(least.excluded, up=True)}" if least.excluded is not None else ""
    )
    on_mean = " on the mean" if all(one.tasks > 1 for one in seen.contrasts) else ""
    least_rate = rate_words(least.rate)
    return f"The {claim}{on_mean}{which} holds unless {of} {collapses} in over {least_rate} of runs{excluded}. {single}"


_TOO_HIGH = (
    "Such scores come out too high, more for some methods than for others. They serve to repeat a paper's numbers."
)

Said = tuple[str, list[str], list[str]]


def why_not_judged(comparison: Comparison) -> Said:
    """Return the lead, further sentences and next steps of a report without verdicts."""
    rows = [row for setting in comparison.settings for row in setting.rows]
    if not any(row.score is not None for row in rows):
        failed = f"{plural(sum(len(row.failures) for row in rows), 'run')} failed; the reasons are under [Failures](#failures)."
        said = [failed] if any(row.failures for row in rows) else []
        return "No run has a score, so there is nothing to compare.", said, []
    results = [setting for setting in comparison.results if not setting.search]
    if not results:
        return _search(comparison)
    chosen = [one for one in results if one.spec.rules is not None and one.spec.rules.choose_on != "selection"]
    if len(chosen) == len(results):
        name = listed([*dict.fromkeys(code(setting.spec.protocol) for setting in chosen if setting.spec.protocol)])
        lead = f"No method is ranked: the protocol {name} chooses on the split that it reports.".replace("  ", " ")
        return lead, [_TOO_HIGH], []
    labels = dict.fromkeys(row.label for setting in results for row in setting.rows)
    if len(labels) == 1:
        lead = f"Only {code(next(iter(labels)))} was run, so there is nothing to compare it with."
        return lead, _sources(comparison), []
    seeds = max(row.score.n for row in rows if row.score is not None)
    ran = f"{plural(len(labels), 'method')} ran"
    if comparison.scores_alone and seeds == 1:
        once = once_words(labels)
        runs = f"{ran} once each" if once == ONCE else once
        return f"No method is ranked: {runs}, and one run does not tell how another would score.", [], []
    lead = f"No method is ranked: {ran}, and no two share a reference, base model and seed."
    return lead, [*_sources(comparison), *([] if seeds > 1 else ["One seed a mean tells nothing of chance."])], []


def _sources(comparison: Comparison, words: str = "No suite planned these runs") -> list[str]:
    sources = dict.fromkeys(one.spec.source for one in comparison.results if one.spec.source and not one.scores_alone)
    return [f"{words} (source: {listed([*map(inert, sources)])})."] if sources else []


def _search(comparison: Comparison) -> Said:
    found = chosen_rates(comparison)
    number, tied = sum(one.best is not None for one in found), sum(one.tied for one in found)
    at_edge = sum(one.end != "" for one in found)
    further = [
        f"It gives {plural(number, 'best rate')}, one for each method and base model; all scores are under [Scores](#scores)."
    ]
    if tied:
        further.append(f"In {tied} of {len(found)} searches rates tie, so nothing is chosen there.")
    if at_edge:
        word = "is" if at_edge == 1 else "are"
        further.append(f"{at_edge} of them {word} the smallest or largest rate tried: a better one may be outside.")
    further += _at_floor(searches(comparison))
    following = "write the best rates into a suite as `learning_rate` and run it on seeds that the search has not used"
    return "This is a search: it chooses learning rates and ranks no method.", further, [following]


def search_strength(comparison: Comparison) -> str | None:
    """Return how sure the choices of a search are, and what they are about; None where there are results, or no scores."""
    found = chosen_rates(comparison)
    seeds = [one.best.score.n for one in found if one.best is not None and one.best.score is not None]
    if not seeds or any(not setting.search for setting in comparison.results):
        return None
    said = (
        f"Strength: **search** ({plural_span(seeds, 'seed')} a rate): rates with scores near the best may be as good."
    )
    return f"{said} {range_words([(one.setting, one.table) for one in found])}"


def _at_floor(found: Sequence[Setting]) -> list[str]:
    """Count the runs that learned nothing."""
    rows = {row.run_ids: row for setting in found for row in setting.rows}.values()
    runs = sum(len(row.scores) for row in rows if row.least_learned is not None)
    floor = sum(fallen_runs(row, found[0].sign > 0, row.least_learned) for row in rows)
    return [f"{floor} of {plural(runs, 'run')} did no better than a constant answer."] if floor else []
