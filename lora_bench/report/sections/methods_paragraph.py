"""What a paper says of a report's comparisons: a paragraph on the methods, and the rules for the note below a table."""

from lora_bench.report.model.judged import Judged
from lora_bench.report.sections.answer import comparison_words, margin_words, rules_words, scope_words, seeds_words
from lora_bench.report.text import plural
from lora_bench.stats.verdict import FEWEST_PAIRS


def methods_paragraph(judged: Judged) -> str:
    """Return the paragraph: comparison, tests with their sources, families, intervals and ranks."""
    verdicts, differences = [held.verdict for held in judged.held], [held.difference for held in judged.held]
    several, margins = len(verdicts) > 1, any(verdict.margin is not None for verdict in verdicts)
    chosen = [verdict.choice_sd is not None for verdict in verdicts]
    looks, level = judged.declarations, f"{100 * (1 - 2 * judged.analysis.alpha):g} %"
    shaffer = (
        "these claims are a second family (Shaffer 1986, doi:10.1080/01621459.1986.10478341) and" if several else "they"
    )
    holm = ", by Holm's procedure over all comparisons (Holm 1979, JSTOR 4615733)" if several else ""
    cancelled = [one.cancelled for one in verdicts if one.cancelled is not None]
    excluded = (
        " and the one that the method's runs exclude at 95 % (Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404)"
    )
    known = f",{excluded}" if any(one.excluded is not None for one in cancelled) else ""
    sentences = {
        comparison_words(judged): True,
        _tests(judged): True,
        f"Seeds were added after verdicts, so p-values are multiplied by the number of looks, {looks}.": (
            judged.declared == "added"
        ),
        "Each seed tests a fold of its own.": any(difference.estimate.overlap for difference in differences),
        f"A method is better or worse where a two-sided test shows a difference of any size{holm}.": True,
        "It is equivalent where two one-sided tests put the difference within the margin (Schuirmann 1987, "
        f"doi:10.1007/BF01068419), non-inferior where one of them does; {shaffer} also exclude that a method collapses in a "
        "tenth of its runs.": margins,
        "Sign-flip tests (Fisher 1935, The Design of Experiments) stand beside and change no verdict.": any(
            difference.sign_flip is not None for difference in differences
        ),
        f"No verdict is made of fewer than {FEWEST_PAIRS} seeds.": any(one.pairs < FEWEST_PAIRS for one in verdicts),
        "Where runs collapsed or stand apart, no p-value of n seeds is below 2 / 4ⁿ and no margin is claimed.": any(
            verdict.apart for verdict in verdicts
        ),
        "Standard errors include the choice of learning rates, from repeats of its search"
        f"{'' if all(chosen) else ', where trials here made it'}.": any(chosen),
        f"Beside a claim stands the rate of collapses that would cancel it{known}.": bool(cancelled),
        f"{_intervals(judged)}.": True,
        "Means over tasks weigh tasks alike, draw seeds for all tasks at once, and are families of their own.": bool(
            judged.over_tasks
        ),
        f"Ranks are those that the shown differences leave open, together with {level} probability (Al Mohamad, Goeman and "
        "van Zwet 2022, Biometrics 78); methods share a letter where no difference between them is shown (Piepho 2004, "
        "doi:10.1198/1061860043515).": bool(judged.ranks),
    }
    return " ".join(sentence for sentence, used in sentences.items() if used)


def _tests(judged: Judged) -> str:
    with_items, number = sum(held.difference.crossed is not None for held in judged.held), len(judged.held)
    each = f"Each comparison is of {seeds_words(judged.held)} a method;"
    if not with_items:
        return f"{each} tests and intervals are Student's t over the differences of seeds."
    some = "" if with_items == number else f", in {with_items} of {number} comparisons,"
    return (
        f"{each} its p-value is the larger and its interval the wider of Student's t over the differences of seeds and{some} "
        "of a crossed bootstrap of seeds and test items (Owen 2007, arXiv:0712.1111; Sellam et al. 2022, arXiv:2106.16163)."
    )


def _intervals(judged: Judged) -> str:
    together = " for all together (Bonferroni)" if len(judged.held) > 1 else ""
    confidence = f"{100 * (1 - judged.analysis.alpha):g} %"
    return f"Intervals of differences are at {confidence}{together}, those of single scores at 95 % by Student's t over seeds"


def table_note(judged: Judged | None) -> str:
    """Return the rules of the comparisons: seeds, error level, margin, kind of interval, and when they were declared."""
    if judged is None:
        return "Nothing was tested; bold marks nothing."
    comparisons = plural(len(judged.held), "comparison") + (" (Holm)" if len(judged.held) > 1 else "")
    return (
        f"Rules: {seeds_words(judged.held)} a method, paired by seed; error level {judged.analysis.alpha:g} over "
        f"{comparisons}; {margin_words(judged.held)}. {_intervals(judged)}; of differences, {scope_words(judged.held)}. "
        f"Judged {rules_words(judged)}. Bold marks what is shown."
    )
