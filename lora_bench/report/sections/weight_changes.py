"""The section of a report on changes of weights in training, from `analysis.json`.

Numbers are medians over layers and runs; heat maps are means.
"""

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Sequence

from lora_bench.records.weight_analysis import ModelChanges, Overlap, RunChanges, WeightAnalysis, WeightChange
from lora_bench.report import text
from lora_bench.report.blocks import Block, Figure, Fold, Heading, SectionAnswer, TextTable, wide_table
from lora_bench.report.figures.plan import Form, HeatMap
from lora_bench.report.model.rows import grouped
from lora_bench.report.text import code, inert, listed, plural

# Cosine below which a direction of the trained weight is an intruder; the first is the one in sentences.
THRESHOLDS = (0.5, 0.3, 0.7)

_OF = {"A": "A", "delta": "ΔW"}

_NORMS = "‖ΔW‖ as a percentage of ‖W‖, by layer and part: means over runs."


def weight_section(analysis: WeightAnalysis, folder: str, records: Collection[str]) -> list[Block]:
    """Return the section; *folder* has the figures, and *records* are the ids of the report's."""
    runs = len(analysis.run_ids)
    blocks: list[Block] = [
        Heading(2, "Weight changes"),
        SectionAnswer(weight_answer(analysis)),
        f"ΔW is what a run changed in a weight W of a layer; r is the number of its directions: its rank, at most 64. From "
        f"the kept weights of {plural(runs, 'run')}; numbers are medians over layers and runs.",
    ]
    if others := len(analysis.run_ids.difference(records)):
        are = "is" if others == 1 else "are"
        blocks.append(f"{plural(others, 'run')} of these {are} not among the report's records.")
    if analysis.left_out:
        said = [f"{code(label)} ({inert(reason)})" for label, reason in sorted(analysis.left_out.items())]
        blocks.append(f"Left out, having no ΔW: {listed(said)}.")
    for number, model in enumerate(analysis.models, start=1):
        blocks += [Heading(3, f"Weights of {inert(model.model, 60)}, {inert(model.task, 60)}"), *_norms(model)]
        blocks += [_figure(folder, number, "norms", _NORMS), *_intruders(model)]
        if model.overlaps:
            maps = [
                _figure(folder, number, f"overlap-{place}", _overlap_caption(overlaps))
                for place, overlaps in enumerate(_by_pair(model.overlaps), start=1)
            ]
            blocks += [*_overlaps(model), Fold("Heat maps of subspace similarity", maps)]
    return blocks


def weight_figures(analysis: WeightAnalysis, form: Form = "svg") -> dict[str, bytes]:
    """Return the heat maps of the section, by file name."""
    from lora_bench.report.figures.heat_maps import draw_heat_maps

    drawn = {}
    for number, model in enumerate(analysis.models, start=1):
        maps = [_norm_map(group, runs) for group, runs in _by_group(model).items()]
        most = max((value for one in maps for row in one.values for value in row if value is not None), default=1.0)
        drawn[_file(number, "norms")] = draw_heat_maps(
            maps, form, title=_NORMS, side="layer", below="", most=max(most, 1e-9), digits=1 if most >= 10 else 2
        )
        for place, overlaps in enumerate(_by_pair(model.overlaps), start=1):
            drawn[_file(number, f"overlap-{place}")] = draw_heat_maps(
                _overlap_maps(overlaps),
                form,
                title=text.unmarked(_overlap_caption(overlaps)),
                side=f"first i directions of {text.plain(overlaps[0].first, 40)}",
                below=f"first j directions of {text.plain(overlaps[0].second, 40)}",
                most=1.0,
                digits=2,
            )
    return drawn


def weight_answer(analysis: WeightAnalysis) -> str:
    """Return how much weights changed, and what runs of different seeds share, in a sentence each."""
    groups = grouped((run for model in analysis.models for run in model.runs), lambda run: run.group)
    medians = sorted((statistics.median(_shares(runs)), group) for group, runs in groups.items())
    (least, first), (most, last) = medians[0], medians[-1]
    said = f"{code(first)} changed weights by {_percent(least)} of their norm."
    if first != last:
        span = f"{_percent(least)} ({code(first)}) to {_percent(most)} ({code(last)})"
        said = f"Methods changed weights by {span} of their norm."
    every = [overlap for model in analysis.models for overlap in model.overlaps]
    overlaps = [overlap for overlap in every if overlap.of == "delta" and overlap.seeds == "different"]
    if not overlaps:
        return said
    first = _span(overlap.similarity[0][0] for overlap in overlaps)
    of_all = _span(overlap.similarity[-1][-1] for overlap in overlaps)
    random = [_span(1 / overlap.width for overlap in overlaps), _span(overlap.random for overlap in overlaps)]
    return (
        f"{said} Runs of different seeds share {first} of the first direction of ΔW and {of_all} of all "
        f"(random ones: {' and '.join(random)})."
    )


