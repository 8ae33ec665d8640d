"""Other reports on the same data: what each says, and how many runs it shares with this one, from the records of both."""

from urllib.parse import quote

from lora_bench.report.blocks import Block, Fold
from lora_bench.report.model.comparison import Comparison
from lora_bench.report.model.report import Report
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
        said.append(f"[{code(name)}]({quote(name)}.md): {_kind(other)}{same}")
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


def _kind(other: Report) -> str:
    if all(setting.search for setting in other.comparison.results):
        return "a search for learning rates"
    taken, level = other.decision.taken, _LEVELS[other.decision.level]
    if taken is not None:
        level = f"takes {code(taken.label)}{', nothing shown' if other.decision.level == 'undecided' else ''}"
    if other.decision.level is None:
        return level
    lost = [code(line.label) for line in other.overview.methods if line.all_shown(("worse",))]
    return f"{level}, {listed(lost)} worse than {code(other.overview.reference)}" if lost else level
