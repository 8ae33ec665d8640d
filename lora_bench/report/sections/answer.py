"""The verdicts of a report in words: paragraphs of its page, and for a paper a paragraph on methods and a note below a table.

Those of the page say nothing that the headline says already, or that a row of a table below does not.
"""

from collections import Counter
from collections.abc import Sequence

from lora_bench.metrics import default_margin
from lora_bench.report.model.judged import Held, Judged
from lora_bench.report.model.overview import DECIDED, UNLESS_COLLAPSE, shown_verdict
from lora_bench.report.model.reference import NOTHING_ASKED
from lora_bench.report.model.rows import grouped
from lora_bench.report.text import code, listed, percent, plural, plural_span
from lora_bench.stats.looks import LAST
from lora_bench.stats.verdict import FEWEST_PAIRS, Grade

_GRADES: dict[Grade, str] = {
    "recommendation": "carry a recommendation for these tasks and base models",
    "indicative": "are indicative: repeat them with ten seeds",
    "exploratory": "are exploratory: a hint; confirm with more seeds before choosing",
}


def answer(judged: Judged, pooled: bool = False) -> list[str]:
    """Return the paragraphs; if *pooled*, a section on new tasks has claims too."""
    scope = "; ".join([*_grades(judged.held), scope_words(judged.held)])
    return [
        f"{comparison_words(judged)}{_any_false_claim(judged, pooled)}",
        *_shared_runs(judged),
        f"{scope[0].upper()}{scope[1:]}.",
    ]


def comparison_words(judged: Judged) -> str:
    """Return the methods that were compared, where, and by which rules."""
    labels: dict[str, str] = {}
    for held in judged.held:
        free = held.row.exempt and held.setting.parameter_target is not None
        labels[held.row.label] = code(held.row.label) + (" (exempt from the parameter budget)" if free else "")
    tasks = {held.setting.spec.task.name for held in judged.held}
    models = {(held.table.model.shown, held.table.weights) for held in judged.held}
    targets = {held.setting.parameter_target for held in judged.held}
    exempt = any(held.reference.exempt and held.setting.parameter_target is not None for held in judged.held)
    reference = code(judged.analysis.reference) + (" (exempt from the parameter budget)" if exempt else "")
    where = f"on {plural(len(tasks), 'task')}"
    where += f" and {plural(len(models), 'base model')}" if any(shown for shown, _ in models) else ""
    if len(targets) > 1:
        where += f" at {len(targets)} parameter targets"
    number = len(judged.held)
    level = f"an error level of {judged.analysis.alpha:g}"
    several = f"{number} comparisons with {level} over all of them (Holm)"
    family = several if number > 1 else f"one comparison with {level}"
    return (
        f"{listed([*labels.values()])} {'was' if len(labels) == 1 else 'were'} compared with {reference} {where}, paired by "
        f"seed: {family} and {margin_words(judged.held)}, {rules_words(judged)}.{_looks(judged)}"
    )


def rules_words(judged: Judged) -> str:
    """Return the rules of the comparisons, and when they were declared."""
    if judged.asked != NOTHING_ASKED:
        return f"by {asked_words(judged)}, asked afterwards"
    sha256 = code(judged.analysis.sha256[:16])
    declared = {
        "before": f"by rules declared before the runs ({sha256}, in all records)",
        "several": f"by the rules of most runs ({sha256}), of several that their suites declared",
        "added": f"by rules declared before the runs, those of most being {sha256}, with seeds added after verdicts",
        "changed": f"by rules ({sha256}) that were changed after some of the runs",
        "never": "by default rules, none declared before the runs",
    }
    return declared[judged.declared]


def asked_words(judged: Judged) -> str:
    """Return what a reader asks in place of the declared rules."""
    margin, alpha = judged.asked.margin, judged.asked.alpha
    asked = [] if margin is None else [f"margin of {margin:g}"]
    return f"a reader's {listed([*asked, *([] if alpha is None else [f'error level of {alpha:g}'])])}"


def _any_false_claim(judged: Judged, pooled: bool) -> str:
    """Return the chance of any false claim on a page, whose families of claims have the error level each."""
    margins = [any(one.margin is not None for one in judged.verdicts)]
    in_places = [True, *margins, bool(judged.ranks)]
    over_tasks = [True, *margins, any(one.rank is not None for group in judged.over_tasks for one in group.methods)]
    number = sum(in_places) + (sum(over_tasks) if judged.over_tasks else 0) + pooled
    most = percent(judged.analysis.alpha * number, 0)
    ranked = in_places[-1] or over_tasks[-1]
    kinds = f"differences{', margins and ranks' if ranked else ' and margins'}" + (
        ", in each place and over tasks," if judged.over_tasks else ""
    )
    kinds += " and differences on new tasks" if pooled else ""
    return f" With {kinds} the chance of any false claim on this page is at most {most}."