def _span(shares: Iterable[float]) -> str:
    return text.span(shares, lambda share: f"{share:.3f}")


def _by_group(model: ModelChanges) -> dict[str, list[RunChanges]]:
    groups = grouped(model.runs, lambda run: run.group)
    return dict(sorted(groups.items(), key=lambda item: text.natural(item[0])))


def _parts(runs: Iterable[RunChanges]) -> list[str]:
    return list(dict.fromkeys(change.part for run in runs for change in run.changes))


def _shares(runs: Iterable[RunChanges]) -> list[float]:
    return [change.delta_norm / change.weight_norm for run in runs for change in run.changes]


def _norms(model: ModelChanges) -> list[Block]:
    header = ["method", "part", "runs", *(name for name, _ in _NORM_COLUMNS)]
    rows = []
    for group, runs in _by_group(model).items():
        for part in _parts(runs):
            changes = [change for run in runs for change in run.changes if change.part == part]
            name = part.replace("_", " ")
            rows.append([code(group), name, str(len(runs)), *(of(changes) for _, of in _NORM_COLUMNS)])
    return [
        "**Norms and amplification**",
        *wide_table(header, rows, names=2),
        "Stable rank is ‖ΔW‖² over its largest squared singular value. U and V are the first r singular vectors of ΔW, of W, "
        "or random ones, so that ‖UᵀWV‖ says how much of W lies in them. Amplification is ‖ΔW‖ / ‖UᵀWV‖ along ΔW; *of random* "
        "is what a change of this norm has in random directions. Far above that, training strengthened directions that W has "
        "little of.",
    ]


def _median(of: Callable[[WeightChange], float], *, moved: bool = False) -> Callable[[Sequence[WeightChange]], str]:
    """Return the median over changes, of those alone that have directions if *moved*."""

    def shown(changes: Sequence[WeightChange]) -> str:
        values = [of(change) for change in changes if change.directions or not moved]
        return f"{statistics.median(values):.3g}" if values else text.MISSING

    return shown


def _along_random(change: WeightChange) -> float:
    """Return the expected ‖UᵀWV‖ (root mean square) over r random directions."""
    outputs, inputs = change.shape
    return change.weight_norm * change.directions / math.sqrt(outputs * inputs)


_NORM_COLUMNS: tuple[tuple[str, Callable[[Sequence[WeightChange]], str]], ...] = (
    ("r", lambda changes: f"{statistics.median(change.directions for change in changes):g}"),
    ("‖W‖", _median(lambda change: change.weight_norm)),
    ("‖ΔW‖", _median(lambda change: change.delta_norm)),
    ("‖ΔW‖ / ‖W‖", lambda changes: _percent(statistics.median(one.delta_norm / one.weight_norm for one in changes))),
    ("stable rank", _median(lambda change: (change.delta_norm / change.delta_spectral_norm) ** 2, moved=True)),
    ("‖UᵀWV‖ along ΔW", _median(lambda change: change.along_delta, moved=True)),
    ("along W", _median(lambda change: change.along_weight, moved=True)),
    ("along random", _median(_along_random, moved=True)),
    ("amplification", _median(lambda change: change.delta_norm / change.along_delta, moved=True)),
    ("of random", _median(lambda change: change.delta_norm / _along_random(change), moved=True)),
)


