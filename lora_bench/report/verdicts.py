"""What a report says of verdicts: three sentences at its top, a table of every comparison, and what they rest on.

The sentences count verdicts and name what they are of; they say nothing that a row of the table does not.
"""

from __future__ import annotations

from collections import Counter

from lora_bench.report import text
from lora_bench.report.judging import Held, Judged
from lora_bench.report.tables import method_name, model_name, setting_name
from lora_bench.report.text import MISSING, code, inert, listed, plural
from lora_bench.stats import Verdict, collapsed, rate
from lora_bench.stats.verdict import FEWEST_PAIRS

# The share of runs without a result from which on the answer says so.
MANY = 0.1

DECIDED = ("better", "worse", "equivalent", "non-inferior")

_GRADES = {
    "exploratory": "exploratory: a hint where to look, and no ground to choose a method",
    "indicative": "indicative: worth a repeat with ten seeds",
    "recommendation": "ten or more seeds each, enough to choose by",
}


def answer(judged: Judged) -> list[str]:
    """The answer, in three sentences."""
    return [
        "## The answer",
        "",
        " ".join((_what_was_compared(judged), _how_it_came_out(judged), _how_far_to_trust(judged))),
    ]


def _what_was_compared(judged: Judged) -> str:
    labels = dict.fromkeys(code(held.row.label) for held in judged.held)
    tasks = {held.setting.spec.task.name for held in judged.held}
    models = {held.table.model.shown for held in judged.held}
    declared = {
        "before": "by rules declared before the runs",
        "changed": "by rules that were changed after some of the runs",
        "never": "by default rules, since none were declared before the runs",
    }
    several = len(judged.held)
    return (
        f"{listed([*labels])} {'was' if len(labels) == 1 else 'were'} held against {code(judged.analysis.reference)} on "
        f"{plural(len(tasks), 'task')} and {plural(len(models), 'base model')}, "
        f"{'a single comparison' if several == 1 else f'{several} comparisons'}, {declared[judged.declared]}."
    )


def _how_it_came_out(judged: Judged) -> str:
    return _decided(judged) + _nothing_learned(judged)


def _nothing_learned(judged: Judged) -> str:
    """What a reader must know before any verdict: that many runs learned nothing that the majority class does not say."""
    counted = _counted(judged).values()
    runs, fallen = sum(one[0] for one in counted), sum(one[2] for one in counted)
    if fallen < MANY * runs:
        return "."
    return f", and {fallen} of {runs} runs scored no better than the majority class (or the mean)."


def _decided(judged: Judged) -> str:
    by_label: dict[str, Counter[str]] = {}
    for held in judged.held:
        by_label.setdefault(held.row.label, Counter())[held.verdict.verdict] += 1
    if not any(held.verdict.verdict in DECIDED for held in judged.held):
        several = len(judged.held) > 1
        not_one = "Not one of them is decided" if several else "It is not decided"
        most = max(held.difference.pairs for held in judged.held)
        if most < FEWEST_PAIRS:
            return (
                f"{not_one}: {plural(most, 'seed')} of each method {'is' if most == 1 else 'are'} too few for a verdict"
            )
        shown = "judged together they show neither a difference" if several else "neither a difference is shown,"
        return f"{not_one}: {shown} nor that one is too small to matter"
    said = []
    for label, counts in by_label.items():
        words = [f"{word} in {counts[word]}" for word in DECIDED if counts[word]]
        open_ones = f"undecided in {counts['inconclusive']}" if counts["inconclusive"] else ""
        said.append(f"{code(label)} is {listed([*words, *([open_ones] if open_ones else [])])} of {counts.total()}")
    return f"Against {code(judged.analysis.reference)}, {'; '.join(said)}"