def _looks(judged: Judged) -> str:
    rule = judged.analysis.seeds
    if rule is None or len(rule.looks) == 1:
        return ""
    each = (1 - LAST) / (len(rule.looks) - 1)
    limit = f" No seeds were added for which {rule.minutes:g} minutes were too few." if rule.minutes is not None else ""
    return (
        f" Seeds were added until a comparison was decided, after looks at {listed([str(look) for look in rule.looks])} seeds: "
        f"the last look has {LAST:.0%} of the error level, each other {each:.1%} of it.{limit}"
    )


def margin_words(held: Sequence[Held]) -> str:
    """Return the margins of some comparisons, with their unit."""
    margins = dict.fromkeys(one.verdict.margin for one in held)
    known = sorted(margin for margin in margins if margin is not None)
    if not known:
        return "no margin"
    judged = [one.setting.spec.task.metric for one in held if one.verdict.margin is not None]
    shares = all(default_margin(metric) is not None for metric in judged)
    values = listed([f"{margin:g}" for margin in known])
    points = [f"{100 * margin:g}" for margin in known]
    of_100 = f"{listed(points)} {'point' if points == ['1'] else 'points'} of 100"
    unit = of_100 if shares else "in the unit of the score"
    some = "" if None not in margins else ", and none where no margin was declared"
    return f"{'a margin' if len(known) == 1 else 'margins'} of {values} ({unit}{some})"


def _shared_runs(judged: Judged) -> list[str]:
    """Return a note that a method exempt from several targets has one set of runs for all of them."""
    compared: dict[str, int] = Counter(held.row.label for held in judged.held if held.row.exempt)
    reference, said = code(judged.analysis.reference), []
    for label, number in compared.items():
        sets = len({held.row.run_ids for held in judged.held if held.row.label == label})
        if sets < number:
            runs = f"{plural(sets, 'set')} of runs"
            said.append(f"{code(label)} has {runs}, compared with {reference} at each of its sizes")
    return [f"{'; '.join(said)}."] if said else []


def _grades(held: Sequence[Held]) -> list[str]:
    """Return the numbers of seeds behind verdicts, and their worth, where comparisons differ in it."""
    grades = grouped(held, lambda one: one.verdict.grade)
    found = {grade: grades[grade] for grade in _GRADES if grade in grades}
    if len(found) == 1:
        unless = "recommendation" in found and any(shown_verdict(one.verdict) in UNLESS_COLLAPSE for one in held)
        return ["verdicts that hold only if few runs collapse are indicative"] if unless else []
    said = [
        f"{len(of)} ({sum(one.verdict.verdict in DECIDED for one in of)} decided) rest on {seeds_words(of)} a method and "
        f"{_GRADES[grade]}"
        for grade, of in found.items()
    ]
    return [f"Of these verdicts {'; '.join(said)}"]


def seeds_words(held: Sequence[Held]) -> str:
    """Return the numbers of seeds that were compared."""
    return plural_span([one.difference.pairs for one in held], "seed")


def scope_words(held: Sequence[Held]) -> str:
    """Return what the intervals of differences cover."""
    with_items = sum(one.difference.crossed is not None for one in held)
    if with_items == len(held):
        new = "new seeds and new test items"
    elif with_items:
        new = f"new seeds, and in {with_items} of {len(held)} comparisons new test items"
    else:
        folds = all(one.difference.estimate.overlap for one in held)
        new = "other folds of these rows" if folds else "new seeds on these test items"
    if all(one.verdict.choice_sd is not None for one in held):
        return f"the intervals cover {new} and another choice of learning rates, not new data sets or base models"
    others = "data sets or base models" if held[0].setting.scores_alone else "data sets, base models or learning rates"
    return f"the intervals cover {new}, not new {others}"


def methods_paragraph(judged: Judged, pooled: bool = False) -> str:
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
        "Differences on new tasks have tasks and base models as random effects (Henderson 1953, doi:10.2307/3001853), and are "
        "one more family.": pooled,
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
