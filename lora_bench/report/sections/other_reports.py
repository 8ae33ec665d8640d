"""Other reports on the same data, and how many runs each shares with this one, from the records of both."""

from urllib.parse import quote

from lora_bench.report.blocks import Block, Fold
from lora_bench.report.model.comparison import Comparison
from lora_bench.report.model.report import Report
from lora_bench.report.text import code, plural

# More reports are folded away.
MOST_SHOWN = 3


def other_reports(report: Report) -> list[Block]:
    """Return a paragraph with the reports on the same data; empty without one.

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
        same = f" ({shared} of the {plural(len(report.records), 'run')} here)" if shared else ""
        said.append(f"[{code(name)}]({quote(name)}.md){same}")
    some = "some of " if any(mine - _data(other.comparison) for other in related.values()) else ""
    if len(related) > MOST_SHOWN:
        return [Fold(f"{len(related)} other reports on {some}the same data", [f"{'; '.join(said)}."])]
    return [f"**On {some}the same data:** {'; '.join(said)}."] if said else []


def _data(comparison: Comparison) -> set[str]:
    return {setting.spec.task.data_sha256 for setting in comparison.settings if setting.spec.task.data_sha256}
