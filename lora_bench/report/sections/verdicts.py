"""Verdicts in a report: a table of every comparison, its words, and their basis."""

from bisect import bisect_left
from collections.abc import Sequence

from lora_bench.report import text
from lora_bench.report.blocks import Block, Fold, Heading, TextList, TextTable, known_columns
from lora_bench.report.model.judged import Judged
from lora_bench.report.model.overview import DECIDED, rate_words
from lora_bench.report.model.ranking import Rank
from lora_bench.report.sections.method_tables import method_name, model_name, setting_name
from lora_bench.report.text import MISSING, code, inert
from lora_bench.stats import Verdict, rate
from lora_bench.stats.apart import fewest_unseen, least_p
from lora_bench.stats.power import ALPHA
from lora_bench.stats.verdict import FEWEST_PAIRS

# The share of runs from which on a fact about them stands before any ranking.
MANY = 0.1

# Runs that are named one by one.
MOST_NAMED = 5


def verdict_section(judged: Judged, said: Sequence[str] = (), picture: Sequence[Block] = ()) -> list[Block]:
    """Return the section with every comparison, below paragraphs on them and the picture of each task."""
    blocks: list[Block] = [Heading(2, "Verdicts"), *said]
    blocks += [_lost(judged)] if judged.lost else []
    rates = not judged.comparison.scores_alone
    blocks += [*picture, verdict_legend([held.verdict for held in judged.held], rates=rates)]
    # Scores of others lie outside our repository, where a link to its pages leads nowhere.
    blocks += ["More on how to read verdicts: [docs/statistics.md](/docs/statistics.md#verdicts)."] if rates else []
    blocks += [*_tables(judged), *_collapses(judged)]
    if judged.left_out:
        blocks += ["Not compared:", TextList([f"{inert(reason)}." for reason in judged.left_out])]
    return blocks


def seeds_added(judged: Judged) -> str:
    """Return what follows where a suite was given more seeds after it had ended."""
    number = judged.declarations
    return (
        f"**Seeds were added after verdicts had been seen:** this is look {number}, so p-values are multiplied by {number}. "
        "Earlier looks had larger shares of the error level."
    )


def _lost(judged: Judged) -> str:
    """Return a sentence on runs without their predictions, and what that costs."""
    lost = set(judged.lost)
    named = [code(run_id) for run_id in judged.lost[:MOST_NAMED]]
    more = len(judged.lost) - len(named)
    pairs = [(*held.row.scores, *held.reference.scores) for held in judged.held]
    narrow = sum(any(score.run_id in lost for score in scores) for scores in pairs)
    return (
        f"**The stored predictions of {text.plural(len(lost), 'run')} are missing**: "
        f"{text.listed([*named, f'{more:,} more'] if more else named)}. The intervals of "
        f"{text.plural(narrow, 'comparison')} therefore cover new seeds only, not new test items. "
        "`lora-bench run SUITE --retry` makes the predictions again."
    )


_LEGEND = """\
*difference*: the method less the reference, mean over seeds.
*interval*: at {confidence} % for all comparisons at once; *covers* says what it allows for: new seeds, or also new test items.
*better*, *worse*: a difference is shown. *equivalent*: it is shown to be smaller than the margin.
*non-inferior*: the method is shown not to be worse by the margin.
*inconclusive*: none of these is shown; it never means that two methods are equal.
*no spread*: all seeds gave the same difference, so nothing is known of other seeds.
*p*: of no difference, after Holm's procedure. *p of sign flips*: without an assumed distribution; it changes no verdict.
*would decide*: seeds, or test items where these must grow less, that decide with a probability of 80 %, if the difference \
and the spread seen are the true ones.""".splitlines()


