"""What a report says of verdicts: a table of every comparison, its words, and what they rest on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lora_bench.report import text
from lora_bench.report.model.ranking import Rank
from lora_bench.report.model.verdicts import Held, Judged
from lora_bench.report.sections.tables import method_name, model_name, setting_name
from lora_bench.report.text import MISSING, code, inert, listed
from lora_bench.stats import Verdict, collapsed, rate
from lora_bench.stats.apart import fewest_unseen, least_p
from lora_bench.stats.power import ALPHA
from lora_bench.stats.verdict import VerdictName

DECIDED: tuple[VerdictName, ...] = ("better", "worse", "equivalent", "non-inferior")


def verdict_lines(judged: Judged) -> list[str]:
    """The section with every comparison."""
    margins = dict.fromkeys(
        f"{held.verdict.margin:g}" if held.verdict.margin is not None else "none" for held in judged.held
    )
    alone = (
        "The only comparison has"
        if len(judged.held) == 1
        else f"All {len(judged.held)} comparisons are one family with"
    )
    lines = [
        "## Verdicts",
        "",
        f"Every method against {code(judged.analysis.reference)}, seed by seed. {alone} an error level of "
        f"{judged.analysis.alpha:g}: that any verdict of better or worse is false has at most this probability (Holm), and so "
        f"has that any of equivalent or non-inferior is. The margin below which a difference does not matter is "
        f"{listed([*margins])}, in the unit of the score. {_SCOPE}",
        "",
        _declaration(judged),
        "",
        *LEGEND,
        *collapse_legend([held.verdict for held in judged.held]),
        "",
        *_table(judged),
        *_collapses(judged),
    ]
    if judged.left_out:
        lines += ["", "Not judged:", "", *(f"- {inert(reason)}." for reason in judged.left_out)]
    return lines


_SCOPE = (
    "Tasks, base models, the split of the data and learning rates are taken as given: what others of them would show is in no "
    "interval."
)


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


def collapse_legend(verdicts: Sequence[Verdict]) -> list[str]:
    """Items of the legend for verdicts that collapses limit; none where no verdict is limited."""
    lines = []
    if apart := [verdict.pairs for verdict in verdicts if verdict.apart]:
        seeds = min(apart)
        lines += [
            "- *runs of two kinds*: some runs collapsed, or stand apart more than normal scores do. By chance all runs of one",
            "  method may be of one kind and all of another method of the other. So no p of such a comparison is below 2 / 4ⁿ",
            f"  with n seeds ({least_p(seeds):.2g} with {seeds}), and none is called equivalent or non-inferior.",
        ]
    if any(verdict.unless_collapse is not None for verdict in verdicts):
        lines += [
            "- *unless runs collapse*: this many seeds do not exclude that a method collapses in a tenth of its runs. It takes",
            f"  {fewest_unseen(ALPHA)} seeds without a collapse in a single comparison, and more in a family.",
        ]
    return lines


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
    if verdict.unless_collapse is not None:
        return f"{word}; {verdict.unless_collapse} unless runs collapse"
    return f"{word} by more than the margin" if verdict.beyond_margin else word


class Counted(NamedTuple):
    """Runs of a method that were judged: all, those that failed, those of them that diverged, and with scores of no worth.

    Args:
        fallen: Those with a score that is no better than the majority class (or the mean).
    """

    runs: int = 0
    failed: int = 0
    diverged: int = 0
    fallen: int = 0


def counted(judged: Judged) -> dict[str, Counted]:
    """How the runs of each method ended, by label; those of a reference once."""
    found: dict[str, Counted] = {}
    seen: set[tuple[str, ...]] = set()
    for held in judged.held:
        better = bool(held.setting.spec.task.higher_is_better)
        for row in (held.row, held.reference):
            if row.run_ids in seen:
                continue
            seen.add(row.run_ids)
            scores = {index: score.value for index, score in enumerate(row.scores)}
            floor = row.majority_score
            before = found.get(row.label, Counted())
            found[row.label] = Counted(
                runs=before.runs + len(row.run_ids),
                failed=before.failed + len(row.failures),
                diverged=before.diverged + sum(failure.status == "diverged" for failure in row.failures),
                fallen=before.fallen
                + (len(collapsed(scores, floor, higher_is_better=better)) if floor is not None else 0),
            )
    return found


def _collapses(judged: Judged) -> list[str]:
    """How many runs of each method failed, or scored no better than the majority class."""
    found = counted(judged)
    if not any(one.diverged or one.fallen for one in found.values()):
        return []
    rows = [
        [code(label), str(one.runs), _rate(one.diverged, one.runs), _rate(one.fallen, one.runs)]
        for label, one in found.items()
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


def rank_words(rank: Rank | None) -> str:
    """The ranks that shown differences leave a method, and the letters of its groups."""
    if rank is None:
        return MISSING
    ranks = str(rank.best) if rank.best == rank.worst else f"{rank.best} to {rank.worst}"
    return f"{ranks} ({rank.letters})"


def rank_note(judged: Judged) -> str:
    """What a column of ranks claims, as an item of a legend."""
    alpha = judged.analysis.alpha
    reference = code(judged.analysis.reference)
    return (
        "- *ranks*: those that the shown differences leave a method among the methods of its table, and in brackets its "
        "groups: two methods share a letter exactly if no difference between them is shown, which never means that they are "
        f"equal, and a method may be in several groups. A difference to {reference} is shown where the verdict says so; "
        f"those between other methods are a family of their own, with an error level of {alpha:g} too (Holm). So with a "
        f"probability of {1 - 2 * alpha:g} or more all true ranks of these tables lie in those given here."
    )
