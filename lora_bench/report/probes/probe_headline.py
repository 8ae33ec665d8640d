"""The headline of a report of probes alone: the cost of each method beside the reference, and its limits."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_bench.records.probe_record import ProbeRecord
from lora_bench.report.blocks import Block, Lead, TextTable
from lora_bench.report.model.overview import PEAK
from lora_bench.report.model.rows import grouped
from lora_bench.report.probes.cells import STEP, Probed, Value, comparable, device_name, noise_floor, probed_cells
from lora_bench.report.text import code, inert, listed, plain, span

STORED = "checkpoint.stored_bytes"

# A first screen has no room for more rows; all are below.
MOST_ROWS = 10

Pairs = dict[str, list[tuple[Probed, Probed]]]

# The end of a shape's name.
_RANDOM = " (random weights)"


@dataclass(frozen=True, kw_only=True)
class ProbeHeadline:
    """The first words of a report of probes, as inline text, the reference's label, and each method beside it.

    Without a second method on a base model there are no pairs, and *strength* is "".
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
        models = {frozenset(cell.spec.model.shown for cell, _ in found) for found in self.pairs.values()}
        apart = " Methods measured on different base models are not ranked among each other."
        beside = f"Each beside {self.label} on the same base model; a file has the head too, where there is one."
        blocks: list[Block] = [
            Lead(self.lead),
            f"{costs} [How it was measured](#what-each-method-costs).",
            self._table(),
            f"{beside}{apart if len(models) > 1 else ''}",
        ]
        if commands:
            how = "[what each method costs](#what-each-method-costs)"
            shown = plain(commands[0])
            # Nothing in it may end the code.
            inside = not set(shown) & set("`|<>&$@#\\") and "://" not in shown
            blocks.append(f"**Next:** {how}, or measure again: {f'`{shown}`' if inside else inert(commands[0])}.")
        return blocks

    def _table(self) -> TextTable:
        by_model = {(name, model): of for name, found in self.pairs.items() for model, of in _by_model(found).items()}
        if len(by_model) > MOST_ROWS:
            by_model = {(name, listed([*_by_model(found)])): found for name, found in self.pairs.items()}
        header = ["method", "base model", f"training time, × {self.label}", f"peak memory, × {self.label}"]
        rows = [
            [_method(of[0][0]), model, _span(of, STEP), _span(of, PEAK), _span(of, STORED, inverse=True)]
            for (_, model), of in by_model.items()
        ]
        return TextTable([*header, "file, times smaller"], rows, numbers_from=2)


def headline_of_probes(records: Sequence[ProbeRecord]) -> ProbeHeadline:
    """Return the headline of a report of probes alone."""
    cells = probed_cells(records)
    pairs = _pairs(comparable(cells))
    if not pairs:
        lead = "Nothing can be compared: no base model has both the reference and another method measured."
        return ProbeHeadline(lead=lead, strength="", label="", pairs=pairs)
    every = [pair for of_method in pairs.values() for pair in of_method]
    label = code(every[0][1].spec.method.label)
    who = code(next(iter(pairs))) if len(pairs) == 1 else f"each of the {len(pairs)} other methods"
    floor = noise_floor(cells)
    told = "no difference of times can be told from noise"
    if floor is not None:
        told = f"a difference of times below {100 * floor:.1f} % may be noise"
    return ProbeHeadline(
        lead=f"Compared with {label}, {who} {_limits(every)}.",
        strength=f"Strength: **measured**; {told}. Range: {_conditions(cells)}.",
        label=label,
        pairs=pairs,
    )


def _conditions(cells: Sequence[Probed]) -> str:
    measured = [cell for cell in cells if cell.records]
    devices = sorted({device_name(record) for cell in measured for record in cell.records})
    names = [*dict.fromkeys(inert(cell.spec.model.shown, 60) for cell in measured)]
    if len(names) > 1 and all(name.endswith(_RANDOM) for name in names):
        models = f"{listed([name.removesuffix(_RANDOM) for name in names])}, all with random weights"
    else:
        models = listed(names)
    batches = dict.fromkeys(f"{cell.spec.batch_size} × {cell.spec.length} tokens" for cell in measured)
    precisions = dict.fromkeys(cell.spec.shown_precision for cell in measured)
    return f"{models}; steps of {listed([*batches])} in {listed([*precisions])} on {listed(devices)}"


def _method(cell: Probed) -> str:
    """Return the label of a method with its size, and its name where the label is another."""
    method = cell.spec.method
    facts = [code(method.name)] if method.label != method.name else []
    if method.size is not None:
        facts.append(f"{inert(method.size.replace('_', ' '))} {inert(str(method.options.get(method.size)))}")
    return f"{code(method.label)} ({', '.join(facts)})" if facts else code(method.label)


def _limits(pairs: Sequence[tuple[Probed, Probed]]) -> str:
    """Return the highest costs of any method, one number for each kind of cost."""
    needs = [
        f"at most {_figures(max(ratios))} of the {noun}"
        for value, noun in ((STEP, "training time"), (PEAK, "peak memory"))
        if (ratios := _ratios(pairs, value))
    ]
    said = [f"needs {listed(needs)}"] if needs else []
    if files := _ratios(pairs, STORED):
        smaller = f"at least {_figures(1 / max(files))} times smaller"
        said.append(f"its file is {smaller if max(files) <= 1 else f'up to {_figures(max(files))} times as large'}")
    return "; ".join(said) or "was measured"


def _ratios(pairs: Sequence[tuple[Probed, Probed]], value: Value) -> list[float]:
    known = [(cell.value(value), reference.value(value)) for cell, reference in pairs]
    return sorted(own / other for own, other in known if own and other)


def _by_model(pairs: Sequence[tuple[Probed, Probed]]) -> Pairs:
    return grouped(pairs, lambda pair: inert(pair[0].spec.model.shown, 60))


def _pairs(groups: Sequence[Sequence[Probed]]) -> Pairs:
    """Return each method beside the reference of its group, by label."""
    pairs = []
    for group in groups:
        measured = [cell for cell in group if cell.records]
        reference = next((cell for cell in measured if cell.is_reference), None)
        if reference is not None:
            pairs += [(cell, reference) for cell in measured if cell is not reference]
    return grouped(pairs, lambda pair: pair[0].spec.method.label)


def _span(pairs: Sequence[tuple[Probed, Probed]], value: Value, *, inverse: bool = False) -> str:
    """The smallest and the largest multiple of the reference's, such as "0.54 to 0.60", or of the method's if *inverse*."""
    found = _ratios(pairs, value)
    return span([1 / ratio for ratio in found] if inverse else found, _figures)


def _figures(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"
