"""The headline of a report of probes alone: the cost of each method beside the reference, and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lora_bench.report import text
from lora_bench.report.blocks import Block, Lead, TextTable
from lora_bench.report.model.overview import PEAK
from lora_bench.report.model.rows import grouped
from lora_bench.report.probes.cells import REFERENCE, STEP, Probed, Value, noise_floor
from lora_bench.report.text import code

STORED = "checkpoint.stored_bytes"


# A first screen has no room for more rows; all are below.
MOST_ROWS = 10

Pairs = dict[str, list[tuple[Probed, Probed]]]


@dataclass(frozen=True, kw_only=True)
class ProbeHeadline:
    """The first words of a report of probes, as inline text.

    Args:
        lead: The answer.
        strength: How sure it is and what it is about; "" where nothing can be compared.
        label: The reference, as a reader should see it.
        pairs: Each method beside the reference, by label.
    """

    lead: str
    strength: str
    label: str
    pairs: Pairs

    def blocks(self, commands: Sequence[str]) -> list[Block]:
        """Return the headline, a small table, and the next step."""
        if not self.pairs:
            return [Lead(self.lead)]
        costs = f"These are costs: nothing here says which method scores better. {self.strength}"
        beside = f"Each beside {self.label} on the same base model; a file has the head too, where there is one."
        blocks: list[Block] = [
            Lead(self.lead),
            f"{costs} [How it was measured](#what-each-method-costs).",
            self._table(),
            f"{beside}{_apart(self.pairs)}",
        ]
        if commands:
            how = "[what each method costs](#what-each-method-costs)"
            blocks.append(f"**Next:** {how}, or measure again: {code_command(commands[0])}.")
        return blocks

    def _table(self) -> TextTable:
        by_model = {(name, model): of for name, found in self.pairs.items() for model, of in _by_model(found).items()}
        rows = [(name, model, of) for (name, model), of in by_model.items()]
        if len(rows) > MOST_ROWS:
            rows = [(name, text.listed([*_by_model(found)]), found) for name, found in self.pairs.items()]
        label = self.label
        return TextTable(
            ["method", "base model", f"training time, × {label}", f"peak memory, × {label}", "file, times smaller"],
            [
                [_method(of[0][0]), model, *(_span(of, value) for value in (STEP, PEAK)),
                 _span(of, STORED, inverse=True)]
                for name, model, of in rows
            ],
            numbers_from=2,
        )  # fmt: skip


def probe_headline(cells: Sequence[Probed], groups: Sequence[Sequence[Probed]], conditions: str) -> ProbeHeadline:
    """Return the headline of cells, also by base model and shape, that were measured under *conditions*."""
    pairs = _pairs(groups)
    if not pairs:
        lead = "Nothing can be compared: no base model has both the reference and another method measured."
        return ProbeHeadline(lead=lead, strength="", label="", pairs=pairs)
    every = [pair for of_method in pairs.values() for pair in of_method]
    label = code(every[0][1].spec.method.label)
    who = code(next(iter(pairs))) if len(pairs) == 1 else f"each of the {len(pairs)} other methods"
    floor = noise_floor(cells)
    told = (
        "no difference of times can be told from noise"
        if floor is None
        else f"a difference of times below {100 * floor:.1f} % may be noise"
    )
    return ProbeHeadline(
        lead=f"Compared with {label}, {who} {_limits(every)}.",
        strength=f"Strength: **measured**; {told}. Range: {conditions}.",
        label=label,
        pairs=pairs,
    )


def _method(cell: Probed) -> str:
    """Return the label of a method with its size, and its name where the label is another."""
    method = cell.spec.method
    facts = [code(method.name)] if method.label != method.name else []
    if method.size is not None:
        facts.append(f"{text.inert(method.size.replace('_', ' '))} {text.inert(str(method.options.get(method.size)))}")
    return f"{code(method.label)} ({', '.join(facts)})" if facts else code(method.label)


def _limits(pairs: Sequence[tuple[Probed, Probed]]) -> str:
    """Return the highest costs of any method, one number for each kind of cost."""
    needs = [
        f"at most {_figures(max(ratios))} of the {noun}"
        for value, noun in ((STEP, "training time"), (PEAK, "peak memory"))
        if (ratios := _ratios(pairs, value))
    ]
    said = [f"needs {text.listed(needs)}"] if needs else []
    if files := _ratios(pairs, STORED):
        least = 1 / max(files)
        size = (
            f"at least {_figures(least)} times smaller"
            if least >= 1
            else f"up to {_figures(max(files))} times as large"
        )
        said.append(f"its file is {size}")
    return "; ".join(said) or "was measured"


def _ratios(pairs: Sequence[tuple[Probed, Probed]], value: Value) -> list[float]:
    known = [(cell.value(value), reference.value(value)) for cell, reference in pairs]
    return sorted(own / other for own, other in known if own and other)


def _by_model(pairs: Sequence[tuple[Probed, Probed]]) -> Pairs:
    return grouped(pairs, lambda pair: text.inert(pair[0].spec.model.shown, 60))


def _apart(pairs: Pairs) -> str:
    """Return a note that methods measured on other base models are not ranked."""
    on = {frozenset(cell.spec.model.shown for cell, _ in found) for found in pairs.values()}
    return " Methods measured on different base models are not ranked among each other." if len(on) > 1 else ""


def code_command(command: str) -> str:
    """Return a command as code, if nothing in it could end the code."""
    shown = text.plain(command)
    return f"`{shown}`" if not set(shown) & set("`|<>&$@#\\") and "://" not in shown else text.inert(command)


def _pairs(groups: Sequence[Sequence[Probed]]) -> Pairs:
    """Return each method beside the reference of its group, by label."""
    pairs = []
    for group in groups:
        measured = [cell for cell in group if cell.records]
        reference = next((cell for cell in measured if cell.spec.method.name == REFERENCE), None)
        if reference is not None:
            pairs += [(cell, reference) for cell in measured if cell is not reference]
    return grouped(pairs, lambda pair: pair[0].spec.method.label)


def _span(pairs: Sequence[tuple[Probed, Probed]], value: Value, *, inverse: bool = False) -> str:
    """The smallest and the largest multiple of the reference's, such as "0.54 to 0.60", or of the method's if *inverse*."""
    found = _ratios(pairs, value)
    return text.span([1 / ratio for ratio in found] if inverse else found, _figures)


def _figures(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"