def _how_far_to_trust(judged: Judged) -> str:
    pairs = sorted({held.difference.pairs for held in judged.held})
    seeds = f"{pairs[0]}" if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
    grades = list(
        dict.fromkeys(held.verdict.grade for held in sorted(judged.held, key=lambda one: one.difference.pairs))
    )
    said = f"With {seeds} seeds a method these verdicts are {_GRADES[grades[0]]}"
    open_ones = [held for held in judged.held if held.verdict.verdict == "inconclusive"]
    needed = sorted(held.verdict.needed.seeds for held in open_ones if held.verdict.needed is not None)
    if needed and open_ones:
        middle = needed[(len(needed) - 1) // 2]
        if len(open_ones) == 1:
            return f"{said}; to decide it would take about {middle} seeds."
        if len(needed) == len(open_ones):
            return f"{said}; to decide half of the {len(open_ones)} undecided would take about {middle} seeds."
        return (
            f"{said}; of the {len(open_ones)} undecided, {len(needed)} {'has' if len(needed) == 1 else 'have'} an estimate of "
            f"the seeds that would decide, {middle} in the middle."
        )
    return f"{said}."


def verdict_lines(judged: Judged) -> list[str]:
    """The section with every comparison."""
    margins = dict.fromkeys(
        f"{held.verdict.margin:g}" if held.verdict.margin is not None else "none" for held in judged.held
    )
    lines = [
        "## Verdicts",
        "",
        f"Every method against {code(judged.analysis.reference)}, seed by seed. All {len(judged.held)} comparisons are one "
        f"family, in which a verdict of better or worse is false anywhere with a probability of at most "
        f"{judged.analysis.alpha:g} (Holm). The margin below which a difference does not matter is {listed([*margins])}, in "
        "the unit of the score.",
        "",
        _declaration(judged),
        "",
        *LEGEND,
        "",
        *_table(judged),
    ]
    if judged.across:
        lines += ["", "### Over tasks", "", *_across(judged)]
    lines += _collapses(judged)
    if judged.left_out:
        lines += ["", "Not judged:", "", *(f"- {inert(reason)}." for reason in judged.left_out)]
    return lines


def _declaration(judged: Judged) -> str:
    name = code(judged.analysis.sha256[:16])
    if judged.declared == "before":
        return f"These rules were declared before the runs, whose records carry them ({name})."
    if judged.declared == "changed":
        return (
            f"**These rules ({name}) are not those under which all of these runs were made: they were changed afterwards**, "
            "and with scores at hand rules can be chosen to please."
        )
    return "No rules were declared before these runs, so these are the defaults."


LEGEND = """\
- *difference*: the method less the reference, mean over seeds. *interval*: at 95 %, for this comparison alone; of the one
  over seeds and the one over seeds and test items the wider, and *covers* says whether items could enter.
- *better*, *worse*: a difference is shown; *equivalent*: it is shown to be smaller than the margin; *non-inferior*: it is
  shown not to be worse by the margin. *inconclusive* is none of these, and never means that two methods are equal; of *no
  spread* are differences that are the same at every seed, which tells nothing of how far those of others would lie.
- *p*: of no difference, after Holm's procedure. *p of sign flips*: of the permutation test that assumes no distribution,
  of this comparison alone, from six seeds on; it changes no verdict.
- *would decide*: seeds with which the difference that was seen, if it is the true one, would be decided with a
  probability of 80 %.""".splitlines()


def _table(judged: Judged) -> list[str]:
    several = any(held.at_floor is not None for held in judged.held)
    flipped = any(held.difference.sign_flip is not None for held in judged.held)
    header = [
        "task",
        "base model",
        "method",
        "seeds",
        "difference",
        "interval",
        "covers",
        "verdict",
        "p",
        "would decide",
    ]
    if flipped:
        header.insert(-1, "p of sign flips")
    if several:
        header.append("failures at the floor")
    rows = []
    for held in judged.held:
        row = [
            setting_name(held.setting, judged.comparison), model_name(held.table), method_name(held.row),
            str(held.difference.pairs), *numbers(held.verdict, "seeds, items" if held.items is not None else "seeds"),
        ]  # fmt: skip
        if flipped:
            flips = held.difference.sign_flip
            row.insert(-1, _probability(flips.p_value if flips is not None else None))
        if several:
            row.append(text.difference(held.at_floor))
        rows.append(row)
    return text.table(header, rows, numbers_from=3)


def numbers(verdict: Verdict, covers: str) -> list[str]:
    """The cells of a comparison: difference, interval, what it covers, verdict, p, and the seeds that would decide."""
    interval = verdict.interval
    return [
        text.difference(verdict.difference),
        MISSING if interval is None else f"{text.difference(interval.low)} to {text.difference(interval.high)}",
        covers,
        verdict_words(verdict),
        _probability(verdict.adjusted_p),
        MISSING
        if verdict.needed is None
        else f"{verdict.needed.seeds} (a {verdict.needed.by})".replace("a equivalence", "an equivalence"),
    ]


def verdict_words(verdict: Verdict) -> str:
    """A verdict in a cell of a table."""
    if verdict.reason is not None and verdict.interval is None:
        return f"{verdict.verdict} ({'one seed' if verdict.pairs == 1 else 'no spread'})"
    if verdict.small_but_real is not None:
        return f"**equivalent**, and slightly {verdict.small_but_real}"
    word = f"**{verdict.verdict}**" if verdict.verdict in DECIDED else verdict.verdict
    return f"{word} by more than the margin" if verdict.beyond_margin else word


def _across(judged: Judged) -> list[str]:
    rows = [
        [
            inert(one.model, 80), code(one.label), str(len(one.difference.tasks)), str(one.difference.pairs),
            *numbers(one.verdict, "seeds, items" if one.difference.crossed is not None else "seeds"),
            f"{one.difference.wins} of {len(one.difference.tasks)}",
        ]
        for one in judged.across
    ]  # fmt: skip
    header = ["base model", "method", "tasks", "seeds", "difference", "interval", "covers", "verdict", "p", "would decide",
              "tasks with a higher mean"]  # fmt: skip
    return [
        f"The mean difference to {code(judged.analysis.reference)} over tasks, each of which counts alike, in points of its "
        "score. It is of these tasks and no others. These comparisons are a family of their own.",
        "",
        *text.table(header, rows, numbers_from=2),
    ]


def _counted(judged: Judged) -> dict[str, tuple[int, int, int]]:
    """Of each method the runs that were judged, those that diverged, and those that scored no better than the majority."""
    counted: dict[str, tuple[int, int, int]] = {}
    seen: set[tuple[str, ...]] = set()
    for held in judged.held:
        better = bool(held.setting.spec.task.higher_is_better)
        for row in (held.row, held.reference):
            if row.run_ids in seen:
                continue
            seen.add(row.run_ids)
            scores = {index: score.value for index, score in enumerate(row.scores)}
            floor = row.majority_score
            fallen = len(collapsed(scores, floor, higher_is_better=better)) if floor is not None else 0
            diverged = sum(failure.status == "diverged" for failure in row.failures)
            before = counted.get(row.label, (0, 0, 0))
            counted[row.label] = (before[0] + len(row.run_ids), before[1] + diverged, before[2] + fallen)
    return counted


def _collapses(judged: Judged) -> list[str]:
    """How many runs of each method failed, or scored no better than the majority class."""
    counted = _counted(judged)
    if not any(diverged or fallen for _, diverged, fallen in counted.values()):
        return []
    rows = [
        [code(label), str(runs), _rate(diverged, runs), _rate(fallen, runs)]
        for label, (runs, diverged, fallen) in counted.items()
    ]
    return [
        "",
        "### Runs that came to nothing",
        "",
        "Runs whose loss was no number, and runs that scored no better than the majority class (or the mean), with exact 95 % "
        "intervals. The latter are in every mean on this page.",
        "",
        *text.table(["method", "runs", "diverged", "no better than the majority"], rows),
    ]


def _rate(count: int, runs: int) -> str:
    found = rate(count, runs)
    return f"{count} ({found.low:.0%} to {found.high:.0%})".replace("%", " %")


def _probability(value: float | None) -> str:
    if value is None:
        return MISSING
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def verdict_cell(held: Held | None) -> str:
    """The verdict on a row, for the table of scores; a dash for the reference."""
    return MISSING if held is None else verdict_words(held.verdict)
