"""The learning rate that a search chooses for each method and base model, and the small table of them."""

from __future__ import annotations

from dataclasses import dataclass

from lora_bench.report import text
from lora_bench.report.blocks import Block, wide_table
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting
from lora_bench.report.model.rows import Row
from lora_bench.report.sections.method_tables import best_rates, metric_name, model_name, setting_name
from lora_bench.report.sections.tuning import edges, rungs_of_search, searches
from lora_bench.report.text import MISSING, code, learning_rate

# A first screen has no room for a longer table; all scores are under Scores.
MOST_ROWS = 10


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The choice for a method on a base model.

    Args:
        setting: The search, or the last rung of a halving.
        label: Label of the method.
        best: Row of the best rate; None where rates tie or no run has a score.
        tied: Whether several rates have the best score.
        end: "smallest" or "largest" if the best rate is the last one tried; "" otherwise.
    """

    setting: Setting
    table: ModelTable
    label: str
    best: Row | None
    tied: bool
    end: str


def chosen_rates(comparison: Comparison) -> list[Chosen]:
    """Return the choices of all searches of a comparison."""
    found = []
    for setting in searches(comparison):
        rungs = rungs_of_search(setting, comparison)
        if setting is not rungs[-1]:
            continue
        ends = {id(edge.row): edge.end for edge in edges(setting, rungs)}
        for table in setting.tables:
            for label in dict.fromkeys(row.label for row in table.rows):
                rows = [row for row in table.rows if row.label == label]
                rates = best_rates(rows, setting.spec.task.higher_is_better)
                best = next((row for row in rows if [row.learning_rate] == rates), None)
                found.append(
                    Chosen(
                        setting=setting,
                        table=table,
                        label=label,
                        best=best,
                        tied=len(rates) > 1,
                        end=ends.get(id(best), ""),
                    )
                )
    return found


def rate_rows(comparison: Comparison) -> list[list[str]]:
    """Return the header and the rows of the small table, as cells of Markdown; empty where there are too many rows."""
    found = chosen_rates(comparison)
    settings = {id(one.setting) for one in found}
    labels = [*dict.fromkeys(one.label for one in found)]
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for one in found:
        names = [setting_name(one.setting, comparison)] if len(settings) > 1 else []
        cells.setdefault((*names, model_name(one.table)), {})[one.label] = _cell(one)
    if not 0 < len(cells) <= MOST_ROWS:
        return []
    header = [*(["search"] if len(settings) > 1 else []), "base model", *(code(label) for label in labels)]
    return [header, *([*names, *(of.get(label, MISSING) for label in labels)] for names, of in cells.items())]


def _cell(one: Chosen) -> str:
    if one.best is None or one.best.score is None:
        return "tie" if one.tied else MISSING
    said = f"{learning_rate(one.best.learning_rate)} ({text.score(one.best.score.mean)})"
    return f"{said}, {one.end} tried" if one.end else said


def rates_note(comparison: Comparison) -> str:
    """Return one line that explains the numbers of the table."""
    metrics = dict.fromkeys(metric_name(setting) for setting in searches(comparison))
    splits = dict.fromkeys(setting.spec.score_on or "unknown" for setting in searches(comparison))
    return f"Best learning rate; in brackets its mean {text.listed([*metrics])} on the {text.listed([*splits])} split."


def rates_table(comparison: Comparison) -> list[Block]:
    """Return the small table; empty where there are too many rows, or no search."""
    rows = rate_rows(comparison)
    if not rows:
        return []
    names = len(rows[0]) - len({one.label for one in chosen_rates(comparison)})
    return [*wide_table(rows[0], rows[1:], names), rates_note(comparison)]
