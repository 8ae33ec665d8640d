"""The learning rate that a search chooses for each method and base model, and the small table of them."""

from dataclasses import dataclass

from lora_bench.records.budget import AXES
from lora_bench.report.blocks import Block, wide_table
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting, conditions_of, model_key, rows_of
from lora_bench.report.model.rows import Row, canonical, grouped
from lora_bench.report.model.searches import best_rates
from lora_bench.report.sections.method_tables import metric_name, model_name, setting_name
from lora_bench.report.text import MISSING, code, learning_rate, listed, score

# A first screen has no room for a longer table; all scores are under Scores.
MOST_ROWS = 10


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The choice for a method on a base model, of a search or the last rung of a halving.

    *best* is None where rates tie or no run has a score; *end* is "smallest" or "largest" if it is the last rate tried, so that
    a better one may lie beyond.
    """

    setting: Setting
    table: ModelTable
    label: str
    rows: tuple[Row, ...]
    best: Row | None
    tied: bool
    end: str


def rungs_of_search(setting: Setting, comparison: Comparison) -> tuple[Setting, ...]:
    """Return the settings of the halving that a setting is a rung of, the first rung first; itself where it is of none."""
    if setting.rung is None:
        return (setting,)
    task, shared = setting.spec.task.name, _all_but_work(setting)
    of_task = (other for other in comparison.settings if other.rung is not None and other.spec.task.name == task)
    return tuple(sorted((other for other in of_task if _all_but_work(other) == shared), key=lambda one: one.rung or 0))


def searches(comparison: Comparison) -> list[Setting]:
    """Return the settings in which a method was run with several learning rates."""
    return [setting for setting in comparison.settings if setting.search]


def chosen_in(setting: Setting, comparison: Comparison) -> list[Chosen]:
    """Return the choices of a search; of a halving only its last rung has any."""
    rungs = rungs_of_search(setting, comparison)
    if setting is not rungs[-1]:
        return []
    # All rates of the first rung are those that were tried.
    begun = grouped(rows_of(rungs[:1]), lambda cell: (model_key(cell.table.model), cell.row.label))
    found = []
    for table in setting.tables:
        for label, rows in grouped(table.rows, lambda row: row.label).items():
            rates = best_rates(rows, setting)
            best = next((row for row in rows if (row.learning_rate,) == rates), None)
            every = [*rows, *(row for _, _, row in begun.get((model_key(table.model), label), []))]
            tried = {row.learning_rate for row in every if row.learning_rate is not None}
            ends = {min(tried): "smallest", max(tried): "largest"} if len(tried) > 1 else {}
            found.append(
                Chosen(
                    setting=setting,
                    table=table,
                    label=label,
                    rows=tuple(rows),
                    best=best,
                    tied=len(rates) > 1,
                    end=ends.get(best.learning_rate or 0.0, "") if best is not None else "",
                )
            )
    return found


def chosen_rates(comparison: Comparison) -> list[Chosen]:
    """Return the choices of all searches of a comparison."""
    return [one for setting in searches(comparison) for one in chosen_in(setting, comparison)]


def tried_rates(comparison: Comparison) -> list[Chosen]:
    """Return the choices that trials made for results, each once: an exempt method has one set of trials for all targets."""
    found = [one for one in chosen_rates(comparison) if one.setting.trials]
    return [*{frozenset(run_id for row in one.rows for run_id in row.run_ids): one for one in found}.values()]


def _all_but_work(setting: Setting) -> str:
    """Return the conditions that the rungs of a halving share: all but the amount of work and its number of steps."""
    of_work = {f"training.{part}" for part in (*AXES, "steps", "warmup_steps", "caps")}
    shared = conditions_of(setting.spec, setting.budget)
    return canonical({name: value for name, value in shared.items() if ".".join(name.split(".")[:2]) not in of_work})


def rates_table(comparison: Comparison) -> list[Block]:
    """Return the small table and a line that explains its numbers; empty where there are too many rows, or no search."""
    found = chosen_rates(comparison)
    settings = {id(one.setting) for one in found}
    labels = [*dict.fromkeys(one.label for one in found)]
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for one in found:
        names = [setting_name(one.setting, comparison)] if len(settings) > 1 else []
        cells.setdefault((*names, model_name(one.table)), {})[one.label] = _cell(one)
    if not 0 < len(cells) <= MOST_ROWS:
        return []
    names = [*(["search"] if len(settings) > 1 else []), "base model"]
    rows = [[*named, *(of.get(label, MISSING) for label in labels)] for named, of in cells.items()]
    metrics = dict.fromkeys(metric_name(setting) for setting in searches(comparison))
    splits = dict.fromkeys(setting.spec.score_on or "unknown" for setting in searches(comparison))
    note = f"Best learning rate; in brackets its mean {listed([*metrics])} on the {listed([*splits])} split."
    return [*wide_table([*names, *map(code, labels)], rows, len(names)), note]


def _cell(one: Chosen) -> str:
    if one.best is None or one.best.score is None:
        return "tie" if one.tied else MISSING
    said = f"{learning_rate(one.best.learning_rate)} ({score(one.best.score.mean)})"
    return f"{said}, {one.end} tried" if one.end else said
