"""Other reports on the same data: what each says, and how many runs it shares with this one, from the records of both."""

from urllib.parse import quote

from lora_bench.report.blocks import Block, Fold
from lora_bench.report.model.comparison import Comparison, rows_of
from lora_bench.report.model.report import Report
from lora_bench.report.sections.chosen_rates import chosen_rates
from lora_bench.report.text import code, listed, plural

# More reports are folded away.
MOST_SHOWN = 3


def other_reports(report: Report) -> list[Block]:
    """Return a paragraph with what each report on the same data says; empty without one.

    A run that stands in both is evidence once.
    """
    mine = _data(report.comparison)
    related = {
        name: other
        for name, other in sorted(report.beside.items())
        if other is not report and other.records and mine & _data(other.comparison)
    }
    said = []
    for name, other in related.items():
        shared = len({one.run_id for one in report.records} & {one.run_id for one in other.records})
        same = f", has {shared} of the {plural(len(report.records), 'run')} here" if shared else ""
        said.append(f"[{code(name)}]({quote(name)}.md): {_kind(report, other)}{same}")
    some = "some of " if any(mine - _data(other.comparison) for other in related.values()) else ""
    if len(related) > MOST_SHOWN:
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