def _intruders(model: ModelChanges) -> list[Block]:
    header = ["method", "weights", "vectors", *(f"below {threshold}" for threshold in THRESHOLDS), "smallest cosine"]
    rows = []
    for group, runs in _by_group(model).items():
        found = [change.similarities for run in runs for change in run.changes]
        values = [value for own in found for value in own]
        counts = [text.count(sum(value < threshold for value in values)) for threshold in THRESHOLDS]
        rows.append([code(group), text.count(len(found)), text.count(len(values)), *counts, f"{min(values):.2f}"])
    return [
        "**Intruder dimensions**",
        TextTable(header, rows),
        "Of the first 10 left singular vectors of each trained weight W + ΔW, those whose cosine with every one of W is below "
        f"a threshold; {THRESHOLDS[0]} is the usual one.",
    ]


def _overlaps(model: ModelChanges) -> list[Block]:
    header = ["compared", "seeds", "part", "of", "φ, first", "random", "first in all", "random", "φ, all", "random"]
    rows = []
    for overlap in (one for overlaps in _by_pair(model.overlaps) for one in overlaps):
        first, in_all, every = overlap.similarity[0][0], overlap.similarity[0][-1], overlap.similarity[-1][-1]
        shares = (first, 1 / overlap.width, in_all, overlap.columns[-1] / overlap.width, every, overlap.random)
        seeds = overlap.seeds if overlap.seeds == "different" else f"{overlap.seeds}\\*"
        named = [_pair(overlap), seeds, overlap.part.replace("_", " "), _OF[overlap.of]]
        rows.append([*named, *(f"{share:.3f}" for share in shares)])
    blocks: list[Block] = [
        "**Subspace similarity**",
        TextTable(header, rows, numbers_from=4),
        "φ(i, j) is the share of the smaller subspace that lies in the larger, over the first i and j right singular vectors "
        "of A or of ΔW: 1 if one contains the other. *First in all*: the first direction of the first in all of the second. "
        "Random: what random Gaussian matrices of these shapes have on average.",
    ]
    if any(overlap.seeds == "same" for overlap in model.overlaps):
        blocks.append(
            "\\* Runs of one seed may share random numbers of their first A, so a part of their φ can be the draw. Pairs of "
            "different seeds show what training found."
        )
    return blocks


def _pair(overlap: Overlap) -> str:
    return " and ".join(dict.fromkeys(map(code, (overlap.first, overlap.second))))


def _norm_map(group: str, runs: Sequence[RunChanges]) -> HeatMap:
    parts = _parts(runs)
    layers = sorted({change.layer for run in runs for change in run.changes})
    changes = grouped((change for run in runs for change in run.changes), lambda change: (change.layer, change.part))
    found = {
        place: statistics.fmean(100 * change.delta_norm / change.weight_norm for change in of_place)
        for place, of_place in changes.items()
    }
    values = [[found.get((layer, part)) for part in parts] for layer in layers]
    return HeatMap(group, [*map(str, layers)], [part.replace("_", "\n") for part in parts], values)


def _by_pair(overlaps: Sequence[Overlap]) -> list[list[Overlap]]:
    """Return the overlaps of each pair of groups, which share a figure."""
    found = grouped(overlaps, lambda overlap: (overlap.first, overlap.second, overlap.seeds))
    return [found[pair] for pair in sorted(found, key=lambda pair: [*map(text.natural, pair)])]


def _overlap_caption(overlaps: Sequence[Overlap]) -> str:
    one = overlaps[0]
    seeds = f"{plural(one.pairs, 'pair')} of runs with {'the same seed' if one.seeds == 'same' else 'different seeds'}"
    return (
        f"φ(i, j) of {_pair(one)}, a mean over layers and {seeds}; last panel: random Gaussian matrices of the first panel's "
        "shape, on average."
    )


def _overlap_maps(overlaps: Sequence[Overlap]) -> list[HeatMap]:
    """Return a map of each overlap, and one of what random directions share with those of the first."""
    first = overlaps[0]
    random = [[max(i, j) / first.width for j in first.columns] for i in first.rows]
    named = [(f"{_OF[one.of]}, {one.part.replace('_', ' ')}", one, one.similarity) for one in overlaps]
    return [
        HeatMap(title, [*map(str, one.rows)], [*map(str, one.columns)], values)
        for title, one, values in (*named, ("random", first, random))
    ]


def _figure(folder: str, number: int, kind: str, caption: str) -> Figure:
    alt = "Change of weights by layer" if kind == "norms" else "Subspace similarity"
    return Figure(alt, f"{folder}/{_file(number, kind)}", caption)


def _file(number: int, kind: str) -> str:
    return f"weights-{number}-{kind}.svg"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