def verdict_legend(verdicts: Sequence[Verdict], *, rates: bool = True) -> TextList:
    """Return the legend of a table of verdicts, with items on collapses where these limit one; *rates* as `verdict_words`."""
    items = [line.replace("{confidence}", f"{100 * (1 - verdicts[0].alpha):g}") for line in _LEGEND]
    items += reaches_none(verdicts)
    if any(verdict.choice_sd is not None for verdict in verdicts):
        items.append(
            "*SD of the choice*: standard deviation of the difference if learning rates were chosen again by as many trials. "
            "Intervals and *p* include it."
        )
    if any(verdict_words(verdict, rates=rates).endswith("at these rates") for verdict in verdicts):
        items.append(
            "*at these rates*: other learning rates may give another verdict, as no trials here chose those of both methods."
        )
    if apart := [verdict.pairs for verdict in verdicts if verdict.apart]:
        seeds = min(apart)
        items.append(
            "*runs of two kinds*: some runs collapsed, or stand apart more than normal scores do. No p of such a "
            f"comparison is below 2 / 4ⁿ with n seeds ({least_p(seeds):.2g} with {seeds}); none is equivalent or non-inferior."
        )
    if cancelled := [verdict.cancelled for verdict in verdicts if verdict.cancelled is not None]:
        seen = any(one.excluded is not None for one in cancelled)
        brackets = "in brackets the rate that the method's runs in all places exclude at 95 %"
        items.append(
            "*unless … collapses in over x of runs*: so many collapses would cancel the claim, at the least difference that "
            f"its test leaves open; {brackets if seen else 'each is a score of 0'}. A claim of the margin is a verdict only if "
            f"a tenth is excluded, which takes {fewest_unseen(ALPHA)} seeds, and more in a family; before, it stands behind "
            "*inconclusive*."
        )
    return TextList(items)


def reaches_none(verdicts: Sequence[Verdict]) -> list[str]:
    """Return an item of a legend where a difference is shown beside an interval that has no difference in it."""
    shown = [one.simultaneous for one in verdicts if one.verdict in ("better", "worse")]
    beside = any(own is not None and own.low <= 0 <= own.high for own in shown)
    said = "its interval reaches 0: *better* and *worse* follow *p* (Holm), which shows more than such intervals do"
    return [f"A difference may be shown though {said} (Bonferroni)."] if beside else []


def _tables(judged: Judged) -> list[Block]:
    where, flips_p, at_floor = ["task", "base model", "method"], "p of sign flips", "failures at the floor"
    choice, rates = "SD of the choice", not judged.comparison.scores_alone
    told, sure = [], []
    for held in judged.held:
        name = [setting_name(held.setting, judged.comparison), model_name(held.table), method_name(held.row)]
        covers = "seeds, items" if held.with_items else "seeds"
        difference, interval, covers, verdict, p_value, needed = numbers(held.verdict, covers, rates=rates)
        sd, seeds, looks = text.score(held.verdict.choice_sd), held.difference.pairs, judged.analysis.seeds
        look = "" if looks is None else f" (look {1 + bisect_left(looks.looks[:-1], seeds)} of {len(looks.looks)})"
        told.append([*name, f"{seeds}{look}", difference, interval, sd, verdict, needed])
        flips = held.difference.sign_flip
        of_flips = text.probability(flips.p_value if flips is not None else None)
        sure.append([*name, covers, p_value, of_flips, text.difference(held.at_floor)])
    optional = {"base model", flips_p, at_floor}
    further = known_columns([*where, "covers", "p", flips_p, at_floor], sure, optional)
    header = [*where, "seeds", "difference", "interval", choice, "verdict", "would decide"]
    return [
        TextTable(*known_columns(header, told, {"base model", choice}), numbers_from=3),
        Fold("How sure each comparison is", [TextTable(*further, numbers_from=3)]),
    ]


def numbers(verdict: Verdict, covers: str, *, rates: bool = True) -> list[str]:
    """Return the cells of a comparison: difference, interval, its coverage, verdict, p, and the seeds that would decide."""
    found = verdict.needed
    seeds = [] if found is None else [f"{found.seeds} (a{'n' * (found.by == 'equivalence')} {found.by})"]
    items = [] if verdict.needed_items is None else [f"{text.count(verdict.needed_items)} test items"]
    return [
        text.difference(verdict.difference),
        text.ends(verdict.simultaneous, text.difference),
        covers,
        verdict_words(verdict, rates=rates),
        text.probability(verdict.adjusted_p),
        " or ".join([*seeds, *items]) or MISSING,
    ]


