"""Other reports on the same data: how sure each is, and in what it differs from this one, all from the records of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from lora_bench.records.budget import amount_of
from lora_bench.report.blocks import Block, Fold
from lora_bench.report.model.comparison import Comparison, rows_of, work_of
from lora_bench.report.model.report import Report
from lora_bench.report.sections.chosen_rates import chosen_rates
from lora_bench.report.sections.tuning import untuned_tasks
from lora_bench.report.text import code, inert, listed, plural

# With more reports than this, only what each says: their settings fill eight lines.
MOST_COMPARED = 3


def other_reports(report: Report) -> list[Block]:
    """Return a paragraph that names each report on the same data, and how it differs where they are few; empty without one.

    A run that stands in both is evidence once.
    """
    others = {name: other for name, other in report.beside.items() if other is not report and other.records}
    every = [report, *others.values()]
    mine, facts = _data(report.comparison), _facts(report, every)
    related = [(name, other) for name, other in sorted(others.items()) if mine & _data(other.comparison)]
    said = []
    for name, other in related:
        differing = [
            f"{fact.said} (here {facts[kind].value})" if kind in facts else fact.said
            for kind, fact in _facts(other, every).items()
            if len(related) <= MOST_COMPARED
            and facts.get(kind) != fact
            and not (kind == "rates" and _chose(report, other))
        ]
        shared = len({one.run_id for one in report.records} & {one.run_id for one in other.records})
        same = [f"has {shared} of the {plural(len(report.records), 'run')} here"] if shared else []
        said.append(f"[{code(name)}]({quote(name)}.md): {', '.join([_kind(report, other), *differing, *same])}")
    some = "some of " if any(mine - _data(other.comparison) for _, other in related) else ""
    if len(related) > MOST_COMPARED:
        return [Fold(f"{len(related)} other reports on {some}the same data", [f"{'; '.join(said)}."])]
    return [f"**On {some}the same data:** {'; '.join(said)}."] if said else []


def _data(comparison: Comparison) -> set[str]:
    return {setting.spec.task.data_sha256 for setting in comparison.settings if setting.spec.task.data_sha256}


_LEVELS = {
    "recommendation": "a recommendation",
    "indicative": "an indicative answer",
    "exploratory": "an exploratory answer",
    "partly": "no winner shown",
    "undecided": "nothing decided",
    None: "no ranking",
}


def _kind(mine: Report, other: Report) -> str:
    if _searches(other):
        return "the search that chose the rates of this page" if _chose(other, mine) else "a search for learning rates"
    taken, level = other.decision.taken, _LEVELS[other.decision.level]
    if taken is not None:
        level = f"takes {code(taken.label)}{', nothing shown' if other.decision.level == 'undecided' else ''}"
    if other.decision.level is not None:
        lost = [code(line.label) for line in other.overview.methods if line.all_shown(("worse",))]
        level += f", {listed(lost)} worse than {code(other.overview.reference)}" if lost else ""
    return f"{level} at the rates that this page chose" if _chose(mine, other) else level


def _searches(report: Report) -> bool:
    return all(setting.search for setting in report.comparison.results)


def _chose(search: Report, results: Report) -> bool:
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
        for setting, table, row in rows_of(results.comparison.results)
    ]
    return all(rate is not None and best.get(key) == rate for key, rate in used)


@dataclass(frozen=True)
class _Fact:
    """A fact of a report: its value alone, and with words."""

    value: str
    said: str


def _facts(report: Report, every: Sequence[Report]) -> dict[str, _Fact]:
    """Return the facts in which reports on the same data may differ, by kind; a search has no seeds, rates or reference.

    A search among *every* report of the folder may have chosen its rates.
    """
    comparison = report.comparison
    results = comparison.results
    tasks = listed(sorted({code(setting.spec.task.name) for setting in results}))
    models = listed(sorted({inert(table.model.shown, 60) for setting in results for table in setting.tables}))
    targets = sorted({setting.parameter_target for setting in results if setting.parameter_target is not None})
    amounts = listed([f"{amount:,}" for _, amount in targets]) if targets else "free"
    of = listed(sorted({axis.replace("_", " ") for axis, _ in targets})) if targets else "sizes"
    work = {found for setting in results if (found := work_of(setting.spec.training)) is not None}
    works = listed([amount_of(*one) for one in sorted(work)]) if work else "unknown"
    facts = {
        "tasks": _Fact(tasks, f"tasks {tasks}"),
        "models": _Fact(models, f"base models {models}"),
        "targets": _Fact(amounts, f"{amounts} {of}"),
        "work": _Fact(works, f"work {works}"),
    }
    if _searches(report):
        return facts
    seeds = max((row.score.n for setting in results for row in setting.rows if row.score is not None), default=0)
    given = untuned_tasks(comparison) and not any(_chose(other, report) for other in every)
    rates = "untuned" if given else "tuned"
    facts |= {"seeds": _Fact(str(seeds), plural(seeds, "seed")), "rates": _Fact(rates, f"{rates} rates")}
    if report.judged is not None:
        reference = code(report.overview.reference)
        facts["reference"] = _Fact(reference, f"compared with {reference}")
    return facts
