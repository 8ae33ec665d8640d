"""Other reports on the same data: how sure each is, and in what it differs from this one, all from the records of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from lora_bench.records.budget import AXES, amount_of
from lora_bench.report.model.comparison import Comparison
from lora_bench.report.model.report_model import ReportModel
from lora_bench.report.sections.advice import all_shown, any_of_names
from lora_bench.report.sections.chosen_rates import chosen_rates
from lora_bench.report.sections.headline import headline_of
from lora_bench.report.sections.tuning import untuned_tasks
from lora_bench.report.text import code, folded, inert, listed, plural

# With more reports than this, only what each says: their settings fill eight lines.
MOST_COMPARED = 3


def other_reports(model: ReportModel) -> list[str]:
    """A paragraph that names each report on the same data, and how it differs where they are few; empty without one."""
    every = [model, *model.others.values()]
    mine, facts = _data(model.comparison), _facts(model, every)
    related = [(name, other) for name, other in sorted(model.others.items()) if mine & _data(other.comparison)]
    said = []
    for name, other in related:
        differing = [
            f"{fact.said} (here {facts[kind].value})" if kind in facts else fact.said
            for kind, fact in _facts(other, every).items()
            if len(related) <= MOST_COMPARED
            and facts.get(kind) != fact
            and not (kind == "rates" and _chose(model, other))
        ]
        said.append(f"[{code(name)}]({quote(name)}.md): {', '.join([_kind(model, other), *differing])}")
    some = "some of " if any(mine - _data(other.comparison) for _, other in related) else ""
    if len(related) > MOST_COMPARED:
        return folded(f"{len(related)} other reports on {some}the same data", [f"{'; '.join(said)}."])
    return [f"**On {some}the same data:** {'; '.join(said)}."] if said else []


def _data(comparison: Comparison) -> set[str]:
    """The data of all settings, by content."""
    return {setting.spec.task.data_sha256 for setting in comparison.settings if setting.spec.task.data_sha256}


_LEVELS = {
    "recommendation": "a recommendation",
    "indicative": "an indicative answer",
    "exploratory": "an exploratory answer",
    "partly": "no winner shown",
    "undecided": "nothing decided",
    None: "no ranking",
}
_ADVISED = {
    "recommendation": "recommends {}", "indicative": "leans towards {}", "exploratory": "would try {} first",
}  # fmt: skip


def _kind(mine: ReportModel, other: ReportModel) -> str:
    """The kind of a report: the strength of its answer, or the purpose of its search."""
    if _searches(other):
        return "the search that chose the rates of this page" if _chose(other, mine) else "a search for learning rates"
    headline = headline_of(other.seen, other.records)
    level = _LEVELS[headline.level]
    if headline.advised and headline.level in _ADVISED:
        level = _ADVISED[headline.level].format(any_of_names(headline.advised))
        if len(headline.advised) == len(other.seen.methods) > 1:
            level = "the choice matters little"
        elif headline.ruled_out:
            level = f"only {listed([code(label) for label in headline.ruled_out])} shown to be worse"
    elif headline.level == "partly":
        lost = [code(line.label) for line in other.seen.methods if all_shown(line, ("worse",))]
        level += f", {listed(lost)} worse than {code(other.seen.reference)}" if lost else ""
    return f"{level} at the rates that this page chose" if _chose(mine, other) else level


def _searches(model: ReportModel) -> bool:
    return all(setting.search for setting in model.comparison.results)


def _chose(search: ReportModel, results: ReportModel) -> bool:
    """Tell if the first is a search whose best rates are all those of the second, on the same data and base models."""
    if not _searches(search):
        return False
    best = {
        (one.setting.spec.task.data_sha256, one.table.model.sha256, one.label): one.best.learning_rate
        for one in chosen_rates(search.comparison)
        if one.best is not None
    }
    used = [
        ((setting.spec.task.data_sha256, table.model.sha256, row.label), row.learning_rate)
        for setting in results.comparison.results
        for table in setting.tables
        for row in table.rows
    ]
    return all(rate is not None and best.get(key) == rate for key, rate in used)


@dataclass(frozen=True)
class _Fact:
    """A fact of a report: its value alone, and with words."""

    value: str
    said: str


def _facts(model: ReportModel, every: Sequence[ReportModel]) -> dict[str, _Fact]:
    """The facts in which reports on the same data may differ, by kind; a search has no seeds, rates or reference.

    Args:
        model: The report.
        every: All reports of the folder: a search among them may have chosen its rates.
    """
    comparison = model.comparison
    results = comparison.results
    trainings = [setting.spec.training for setting in results]
    tasks = listed(sorted({code(setting.spec.task.name) for setting in results}))
    models = listed(sorted({inert(table.model.shown, 60) for setting in results for table in setting.tables}))
    targets = sorted({setting.parameter_target for setting in results if setting.parameter_target is not None})
    amounts = listed([f"{amount:,}" for _, amount in targets]) if targets else "free"
    of = listed(sorted({axis.replace("_", " ") for axis, _ in targets})) if targets else "sizes"
    work = {(axis, getattr(one, axis)) for one in trainings for axis in AXES if getattr(one, axis) is not None}
    works = listed([amount_of(*one) for one in sorted(work)]) if work else "unknown"
    facts = {
        "tasks": _Fact(tasks, f"tasks {tasks}"),
        "models": _Fact(models, f"base models {models}"),
        "targets": _Fact(amounts, f"{amounts} {of}"),
        "work": _Fact(works, f"work {works}"),
    }
    if _searches(model):
        return facts
    seeds = max((row.score.n for setting in results for row in setting.rows if row.score is not None), default=0)
    given = untuned_tasks(comparison) and not any(_chose(other, model) for other in every)
    rates = "untuned" if given else "tuned"
    facts |= {"seeds": _Fact(str(seeds), plural(seeds, "seed")), "rates": _Fact(rates, f"{rates} rates")}
    if model.judged is not None:
        reference = code(model.seen.reference)
        facts["reference"] = _Fact(reference, f"compared with {reference}")
    return facts