def verdict_words(verdict: Verdict, *, rates: bool = True) -> str:
    """Return a verdict in a cell of a table, with *rates* also if it holds at these learning rates alone."""
    if verdict.reason is not None and verdict.interval is None:
        return f"{verdict.verdict} ({'one seed' if verdict.pairs == 1 else 'no spread'})"
    if verdict.p_value is None and verdict.pairs < FEWEST_PAIRS:
        return f"{verdict.verdict} (no test below {FEWEST_PAIRS} seeds)"
    decided = verdict.verdict in DECIDED
    word = f"**{verdict.verdict}**" if decided else verdict.verdict
    if verdict.small_but_real is not None:
        word += f", and slightly {verdict.small_but_real}"
    elif verdict.unless_collapse is not None:
        word += f"; {verdict.unless_collapse}"
    elif verdict.beyond_margin:
        word += " by more than the margin"
    if not verdict.decides:
        return word
    if verdict.cancelled is not None:
        who = "it" if verdict.cancelled.of_first else "the reference"
        known = verdict.cancelled.excluded
        excluded = f" ({rate_words(known, up=True)} excluded)" if known is not None else ""
        word += f" unless {who} collapses in over {rate_words(verdict.cancelled.rate)} of runs{excluded}"
    elif verdict.verdict == "inconclusive":
        word += " unless some runs collapse"
    return f"{word}, at these rates" if verdict.choice_sd is None and rates else word


def without_result(judged: Judged) -> list[str]:
    """Return sentences on runs that failed or learned nothing, where they are many of all runs or of a method's."""
    found, every = judged.ends, judged.all_ends
    said = []
    for kind, words in (("failed", "ended without a score"), ("fallen", "did no better than a constant answer")):
        of_methods = {
            code(label): (number, one.runs)
            for label, one in found.items()
            if (number := getattr(one, kind)) > 1 and number >= MANY * one.runs
        }
        if getattr(every, kind) >= MANY * every.runs:
            some = f", {text.listed([f'{number} of {label}' for label, (number, _) in of_methods.items()])}"
            all_alike = len(of_methods) in (0, len(found))
            said.append(f"{getattr(every, kind)} of {every.runs} runs {words}{'' if all_alike else some}")
        elif of_methods:
            some = text.listed([f"{number} of {runs} runs of {label}" for label, (number, runs) in of_methods.items()])
            said.append(f"{some} {words}")
    return said


def _collapses(judged: Judged) -> list[Block]:
    """Count the runs of each method that diverged, or learned nothing."""
    found = judged.ends
    if not any(one.diverged or one.fallen for one in found.values()):
        return []
    rows = [
        [code(label), str(one.runs), _rate(one.diverged, one.runs), _rate(one.fallen, one.runs)]
        for label, one in found.items()
    ]
    return [
        Heading(3, "Runs that learned nothing"),
        "Runs whose loss was no number, and runs that scored less than two standard errors better than a constant answer (the "
        "majority class or the mean), with exact 95 % intervals. The second kind is in every mean on this page.",
        TextTable(["method", "runs", "diverged", "no better than a constant"], rows),
    ]


def _rate(count: int, runs: int) -> str:
    found = rate(count, runs)
    return f"{count} ({found.low:.0%} to {found.high:.0%})".replace("%", " %")


def rank_words(rank: Rank | None) -> str:
    """Return the ranks that shown differences leave a method, and the letters of its groups."""
    if rank is None:
        return MISSING
    ranks = str(rank.best) if rank.best == rank.worst else f"{rank.best} to {rank.worst}"
    return f"{ranks} ({rank.letters})"


def place_words(ranks: Sequence[Rank]) -> str:
    """Return the places that shown differences leave a method, such as "2 to 5 of 9"; of several base models each."""
    places = [f"{rank.best}{f' to {rank.worst}' * (rank.worst > rank.best)} of {rank.of}" for rank in ranks]
    return "; ".join(dict.fromkeys(places)) or MISSING


def rank_note(judged: Judged) -> str:
    """Return an item of the legend: the claim of a column of ranks."""
    percent = f"{100 * (1 - 2 * judged.analysis.alpha):g}"
    return (
        "*ranks*: the ranks that the shown differences leave open, and in brackets groups of ties. Two methods share a "
        "letter if no difference between them is shown. These are the ranks not ruled "
        f"out, with {percent} % probability for all together."
    )
