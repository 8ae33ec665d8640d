"""Learning against forgetting: the score of each method beside what it lost of the base model's abilities."""

import math
from collections.abc import Iterator

from lora_bench.records.analysis import Analysis
from lora_bench.report import text
from lora_bench.report.blocks import Block, Figure, Heading, TextTable
from lora_bench.report.figures.plan import Form
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting
from lora_bench.report.model.rows import Row
from lora_bench.report.sections import method_tables as tables
from lora_bench.report.text import code
from lora_bench.stats import holm, paired_difference

MEASURES = {
    "loss": "loss on a text apart from the task, nats a token",
    "spearman": "Spearman's correlation on STS-B, without a head",
}

# More sentences would push the picture off the first screen.
MOST_KEPT = 2

_FILE = "forgetting-{}.svg"

_CAPTION = (
    "Score against what is lost of the base model: seeds (small points), their means and 95 % intervals in both directions. "
    "Better methods are at the top, gentler ones on the left; the dashed line is the base model's own level."
)


def forgetting_section(comparison: Comparison, folder: str, rules: Analysis | None = None) -> list[Block]:
    """Return the section, with comparisons to the reference of *rules*; empty where no run has a retention."""
    blocks: list[Block] = []
    for number, (setting, table, rows, measure) in enumerate(_parts(comparison), start=1):
        where = f"{tables.setting_name(setting, comparison)}, {tables.model_name(table)}"
        header = ["method", "score", "before", "after", "lost", "95 % interval", "seeds"]
        header += ["perplexity before", "after"] if measure == "loss" else []
        blocks += [Heading(3, f"Forgetting on {where}"), f"Measured by {MEASURES[measure]}."]
        blocks += [TextTable(header, [*map(_cells, rows)]), *_against(rows, rules)]
        blocks.append(Figure("Learning against forgetting", f"{folder}/{_FILE.format(number)}", _CAPTION))
    if not blocks:
        return []
    said = (
        "Each run was scored on data apart from its task before and after training, with the adapter on. *Lost* is the rise of "
        "a loss or the fall of a correlation, so 0 is a base model that kept all; below 0 it gained."
    )
    return [Heading(2, "Learning against forgetting"), said, *blocks]


def kept_of_base(comparison: Comparison) -> list[str]:
    """Return sentences for the first screen on what is left of each base model, where they are few; none without a retention.

    Each names its setting where there are several, such as two numbers of training rows of one base model.
    """
    parts = [*_parts(comparison)]
    if len(parts) > MOST_KEPT:
        return []
    names = [tables.setting_name(setting, comparison) for setting, *_ in parts]
    on = [f" on {name}" if len(set(names)) > 1 else "" for name in names]
    said = []
    for (_, table, rows, measure), where in zip(parts, on, strict=True):
        found = [(row.label, row.forgetting) for row in rows if row.forgetting is not None]
        found.sort(key=lambda one: one[1].lost.mean)
        _, first = found[0]
        before = "" if first.before is None else f"was {text.score(first.before)}, and "
        after = text.listed([f"{text.score(one.after.mean)} with {code(label)}" for label, one in found])
        said.append(
            f"**Kept of {tables.model_name(table)}{where}:** {MEASURES[measure]}, {before}after training is {after} "
            "([intervals](#learning-against-forgetting))."
        )
    return said


def forgetting_figures(comparison: Comparison, form: Form = "svg") -> dict[str, bytes]:
    """Return the figures of the section, by file name."""
    from lora_bench.report.figures.draw import styles
    from lora_bench.report.figures.heat_maps import draw_plane

    drawn = {}
    for number, (setting, table, rows, measure) in enumerate(_parts(comparison), start=1):
        drawn[_FILE.format(number)] = draw_plane(
            rows,
            styles(comparison),
            form,
            name=table.model.shown,
            below=f"lost: {'rise of the loss' if measure == 'loss' else 'fall of the correlation'}",
            side=f"{setting.spec.task.metric} on {setting.spec.task.name}",
            title=_CAPTION,
        )
    return drawn


def _parts(comparison: Comparison) -> Iterator[tuple[Setting, ModelTable, list[Row], str]]:
    """Yield the rows with a retention of each setting of results, and base model, and what it was measured by."""
    for setting in comparison.settings:
        for table in setting.tables:
            rows = [row for row in table.rows if row.forgetting is not None and row.score is not None]
            if rows:
                (measure,) = {row.forgetting.measure for row in rows if row.forgetting is not None}
                yield setting, table, rows, measure


def _cells(row: Row) -> list[str]:
    found = row.forgetting
    assert found is not None and row.score is not None
    perplexities = [None if loss is None else math.exp(loss) for loss in (found.before, found.after.mean)]
    return [
        code(row.label), text.score(row.score.mean), text.score(found.before), text.score(found.after.mean),
        text.difference(found.lost.mean), text.ends(found.lost.interval, text.difference), str(found.lost.n),
        *(map(text.rate, perplexities) if found.measure == "loss" else ()),
    ]  # fmt: skip


def _against(rows: list[Row], rules: Analysis | None) -> list[Block]:
    """Return a table of what each method lost more than the reference; empty without it or without a common seed."""
    label = None if rules is None else rules.reference
    base = next((row.forgetting for row in rows if row.label == label), None)
    if rules is None or base is None:
        return []
    found = [
        (row, paired_difference(row.forgetting.by_seed, base.by_seed, draw_seed=0))
        for row in rows
        if row.forgetting is not None
        and row.label != rules.reference
        and row.forgetting.by_seed.keys() & base.by_seed.keys()
    ]
    if not found:
        return []
    adjusted = holm([difference.estimate.p_value() for _, difference in found], rules.alpha)
    listed = [
        [
            code(row.label), text.difference(difference.estimate.value),
            text.ends(difference.estimate.interval(), text.difference), text.probability(p.p_value), str(difference.pairs),
        ]
        for (row, difference), p in zip(found, adjusted, strict=True)
    ]  # fmt: skip
    header = ["method", f"lost more than {code(rules.reference)}", "95 % interval", "p", "seeds"]
    said = (
        "Paired by seed. The interval, for this comparison alone, and *p*, after Holm's procedure over these rows, cover new "
        "seeds, not other data; no rule for them was declared before the runs."
    )
    return [TextTable(header, listed), said]
