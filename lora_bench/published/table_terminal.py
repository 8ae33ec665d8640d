"""Published tables on a terminal: the list of tables, the cells of one, and the choices of its suite."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lora_bench.methods import known_methods
from lora_bench.plan.make_plan import Plan
from lora_bench.published import PublishedTable, disagreements, known_tables, load_table
from lora_bench.published.printed_orders import printed_orders
from lora_bench.published.table_section import disagreement_text, orders_blocks, published_statistic, published_value
from lora_bench.report import text
from lora_bench.report.blocks import TextList
from lora_bench.report.text import MISSING, plain


def tables_listing() -> Table:
    """Every published table by name, if none has a fault: title, size, if it can be repeated, and which tables disagree."""
    every = [load_table(name) for name in sorted(known_tables(), key=text.natural)]
    table = Table(
        "table", "what it shows", "cells", "models", "tasks", "can be repeated", "orders shown",
        caption=Text(plain(_pairs(every), 600)), caption_justify="left", box=SIMPLE_HEAD,
    )  # fmt: skip
    for found in every:
        models, tasks = (", ".join(names) for names in (map(_short, found.models), found.tasks))
        orders = printed_orders(found)
        shown = f"{orders.supported} of {orders.judged}" if orders.judged else "none can be judged"
        cells = (found.name, found.title, str(len(found.cells)), models, tasks, _repeatable(found), shown)
        table.add_row(*(Text(plain(cell)) for cell in cells))
    return table


def cells_listing(found: PublishedTable) -> Table:
    """Every cell of a table, with the source of its number; below, the numbers that other tables print differently."""
    elsewhere = [disagreement_text(one) for one in disagreements(found)]
    table = Table(
        "base model", "row", "task", "score", "published", "statistic", "copied from", "repeated by",
        title=Text(plain(found.title)), caption=Text("\n".join(plain(line, 600) for line in (found.source, *elsewhere))),
        title_justify="left", caption_justify="left", box=SIMPLE_HEAD,
    )  # fmt: skip
    for cell in found.cells:
        how = cell.method or ("the cells it is over" if cell.derived else f"nothing: {cell.no_run}")
        parts = [_short(cell.model), cell.row, cell.task, cell.score, published_value(cell), published_statistic(cell)]
        table.add_row(*(Text(plain(part) or MISSING) for part in (*parts, cell.copied or "", how)))
    return table


def orders_listing(found: PublishedTable) -> list[Text]:
    """The card of a table: which of its orders its printed spreads support."""
    blocks = orders_blocks(found)
    parts = [part for block in blocks for part in (block.items if isinstance(block, TextList) else [block])]
    return [Text(text.unmarked(str(part))) for part in parts]


def choices_listing(found: PublishedTable, plan: Plan) -> list[Text]:
    """The options of each planned method, and what the sources leave out of the recipes, which the suite then chooses."""
    cells = [*plan.cells, *(cell for waiting in plan.waiting for cell in waiting.cells)]
    methods = {cell.job.spec.method.model_dump_json(): cell.job.spec.method for cell in cells}
    lines = []
    for planned in methods.values():
        method = known_methods()[planned.name](**planned.options)
        alpha = {"alpha": f"{method.alpha:g}"} if hasattr(method, "alpha") else {}
        name = planned.label if planned.label == planned.name else f"{planned.label} ({planned.name})"
        lines.append(f"{name}: {', '.join(_options({**planned.options, **alpha})) or 'no options'}")
    places = dict.fromkeys((cell.job.spec.method.label, cell.job.spec.task.name) for cell in cells)
    rows: dict[tuple[str, str], dict[str, None]] = {}
    for label, task in places:
        own = [cell for cell in found.cells if (cell.method, cell.task) == (label, task)]
        fields = ", ".join(dict.fromkeys(field.replace("_", " ") for cell in own for field in cell.unpublished))
        if fields:
            rows.setdefault((fields, task), {})[label] = None
    said = [
        f"{', '.join(labels)} on {task}: the source does not say {fields}" for (fields, task), labels in rows.items()
    ]
    return [Text(plain(line, 600)) for line in (*lines, *said)]


def _options(options: Mapping[str, Any]) -> list[str]:
    """The options by which a method does something, each with its value."""
    return [
        f"{name.replace('_', ' ')} {_value(value)}"
        for name, value in options.items()
        if value not in (None, "", (), [], {}) and value is not False
    ]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"({', '.join(_options(value))})"
    return " and ".join(map(_value, value)) if isinstance(value, (list, tuple)) else str(value)


def _pairs(tables: Sequence[PublishedTable]) -> str:
    """Name the pairs of tables that print different numbers for one row; empty if there are none."""
    counts = Counter(
        (first.name, one.table) for first in tables for one in disagreements(first, tables) if first.name < one.table
    )
    said = [f"{first} and {second} ({text.plural(count, 'number')})" for (first, second), count in counts.items()]
    return f"Different numbers for one row: {', '.join(said)}." if said else ""


def _repeatable(found: PublishedTable) -> str:
    if found.no_suite is not None:
        return f"no: {found.no_suite}"
    without = sum(cell.no_run is not None and not cell.derived for cell in found.cells)
    return "yes" if not without else f"all but {text.plural(without, 'cell')}"


def _short(model: str) -> str:
    return model.rsplit("/", 1)[-1]
