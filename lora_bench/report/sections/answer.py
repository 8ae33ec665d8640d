"""The verdicts of a report in two or three paragraphs: the comparison, runs that are compared twice, and its scope.

They say nothing that the headline says already, or that a row of a table below does not.
"""

from collections import Counter
from collections.abc import Sequence

from lora_bench.metrics import default_margin
from lora_bench.report.model.judged import Held, Judged
from lora_bench.report.model.overview import DECIDED, UNLESS_COLLAPSE, shown_verdict
from lora_bench.report.model.reference import NOTHING_ASKED
from lora_bench.report.model.report import Level
from lora_bench.report.model.rows import grouped
from lora_bench.report.text import code, listed, percent, plural, plural_span
from lora_bench.stats.looks import LAST
from lora_bench.stats.verdict import Grade

_GRADES: dict[Grade, str] = {
    "recommendation": "carry a recommendation for these tasks and base models",
    "indicative": "are indicative: repeat them with ten seeds",
    "exploratory": "are exploratory: a hint; confirm with more seeds before choosing",
}


def answer(judged: Judged, level: Level | None = None) -> list[str]:
    """Return the paragraphs; below a headline of *level* "partly" the last one says the grade of single verdicts too."""
    scope = "; ".join([*_grades(judged.held, level), scope_words(judged.held)])
    return [
        f"{comparison_words(judged)}{_any_false_claim(judged)}",
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


def _any_false_claim(judged: Judged) -> str:
    """Return the chance of any false claim on a page, whose families of claims have the error level each."""
    margins = [any(one.margin is not None for one in judged.verdicts)]
    in_places = [True, *margins, bool(judged.ranks)]
    over_tasks = [True, *margins, any(one.rank is not None for group in judged.over_tasks for one in group.methods)]
    number = sum(in_places) + (sum(over_tasks) if judged.over_tasks else 0)
    most = percent(judged.analysis.alpha * number, 0)
    kinds = "differences, margins and ranks" + (", in each place and over tasks," if judged.over_tasks else "")
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


def _grades(held: Sequence[Held], level: Level | None) -> list[str]:
    """Return the number of seeds behind verdicts, and their worth, where comparisons differ in it or the headline has none."""
    grades = grouped(held, lambda one: one.verdict.grade)
    found = {grade: grades[grade] for grade in _GRADES if grade in grades}
    if len(found) == 1:
        (grade,) = found
        unless = grade == "recommendation" and any(shown_verdict(one.verdict) in UNLESS_COLLAPSE for one in held)
        but = "; those that hold only if few runs collapse are indicative" if unless else ""
        return [f"with {seeds_words(held)} a method these verdicts {_GRADES[grade]}{but}"] if level == "partly" else []
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
        new = "new seeds on these test items"
    if all(one.verdict.choice_sd is not None for one in held):
        return f"the intervals cover {new} and another choice of learning rates, not new data sets or base models"
    others = "data sets or base models" if held[0].setting.scores_alone else "data sets, base models or learning rates"
    return f"the intervals cover {new}, not new {others}"
